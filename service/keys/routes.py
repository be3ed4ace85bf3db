"""/v1/keys: made, listed, rotated and revoked by admins."""

from typing import Annotated

from fastapi import Depends, Response

from service.http.auth.authentication import RequireScope
from service.http.conditional.etags import NOT_MODIFIED, ConditionsDep, strong_tag
from service.http.dependencies import SessionDep
from service.http.fields import PathId
from service.http.idempotency import FORGETFUL
from service.http.pagination import Page, PageDep
from service.http.routing import declared_problems, resource_router
from service.keys import actions
from service.keys.queries import find_key, list_keys
from service.keys.schemas import Key, KeyCreate, KeyRotate, KeyWithSecret, render_key
from service.principal import Principal

router = resource_router("keys")
Admin = Annotated[Principal, Depends(RequireScope("admin"))]


@router.post(
    "",
    status_code=201,
    operation_id="create_key",
    dependencies=[FORGETFUL],
    responses=declared_problems(403),
)
def create(body: KeyCreate, principal: Admin, session: SessionDep, response: Response) -> KeyWithSecret:
    """Makes a key of this workspace.

    Its text is in this answer and never again: it is null where an Idempotency-Key brings the answer back. Rotate the
    key then.
    """
    key = actions.create(session, principal, body, workspace_id=principal.workspace_id)
    response.headers["Location"] = f"/v1/keys/{key.id}"
    return key


@router.get("", operation_id="list_keys", responses=declared_problems(403))
def list_all(principal: Admin, session: SessionDep, page: PageDep) -> Page[Key]:
    """The workspace's keys, newest first, revoked ones too."""
    found = list_keys(session, principal, after=page.after, limit=page.limit + 1)
    return page.page(found, key=lambda key: key.id, render=render_key)


@router.get("/{key_id}", operation_id="get_key", responses=declared_problems(403, 404) | NOT_MODIFIED)
def get(key_id: PathId, principal: Admin, session: SessionDep, conditions: ConditionsDep) -> Key:
    """One key: what it may do, when it was last used, when it ends. Never its text."""
    key = render_key(find_key(session, principal, key_id))
    conditions.serve(strong_tag(key.model_dump(mode="json")))
    return key


@router.post("/{key_id}/rotate", operation_id="rotate_key", responses=declared_problems(403, 404, 409, "key_revoked"))
def rotate(key_id: PathId, principal: Admin, session: SessionDep, body: KeyRotate | None = None) -> KeyWithSecret:
    """Gives the key a new text. The old one stops working now, or at the end of the overlap that was asked for.

    Without an overlap the key's browsers are signed out as well. A text that was replaced before ends in any case.
    """
    return actions.rotate(session, principal, key_id, overlap_seconds=0 if body is None else body.overlap_seconds)


@router.delete("/{key_id}", status_code=204, operation_id="revoke_key", responses=declared_problems(403, 404))
def revoke(key_id: PathId, principal: Admin, session: SessionDep) -> None:
    """Ends the key and its browser sessions at once. Idempotent; the key stays in the list."""
    actions.revoke(session, principal, key_id)
