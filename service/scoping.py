"""Which rows a principal sees: the one place that builds a query for it."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, cast

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import Session
from sqlalchemy.orm.interfaces import ORMOption

from service.errors import NotFoundError
from service.principal import Principal
from service.store.tables import Workspace


class Owned(Protocol):
    """A table of which every row belongs to a workspace."""

    id: Any
    workspace_id: Any


R = TypeVar("R", bound=Owned)


def owned(table: type[Owned], principal: Principal) -> ColumnElement[bool]:
    """Return the condition that a row belongs to the principal's workspace.

    Args:
        table: The table that the statement is about.
        principal: Who asks.
    """
    return cast(ColumnElement[bool], table.workspace_id == principal.workspace_id)


def scoped(table: type[R], principal: Principal) -> Select[R]:
    """Select the rows of the principal's workspace, and no other's.

    Args:
        table: The table that is selected.
        principal: Who asks.
    """
    return select(table).where(owned(table, principal))


def visible_workspaces(principal: Principal) -> Select[Workspace]:
    """Select the principal's own workspace; all of them for an admin of the installation."""
    if principal.administers_installation:
        return select(Workspace)
    return select(Workspace).where(Workspace.id == principal.workspace_id)


def get_scoped(
    session: Session, table: type[R], principal: Principal, id: str, *, kind: str, options: Sequence[ORMOption] = ()
) -> R:
    """Read one row of the principal's workspace.

    Args:
        session: An open transaction.
        table: Where the row is.
        principal: Who is asking.
        id: The row's id.
        kind: What the row is called in the error.
        options: How the row is loaded.

    Raises:
        NotFoundError: There is no such row, or another workspace has it.
    """
    row = session.scalars(scoped(table, principal).where(table.id == id).options(*options)).one_or_none()
    if row is None:
        raise NotFoundError(kind)
    return row
