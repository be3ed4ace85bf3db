"""/sign-in and /sign-out: how a browser comes by its cookie and loses it."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse

from service.http.auth.authentication import COOKIE, refuse_cross_site
from service.http.dependencies import SessionDep, SettingsDep
from service.http.problems.problem import Problem
from service.http.routing import declared_problems
from service.keys.secrets import end_browser_session, redeem_sign_in_link

router = APIRouter(tags=["sign-in"])


@router.get(
    "/sign-in",
    status_code=303,
    operation_id="sign_in",
    response_class=RedirectResponse,
    responses=declared_problems(422, 503, "sign_in_link_invalid"),
)
def sign_in(
    request: Request,
    session: SessionDep,
    settings: SettingsDep,
    token: Annotated[
        str,
        Query(
            min_length=1, max_length=200, description="Of the link.", json_schema_extra={"pattern": "^[A-Za-z0-9_-]+$"}
        ),
    ],
) -> RedirectResponse:
    """Uses a one-time link up, sets the session cookie and goes to the dashboard."""
    cookie = redeem_sign_in_link(session, token, hours=settings.session_hours)
    if cookie is None:
        raise Problem(
            403,
            "sign_in_link_invalid",
            "This sign-in link was used before or is too old. `finetooth up` prints a new one when it starts; in "
            "containers `python -m service.bootstrap sign-in-link URL` does.",
        )
    response = RedirectResponse("/", 303)
    response.set_cookie(
        COOKIE,
        cookie,
        max_age=settings.session_hours * 3600,
        path=settings.root_path or "/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )
    return response


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
