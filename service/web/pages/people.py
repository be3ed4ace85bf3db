"""The page of a workspace's people, for admins, and the forms on it."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ValidationError

from service.errors import InvalidError
from service.http.auth.authentication import RequireScope
from service.http.dependencies import SessionDep
from service.http.fields import PathId
from service.http.pagination import PageDep
from service.people import actions
from service.people.queries import list_users
from service.people.schemas import RoleChange, UserAdd, render_user
from service.principal import Principal
from service.roles import ROLES
from service.web.forms import FormDep, see_other
from service.web.page_route import PageRoute
from service.web.pages.page import answer_list

router = APIRouter(route_class=PageRoute)

Admin = Annotated[Principal, Depends(RequireScope("admin"))]


@router.get("/people")
def people(request: Request, principal: Admin, session: SessionDep, page: PageDep) -> Response:
    """Show who has which role, the newest first, and the form for somebody new."""
    found = list_users(session, principal, after=page.after, limit=page.limit + 1)
    listed = page.page(found, key=lambda row: row[0].id, render=render_user)
    return answer_list(
        request,
        "people",
        principal,
        listed,
        roles=list(ROLES),
        own=principal.user_id,
        may_disable=principal.administers_installation,
    )


@router.post("/people")
def add(principal: Admin, session: SessionDep, form: FormDep) -> Response:
    """Give somebody a role, and go back to the list."""
    try:
        body = UserAdd.model_validate({"email": form.get("email", ""), "role": form.get("role", "")})
    except ValidationError:
        raise InvalidError(
            "invalid_request", "Type a whole e-mail address, such as ada@example.org, and choose a role."
        ) from None
    actions.add(session, principal, body)
    return see_other("/people")


@router.post("/people/{user_id}/role")
def change_role(user_id: PathId, principal: Admin, session: SessionDep, form: FormDep) -> Response:
    """Give a person another role, and go back to the list."""
    try:
        role = RoleChange.model_validate({"role": form.get("role", "")}).role
    except ValidationError:
        raise InvalidError("invalid_request", "Choose one of the roles that the page offers.") from None
    actions.change_role(session, principal, user_id, role)
    return see_other("/people")


@router.post("/people/{user_id}/remove")
def remove(user_id: PathId, principal: Admin, session: SessionDep) -> Response:
    """Take a person's role, and go back to the list."""
    actions.remove(session, principal, user_id)
    return see_other("/people")


@router.post("/people/{user_id}/disable")
def disable(user_id: PathId, principal: Admin, session: SessionDep) -> Response:
    """Shut a person out, and go back to the list."""
    actions.disable(session, principal, user_id)
    return see_other("/people")


@router.post("/people/{user_id}/enable")
def enable(user_id: PathId, principal: Admin, session: SessionDep) -> Response:
    """Let a person in again, and go back to the list."""
    actions.enable(session, principal, user_id)
    return see_other("/people")
