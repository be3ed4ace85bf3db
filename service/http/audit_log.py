"""What changes something says so here, in its own transaction: who did what to which thing, and from where."""

from typing import Literal, Protocol

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from service.http.middleware.request_ids import client_address, request_id
from service.store.ids import new_id
from service.store.tables import ApiKey, AuditLogEntry

Action = Literal[
    "audit.cancel",
    "audit.create",
    "audit.delete",
    "audit.retry",
    "dataset.create",
    "dataset.delete",
    "export.cancel",
    "export.create",
    "export.delete",
    "key.create",
    "key.revoke",
    "key.rotate",
    "model.create",
    "model.delete",
    "probe.create",
    "probe.delete",
    "session.create",
    "session.end",
    "session.end_others",
    "upload.create",
    "upload.delete",
    "verdict.bulk",
    "verdict.set",
    "verdict.withdraw",
    "workspace.create",
]


class Actor(Protocol):
    """Who does it: a principal, or the browser that signs in or out."""

    @property
    def workspace_id(self) -> str:
        """The actor's workspace."""
        ...

    @property
    def key_id(self) -> str:
        """The key that it acts by."""
        ...


def record(
    session: Session,
    actor: Actor,
    action: Action,
    object_id: str | None,
    *,
    count: int | None = None,
    workspace_id: str | None = None,
) -> None:
    """Add an entry to the audit log.

    Args:
        session: The transaction that makes the change.
        actor: Who makes it.
        action: What is done.
        object_id: The id of what is changed; never a text of a sample, nor a secret.
        count: How many things are changed, where it is about several at once.
        workspace_id: Where the change is made; None: in the actor's own workspace.
    """
    name = select(ApiKey.name).where(ApiKey.id == actor.key_id).scalar_subquery()
    session.execute(
        insert(AuditLogEntry).values(
            id=new_id("log"),
            workspace_id=workspace_id or actor.workspace_id,
            key_id=actor.key_id,
            key_name=name,
            action=action,
            object_id=object_id,
            count=count,
            client=client_address.get(),
            request_id=request_id.get(),
        )
    )
