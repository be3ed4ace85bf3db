"""The account page: who the reader is, what they may do, and the workspace in which they work."""

from fastapi import APIRouter, Request, Response

from service.http.auth.authentication import COOKIE
from service.http.auth.key_format import digest
from service.http.dependencies import SessionDep
from service.people import actions
from service.people.queries import own_workspaces
from service.web.forms import FormDep, see_other
from service.web.page_route import PageRoute
from service.web.pages.page import Reader, answer_page

router = APIRouter(route_class=PageRoute)


@router.get("/account")
def account(principal: Reader, session: SessionDep) -> Response:
    """Show the person's workspaces; of a key, what it may do."""
    workspaces = [] if principal.user_id is None else own_workspaces(session, principal.user_id)
    return answer_page(
        "account.html",
        "account",
        principal,
        working_in=principal.workspace_id,
        scopes=sorted(principal.scopes),
        workspaces=[{"id": workspace.id, "name": workspace.name, "role": role} for workspace, role in workspaces],
    )


@router.post("/account/workspace")
def switch(request: Request, principal: Reader, session: SessionDep, form: FormDep) -> Response:
    """Work in another workspace from now on, and go to its dashboard."""
    cookie = request.cookies.get(COOKIE)
    actions.switch_workspace(
        session, principal, form.get("workspace", ""), cookie_sha256=digest(cookie) if cookie else None
    )
    return see_other("/")
