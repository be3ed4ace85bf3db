"""What users do with the workspace's saved views: save, rename, change and delete them."""

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.errors import ConflictError
from service.findings.list_address import read_query
from service.findings.saved_views.queries import find_view, render_view
from service.findings.saved_views.schemas import SavedView, SavedViewCreate, SavedViewUpdate
from service.http.audit_log import record
from service.http.quotas import check_saved_views
from service.principal import Principal
from service.store.ids import new_id
from service.store.verdict_tables import SavedView as SavedViewTable


def create(session: Session, principal: Principal, body: SavedViewCreate) -> SavedView:
    """Save a list of findings under a name.

    Args:
        session: An open transaction.
        principal: Who is asking.
        body: The name and the list.

    Returns:
        The saved view, as the API shows it.

    Raises:
        InvalidError: `invalid_request`: the query does not describe a list.
        ConflictError: `view_name_taken` or `view_quota`.
    """
    query = _normal(body.query)
    check_saved_views(session, principal.workspace_id)
    view = session.scalars(
        insert(SavedViewTable)
        .values(
            id=new_id("view"),
            workspace_id=principal.workspace_id,
            name=body.name,
            query=query,
            key_id=principal.key_id,
            user_id=principal.user_id,
        )
        .on_conflict_do_nothing(index_elements=["workspace_id", "name"])
        .returning(SavedViewTable)
    ).one_or_none()
    if view is None:
        raise _taken(body.name)
    record(session, principal, "view.create", view.id)
    return render_view(view)


def update(session: Session, principal: Principal, view_id: str, body: SavedViewUpdate) -> SavedView:
    """Rename a saved view, or save another list under its name.

    Args:
        session: An open transaction.
        principal: Who is asking.
        view_id: The view.
        body: What to change.

    Returns:
        The changed view, as the API shows it.

    Raises:
        NotFoundError: `view_not_found`.
        InvalidError: `invalid_request`: the query does not describe a list.
        ConflictError: `view_name_taken`.
    """
    view = find_view(session, principal, view_id)
    name = view.name if body.name is None else body.name
    query = view.query if body.query is None else _normal(body.query)
    if (view.name, view.query) != (name, query):
        try:
            with session.begin_nested():
                view.name, view.query = name, query
        except IntegrityError as error:
            raise _taken(name) from error
        record(session, principal, "view.update", view.id)
    return render_view(view)


def delete(session: Session, principal: Principal, view_id: str) -> None:
    """Delete a saved view. The findings do not change.

    Args:
        session: An open transaction.
        principal: Who is asking.
        view_id: The view.

    Raises:
        NotFoundError: `view_not_found`.
    """
    session.delete(find_view(session, principal, view_id))
    record(session, principal, "view.delete", view_id)


def _normal(query: str) -> str:
    """Return the query in its normal form, without empty fields and without `?`."""
    return read_query(query).query().removeprefix("?")


def _taken(name: str) -> ConflictError:
    return ConflictError("view_name_taken", f"There is a saved view named {name} already. Choose another name.")
