"""Reads saved views."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from service.findings.saved_views.schemas import SavedView
from service.principal import Principal
from service.scoping import get_scoped, scoped
from service.store.newest_first import newest_first
from service.store.verdict_tables import SavedView as SavedViewTable


def find_view(session: Session, principal: Principal, view_id: str) -> SavedViewTable:
    """Return one saved view.

    Args:
        session: An open transaction.
        principal: Who is asking.
        view_id: The view.

    Raises:
        NotFoundError: `view_not_found`.
    """
    return get_scoped(session, SavedViewTable, principal, view_id, kind="view")


def list_views(session: Session, principal: Principal, *, after: str | None, limit: int) -> Sequence[SavedViewTable]:
    """Return the workspace's saved views, the newest first.

    Args:
        session: An open transaction.
        principal: Who is asking.
        after: Id of the last view of the page before; None for the first page.
        limit: The most views to return.
    """
    query = newest_first(scoped(SavedViewTable, principal), SavedViewTable.id, after=after, limit=limit)
    return session.scalars(query).all()


def views_by_name(session: Session, principal: Principal) -> list[SavedViewTable]:
    """Return all saved views of the workspace, by name.

    Args:
        session: An open transaction.
        principal: Who is asking.
    """
    return list(session.scalars(scoped(SavedViewTable, principal).order_by(SavedViewTable.name)))


def render_view(view: SavedViewTable) -> SavedView:
    """Return a saved view as the API shows it."""
    return SavedView.model_validate(view, from_attributes=True)
