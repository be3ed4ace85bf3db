"""Who sees which rows: the one place that builds a query for a principal."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, cast

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import Session
from sqlalchemy.orm.interfaces import ORMOption

from service.http.auth.principal import Principal
from service.http.problems.problem import Problem
from service.store.tables import Workspace


class Owned(Protocol):
    """A table of which every row belongs to a workspace."""

    id: Any
    workspace_id: Any


R = TypeVar("R", bound=Owned)


def owned(table: type[Owned], principal: Principal) -> ColumnElement[bool]:
    """The condition that a row belongs to the principal's workspace."""
    return cast(ColumnElement[bool], table.workspace_id == principal.workspace_id)


def scoped(table: type[R], principal: Principal) -> Select[R]:
    """Selects the rows of the principal's workspace, and no other's."""
    return select(table).where(owned(table, principal))


def visible_workspaces(principal: Principal) -> Select[Workspace]:
    """Selects the principal's own workspace; all of them for an admin of the installation."""
    if principal.administers_installation:
        return select(Workspace)
    return select(Workspace).where(Workspace.id == principal.workspace_id)


def get_scoped(
    session: Session, table: type[R], principal: Principal, id: str, *, kind: str, options: Sequence[ORMOption] = ()
) -> R:
    """The row of that id, read with `options`.

    Raises Problem 404 `{kind}_not_found` for one that is missing or another workspace's.
    """
    row = session.scalars(scoped(table, principal).where(table.id == id).options(*options)).one_or_none()
    if row is None:
        raise not_found(kind)
    return row


def not_found(kind: str, status: int = 404, pointer: str | None = None) -> Problem:
    """`{kind}_not_found`; with status 422 and a pointer where the id stands in a body."""
    errors = [] if pointer is None else [{"pointer": pointer, "detail": f"no such {kind}"}]
    return Problem(
        status, f"{kind}_not_found", f"There is no {kind} of this id. Check the id and the key.", errors=errors
    )
