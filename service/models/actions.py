"""What users do with base models: register them and remove them from the register."""

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.contract.spec import ModelSource
from service.errors import ConflictError
from service.http.audit_log import record
from service.http.in_use import delete_unused
from service.lifecycle.purging import purge_objects
from service.models.admission import check_model
from service.models.queries import find_model
from service.models.schemas import Model, ModelCreate, render_model
from service.principal import Principal
from service.store.ids import new_id
from service.store.objects import model_prefix
from service.store.tables import Audit
from service.store.tables import Model as ModelTable


def create(session: Session, principal: Principal, body: ModelCreate) -> Model:
    """Register a base model.

    Args:
        session: An open transaction.
        principal: Who is asking.
        body: The model.

    Returns:
        The registered model, as the API shows it.

    Raises:
        ForbiddenError: `installation_admin_only`, for a folder of the server.
        InvalidError: `model_invalid`, `model_folder_invalid` or `model_unsafe`, as `check_model` raises them.
        ConflictError: `model_name_taken`.
    """
    if body.source == ModelSource.LOCAL:
        principal.require_installation_admin()
    check_model(body.source, body.location, body.revision)
    model = session.scalars(
        insert(ModelTable)
        .values(id=new_id("mdl"), workspace_id=principal.workspace_id, **body.model_dump())
        .on_conflict_do_nothing(index_elements=["workspace_id", "name"])
        .returning(ModelTable)
    ).one_or_none()
    if model is None:
        raise ConflictError("model_name_taken", f"There is a model named {body.name} already. Choose another name.")
    record(session, principal, "model.create", model.id)
    return render_model(model)


def delete(session: Session, principal: Principal, id_or_name: str) -> None:
    """Remove a model that no audit uses from the register. Weights in the object store are deleted, and no others.

    Args:
        session: An open transaction.
        principal: Who is asking.
        id_or_name: The model's id or its name.

    Raises:
        NotFoundError: `model_not_found`.
        ConflictError: `model_in_use`.
    """
    model = find_model(session, principal, id_or_name)
    model_id, stored = model.id, model.stored
    delete_unused(session, principal, model, kind="model", used=Audit.model_id == model.id)
    if stored is not None:
        purge_objects(session, principal.workspace_id, model_prefix(principal.workspace_id, model_id))
    record(session, principal, "model.delete", model_id)
