"""Copies a folder with a base model into the object store, and registers it in one workspace."""

import hashlib
import json
from datetime import timedelta
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import ColumnElement, and_, delete, func, insert, or_, select, update
from sqlalchemy.orm import Session, sessionmaker

from service.contract.model_files import CONFIG_FILE, ModelFilesError, check_model_folder, weight_files
from service.contract.spec import ModelSource
from service.contract.stored_models import StoredFile, StoredModel
from service.lifecycle.purging import LATE_SECONDS, purge_pending
from service.models.schemas import ModelName
from service.store.ids import new_id
from service.store.objects import ObjectStore, model_key, model_prefix
from service.store.tables import AuditLogEntry, Model, ObjectPurge, Workspace

DESCRIPTION = (".json", ".jinja", ".txt", ".model", ".spm", ".tiktoken")
"""Ends of names of the files that describe a model and its tokenizer. Programs, pickles and pictures stay behind."""

COPY_BYTES = 1 << 20
"""Read at a time: a file of weights may be larger than the memory."""

_AN_HOUR = timedelta(seconds=LATE_SECONDS)
"""The last look at files that are to be deleted, which `purge_pending` knows by this span."""

_NAME: TypeAdapter[str] = TypeAdapter(ModelName)


class ImportRefusedError(Exception):
    """The model cannot be imported; the message says why, and what to do."""


def import_model(
    sessions: sessionmaker[Session], objects: ObjectStore, *, workspace: str, name: str, folder: Path
) -> Model:
    """Copy a folder with a base model into the object store, and register the model in a workspace.

    What is copied by an import that is broken off is deleted an hour later.

    Args:
        sessions: Of the installation's database.
        objects: The installation's object store.
        workspace: Id or name of the workspace whose audits may train the model.
        name: What audits call the model.
        folder: Holds config.json, tokenizer and safetensors weights.

    Returns:
        The registered model.

    Raises:
        ImportRefusedError: The folder is no model that may be loaded, or it, the name or the workspace is refused.
        ObjectStoreUnavailableError: The object store does not answer.
        OperationalError: The database is away.
        OSError: A file cannot be read.
    """
    try:
        _NAME.validate_python(name)
    except ValidationError:
        raise ImportRefusedError(
            f"a model's name has lower-case letters, digits, dots and dashes, and not {name!r}"
        ) from None
    model_id = new_id("mdl")
    with sessions.begin() as session:
        workspace_id = _workspace(session, workspace).id
        _refuse_taken(session, workspace_id, name)
    stored = describe(folder)
    prefix = model_prefix(workspace_id, model_id)
    with sessions.begin() as session:
        later = func.now() + _AN_HOUR
        session.execute(insert(ObjectPurge).values(prefix=prefix, workspace_id=workspace_id, due_at=later))
    for file in stored.files:
        _copy(objects, folder / file.name, file, model_key(workspace_id, model_id, file.sha256))
        with sessions.begin() as session:
            _put_off(session, prefix)
    with sessions.begin() as session:
        _workspace(session, workspace_id)
        _refuse_taken(session, workspace_id, name)
        _keep(session, prefix)
        model = Model(
            id=model_id,
            workspace_id=workspace_id,
            name=name,
            # Versions before this one know no other word for it, and look for a folder that no worker has.
            source=ModelSource.LOCAL,
            location=f"stored:{name}",
            revision=stored.digest,
            stored=stored.model_dump(mode="json"),
        )
        session.add(model)
        session.flush()
        session.refresh(model)
        session.execute(
            insert(AuditLogEntry).values(
                id=new_id("log"), workspace_id=workspace_id, action="model.import", object_id=model_id
            )
        )
    return model


def describe(folder: Path) -> StoredModel:
    """Check a folder, and read which of its files are the model, with their hashes.

    Args:
        folder: Holds a model as Transformers saves it.

    Raises:
        ImportRefusedError: It is no model that may be loaded.
        OSError: It cannot be read.
    """
    try:
        check_model_folder(folder)
        weights = weight_files(folder)
    except ModelFilesError as error:
        raise ImportRefusedError(f"{error.failure.message} {error.failure.hint}") from None
    described = sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix in DESCRIPTION)
    files = []
    for name in (*described, *weights):
        with (folder / name).open("rb") as source:
            sha256 = hashlib.file_digest(source, "sha256").hexdigest()
            size = source.tell()
        try:
            files.append(StoredFile(name=name, bytes=size, sha256=sha256))
        except ValidationError:
            raise ImportRefusedError(
                f"the folder holds {name!r}: rename it to letters, digits, dots and dashes, or take it away"
            ) from None
    return StoredModel(files=tuple(files), config=json.loads((folder / CONFIG_FILE).read_bytes()))


def _copy(objects: ObjectStore, path: Path, file: StoredFile, key: str) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as source, objects.create(key) as target:
        while part := source.read(COPY_BYTES):
            digest.update(part)
            target.write(part)
        if digest.hexdigest() != file.sha256:
            raise ImportRefusedError(f"{file.name} changed while it was copied; import the model again")


def _workspace(session: Session, id_or_name: str) -> Workspace:
    """Find a workspace, and lock it as whoever deletes it does."""
    named = or_(Workspace.id == id_or_name, Workspace.name == id_or_name)
    workspace = session.scalars(select(Workspace).where(named).with_for_update(key_share=True)).one_or_none()
    if workspace is None or workspace.deletion_requested_at is not None:
        raise ImportRefusedError(f"there is no workspace {id_or_name!r}: `finetooth workspaces` lists them")
    return workspace


def _refuse_taken(session: Session, workspace_id: str, name: str) -> None:
    taken = select(Model.id).where(Model.workspace_id == workspace_id, Model.name == name)
    if session.scalar(taken) is not None:
        raise ImportRefusedError(f"the workspace has a model named {name!r} already; choose another name")


def _put_off(session: Session, prefix: str) -> None:
    """Have the copied files deleted an hour from now, unless the import goes on."""
    later = {"created_at": func.now(), "due_at": func.now() + _AN_HOUR}
    if session.scalar(update(ObjectPurge).where(_waits(prefix)).values(later).returning(ObjectPurge.prefix)) is None:
        raise ImportRefusedError("one file took more than an hour to copy; import the model again")


def _keep(session: Session, prefix: str) -> None:
    """Take back that the files are to be deleted."""
    if session.scalar(delete(ObjectPurge).where(_waits(prefix)).returning(ObjectPurge.prefix)) is None:
        raise ImportRefusedError("one file took more than an hour to copy; import the model again")


def _waits(prefix: str) -> ColumnElement[bool]:
    """The condition that the deletion of the files has not begun."""
    return and_(ObjectPurge.prefix == prefix, ObjectPurge.due_at > func.now(), ~purge_pending())
