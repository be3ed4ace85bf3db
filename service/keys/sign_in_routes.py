"""/sign-out: how a browser loses its cookie; /sign-in is a page (service/web/pages/sign_in.py)."""

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse

from service.http.auth.authentication import COOKIE, refuse_cross_site
from service.http.dependencies import SessionDep, SettingsDep
from service.http.routing import declared_problems
from service.keys.secrets import end_browser_session

router = APIRouter(tags=["sign-in"])


@router.post(
    "/sign-out",
    status_code=303,
    operation_id="sign_out",
    response_class=RedirectResponse,
    responses=declared_problems(503, "cross_site"),
)
def sign_out(request: Request, session: SessionDep, settings: SettingsDep) -> RedirectResponse:
    """Ends the browser's session, if it has one, and takes its cookie away."""
    cookie = request.cookies.get(COOKIE)
    if cookie:
        refuse_cross_site(request)
        end_browser_session(session, cookie)
    response = RedirectResponse("/", 303)
    response.delete_cookie(COOKIE, path=settings.root_path or "/", httponly=True, samesite="lax")
    return response
