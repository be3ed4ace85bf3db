"""Forms of saved views: save the list that a page shows, rename it, delete it; then back to the page."""

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Response
from pydantic import ValidationError

from service.findings.saved_views import actions
from service.findings.saved_views.schemas import SavedViewCreate, SavedViewUpdate
from service.http.auth.authentication import RequireScope
from service.http.dependencies import SessionDep
from service.http.fields import PathId
from service.http.problems.problem import Problem
from service.principal import Principal
from service.web.forms import FormDep, see_other
from service.web.page_route import PageRoute

router = APIRouter(route_class=PageRoute)

Writer = Annotated[Principal, Depends(RequireScope("verdicts:write"))]


@router.post("/views")
def save(principal: Writer, session: SessionDep, form: FormDep) -> Response:
    """Save the list that was shown under a name."""
    try:
        body = SavedViewCreate(name=form.get("name", "").strip(), query=form.get("query", ""))
    except ValidationError as error:
        raise _no_name(error) from error
    actions.create(session, principal, body)
    return see_other(_way_back(form))


@router.post("/views/{view_id}/rename")
def rename(view_id: PathId, principal: Writer, session: SessionDep, form: FormDep) -> Response:
    """Give a saved view another name."""
    try:
        body = SavedViewUpdate(name=form.get("name", "").strip())
    except ValidationError as error:
        raise _no_name(error) from error
    actions.update(session, principal, view_id, body)
    return see_other(_way_back(form))


@router.post("/views/{view_id}/delete")
def delete(view_id: PathId, principal: Writer, session: SessionDep, form: FormDep) -> Response:
    """Delete a saved view."""
    actions.delete(session, principal, view_id)
    return see_other(_way_back(form))


def _no_name(error: ValidationError) -> Problem:
    return Problem(422, "invalid_request", f"This view cannot be saved so: {error.errors()[0]['msg']}.")


def _way_back(form: dict[str, str]) -> str:
    """Find where a form's page was: only findings of an audit, since anybody may write a form."""
    to = urlsplit(form.get("back", ""))
    parts = to.path.split("/")
    ours = not to.scheme and not to.netloc and len(parts) == 4 and (parts[1], parts[3]) == ("audits", "findings")
    return (f"{to.path}?{to.query}" if to.query else to.path) if ours else "/audits"
