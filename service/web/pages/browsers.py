"""The page of signed-in browsers: everybody sees their own, admins the workspace's."""

from fastapi import APIRouter, Request, Response

from service.http.auth.authentication import COOKIE
from service.http.auth.key_format import digest
from service.http.dependencies import SessionDep
from service.http.fields import PathId
from service.http.pagination import PageDep
from service.keys import actions
from service.keys.queries import list_sessions
from service.keys.schemas import render_session
from service.store.tables import BrowserSession
from service.web.forms import see_other
from service.web.page_route import PageRoute
from service.web.pages.page import Reader, answer_list

router = APIRouter(route_class=PageRoute)


@router.get("/sessions")
def session_list(request: Request, principal: Reader, session: SessionDep, page: PageDep) -> Response:
    """Show who is signed in, the newest first, and mark the browser that asks."""
    own = _own(request)

    def shown(row: tuple[BrowserSession, str | None, str | None]) -> dict[str, object]:
        return {"this": row[0].token_sha256 == own, **render_session(row).model_dump()}

    found = list_sessions(session, principal, after=page.after, limit=page.limit + 1)
    listed = page.page(found, key=lambda row: row[0].id, render=shown)
    return answer_list(request, "sessions", principal, listed)


@router.post("/sessions/end-others")
def end_others(request: Request, principal: Reader, session: SessionDep) -> Response:
    """Sign all browsers out that the list shows, but for the one that asks."""
    actions.end_other_sessions(session, principal, keep=_own(request))
    return see_other("/sessions")


@router.post("/sessions/{session_id}/end")
def end(session_id: PathId, principal: Reader, session: SessionDep) -> Response:
    """Sign one browser out, and go back to the list."""
    actions.end_session(session, principal, session_id)
    return see_other("/sessions")


def _own(request: Request) -> bytes | None:
    cookie = request.cookies.get(COOKIE)
    return digest(cookie) if cookie else None
