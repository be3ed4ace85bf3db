"""Deleting what audits may use: it is refused while they do, with their ids."""

from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.errors import ConflictError
from service.principal import Principal
from service.scoping import owned
from service.store.tables import Audit

NAMED = 3
"""How many audits the problem names, newest first."""


def delete_unused(session: Session, principal: Principal, row: Any, *, kind: str, used: ColumnElement[bool]) -> None:
    """Delete a row unless audits use it.

    Args:
        session: An open transaction; the deletion has a savepoint of its own.
        principal: Who is asking.
        row: The dataset, probe or model, read in this session.
        kind: What the row is called in the error.
        used: The condition under which an audit uses the row.

    Raises:
        ConflictError: `{kind}_in_use`: an audit uses the row.
    """
    try:
        with session.begin_nested():
            session.delete(row)
    except IntegrityError:
        newest = select(Audit.id).where(owned(Audit, principal), used).order_by(Audit.id.desc()).limit(NAMED + 1)
        found = list(session.scalars(newest))
        names = ", ".join(found[:NAMED]) + (" and more" if len(found) > NAMED else "")
        if not found:  # deleted meanwhile
            raise ConflictError(f"{kind}_in_use", f"An audit used this {kind} until just now. Try again.") from None
        detail = (
            f"Audits use this {kind}: {names}. Delete them first (DELETE /v1/audits/{{audit_id}}); their results "
            "would lose their meaning without it."
        )
        raise ConflictError(f"{kind}_in_use", detail) from None
