"""/v1/users: the workspace's people and their roles, for admins."""

from typing import Annotated

from fastapi import Depends, Response

from service.http.auth.authentication import RequireScope
from service.http.dependencies import SessionDep
from service.http.fields import PathId
from service.http.idempotency import IDEMPOTENT
from service.http.pagination import Page, PageDep
from service.http.routing import declared_problems, resource_router
from service.people import actions
from service.people.queries import find_user, list_users
from service.people.schemas import RoleChange, User, UserAdd, render_user
from service.principal import Principal

router = resource_router("users")
Admin = Annotated[Principal, Depends(RequireScope("admin"))]


@router.post(
    "",
    status_code=201,
    operation_id="add_user",
    dependencies=[IDEMPOTENT],
    responses=declared_problems(403, 409, "user_is_member"),
)
def add(body: UserAdd, principal: Admin, session: SessionDep, response: Response) -> User:
    """Gives somebody a role in the workspace by their e-mail. Who has not signed in yet gets it when they do."""
    user = actions.add(session, principal, body)
    response.headers["Location"] = f"/v1/users/{user.id}"
    return user


@router.get("", operation_id="list_users", responses=declared_problems(403))
def list_all(principal: Admin, session: SessionDep, page: PageDep) -> Page[User]:
    """The workspace's people, newest first; for an admin of the installation everybody who has ever signed in."""
    found = list_users(session, principal, after=page.after, limit=page.limit + 1)
    return page.page(found, key=lambda row: row[0].id, render=render_user)


@router.get("/{user_id}", operation_id="get_user", responses=declared_problems(403, 404))
def get(user_id: PathId, principal: Admin, session: SessionDep) -> User:
    """One person."""
    return render_user(find_user(session, principal, user_id))


@router.patch("/{user_id}", operation_id="change_user", responses=declared_problems(403, 404, 409, "own_role"))
def change(user_id: PathId, body: RoleChange, principal: Admin, session: SessionDep) -> User:
    """Changes a person's role in the workspace. Their browsers have it within a second."""
    return actions.change_role(session, principal, user_id, body.role)


@router.delete(
    "/{user_id}", status_code=204, operation_id="remove_user", responses=declared_problems(403, 404, 409, "own_role")
)
def remove(user_id: PathId, principal: Admin, session: SessionDep) -> None:
    """Takes a person's role in the workspace and signs their browsers out of it.

    A role that their groups give comes back with their next sign-in.
    """
    actions.remove(session, principal, user_id)


@router.post(
    "/{user_id}/disable",
    operation_id="disable_user",
    responses=declared_problems(403, 404, 409, "installation_admin_only", "own_role"),
)
def disable(user_id: PathId, principal: Admin, session: SessionDep) -> User:
    """Shuts a person out of all workspaces and signs their browsers out, for an admin of the installation."""
    return actions.disable(session, principal, user_id)


@router.post(
    "/{user_id}/enable", operation_id="enable_user", responses=declared_problems(403, 404, "installation_admin_only")
)
def enable(user_id: PathId, principal: Admin, session: SessionDep) -> User:
    """Lets a person in again, with the roles that they have, for an admin of the installation."""
    return actions.enable(session, principal, user_id)
