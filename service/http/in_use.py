"""Deleting what audits may stand on: it is refused, with the names of those audits."""

from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.http.auth.principal import Principal
from service.http.auth.scoping import owned
from service.http.problems.problem import Problem
from service.store.tables import Audit

NAMED = 3
"""Audits named in the problem, the newest first."""


def delete_unused(session: Session, principal: Principal, row: Any, *, kind: str, used: ColumnElement[bool]) -> None:
    """Deletes the row of a dataset, probe or model. `used` says which audits stand on it.

    Raises Problem 409 `{kind}_in_use`.
    """
    try:
        with session.begin_nested():
            session.delete(row)
    except IntegrityError:
        newest = select(Audit.id).where(owned(Audit, principal), used).order_by(Audit.id.desc()).limit(NAMED + 1)
        found = list(session.scalars(newest))
        names = ", ".join(found[:NAMED]) + (" and more" if len(found) > NAMED else "")
        if not found:  # deleted meanwhile
            raise Problem(409, f"{kind}_in_use", f"An audit stood on this {kind} until just now. Try again.") from None
        detail = (
            f"Audits stand on this {kind}: {names}. Delete them first (DELETE /v1/audits/{{audit_id}}); their results "
            "would lose their meaning without it."
        )
        raise Problem(409, f"{kind}_in_use", detail) from None
