"""The page of a workspace's API keys, for admins, and the forms on it."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, get_args

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ValidationError
from sqlalchemy.orm import Session

from service.errors import InvalidError
from service.http.auth.authentication import RequireScope
from service.http.dependencies import SessionDep
from service.http.fields import PathId
from service.http.pagination import PageDep, PageRequest
from service.keys import actions
from service.keys.queries import list_keys
from service.keys.schemas import KeyCreate, KeyWithSecret, render_key
from service.principal import Principal
from service.roles import Scope
from service.web.forms import FormDep, see_other
from service.web.page_route import PageRoute
from service.web.pages.page import answer_list

router = APIRouter(route_class=PageRoute)

Admin = Annotated[Principal, Depends(RequireScope("admin"))]

SCOPES: dict[Scope, str] = {
    "findings:read": "see findings, make files of them",
    "verdicts:write": "judge samples",
    "datasets:write": "upload and delete datasets",
    "audits:write": "make probes, start and delete audits",
    "admin": "everything, keys, people and models too",
}
"""What a key may do with each scope, besides reading datasets, probes, models and audits."""

LIFETIMES = {"30": "30 days", "90": "90 days", "365": "a year", "": "for ever"}
"""For how many days a new key is valid."""


@router.get("/keys")
def keys(request: Request, principal: Admin, session: SessionDep, page: PageDep) -> Response:
    """Show all keys, the newest first, and the form for a new one."""
    return _answer(request, principal, session, page)


@router.post("/keys")
def create(request: Request, principal: Admin, session: SessionDep, page: PageDep, form: FormDep) -> Response:
    """Make a key, and show its text this once."""
    days = form.get("days", "")
    try:
        if days not in LIFETIMES:
            raise ValueError
        body = KeyCreate(
            name=form.get("name", ""),
            scopes=[scope for scope in get_args(Scope) if f"scope.{scope}" in form],
            expires_at=datetime.now(UTC) + timedelta(days=int(days)) if days else None,
        )
    except (ValidationError, ValueError):
        raise InvalidError(
            "invalid_request", "Give the key a name of up to 200 characters, tick what it may do, and choose how long."
        ) from None
    made = actions.create(session, principal, body, workspace_id=principal.workspace_id)
    return _answer(request, principal, session, page, made)


@router.post("/keys/{key_id}/rotate")
def rotate(request: Request, key_id: PathId, principal: Admin, session: SessionDep, page: PageDep) -> Response:
    """Give a key a new text, show it this once, and end the old one."""
    made = actions.rotate(session, principal, key_id, overlap_seconds=0)
    return _answer(request, principal, session, page, made)


@router.post("/keys/{key_id}/revoke")
def revoke(key_id: PathId, principal: Admin, session: SessionDep) -> Response:
    """End a key and its browsers, and go back to the list."""
    actions.revoke(session, principal, key_id)
    return see_other("/keys")


def _answer(
    request: Request, principal: Principal, session: Session, page: PageRequest, made: KeyWithSecret | None = None
) -> Response:
    found = list_keys(session, principal, after=page.after, limit=page.limit + 1)
    listed = page.page(found, key=lambda key: key.id, render=render_key)
    return answer_list(
        request,
        "keys",
        principal,
        listed,
        made=made,
        scopes=SCOPES,
        lifetimes=LIFETIMES,
        own=principal.key_id,
        now=datetime.now(UTC),
    )
