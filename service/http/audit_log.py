"""Recording changes in the audit log, in the transaction that makes them: who did what to which thing, from where."""

from typing import Literal, Protocol

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from service.http.middleware.request_ids import client_address, request_id
from service.store.ids import new_id
from service.store.tables import ApiKey, AuditLogEntry, User

Action = Literal[
    "audit.cancel",
    "audit.create",
    "audit.delete",
    "audit.expire",
    "audit.retry",
    "dataset.create",
    "dataset.delete",
    "dataset.expire",
    "export.cancel",
    "export.create",
    "export.delete",
    "export.expire",
    "key.create",
    "key.revoke",
    "key.rotate",
    "member.add",
    "member.change",
    "member.remove",
    "model.create",
    "model.delete",
    "model.import",
    "probe.create",
    "probe.delete",
    "recordings.expire",
    "session.create",
    "session.end",
    "session.end_others",
    "session.switch",
    "user.disable",
    "user.enable",
    "upload.create",
    "upload.delete",
    "verdict.bulk",
    "verdict.bulk_undo",
    "verdict.set",
    "verdict.withdraw",
    "view.create",
    "view.delete",
    "view.update",
    "workspace.change",
    "workspace.create",
    "workspace.delete",
    "workspace.deleted",
]


class Actor(Protocol):
    """The one who makes a change: a principal, a browser that signs in or out, or a person who signs in."""

    @property
    def workspace_id(self) -> str:
        """The actor's workspace."""
        ...

    @property
    def key_id(self) -> str | None:
        """The key that it acts by; None for a person."""
        ...

    @property
    def user_id(self) -> str | None:
        """The person who acts; None for a key."""
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
    key_name = select(ApiKey.name).where(ApiKey.id == actor.key_id).scalar_subquery()
    user_name = select(User.shown_name).where(User.id == actor.user_id).scalar_subquery()
    session.execute(
        insert(AuditLogEntry).values(
            id=new_id("log"),
            workspace_id=workspace_id or actor.workspace_id,
            key_id=actor.key_id,
            key_name=key_name,
            user_id=actor.user_id,
            user_name=user_name,
            action=action,
            object_id=object_id,
            count=count,
            client=client_address.get(),
            request_id=request_id.get(),
        )
    )
