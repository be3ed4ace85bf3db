"""The page behind a one-time link, and its button, which signs the browser in.

Whatever opens the link for somebody, to show a preview or look for malware, presses no button, and no page of another
site can: so neither uses the link up, nor signs a visitor in as somebody else.
"""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import RedirectResponse

from service.http.auth.authentication import COOKIE, refuse_cross_site
from service.http.dependencies import SessionDep, SettingsDep
from service.http.problems.problem import Problem
from service.keys.secrets import redeem_sign_in_link
from service.web.page_route import OpenPageRoute
from service.web.templating import render

router = APIRouter(route_class=OpenPageRoute)

Token = Annotated[str, Query(min_length=1, max_length=200, pattern="^[A-Za-z0-9_-]+$")]


@router.get("/sign-in")
def sign_in_page(token: Token) -> Response:
    """Show the button; neither reads nor uses the link's token."""
    return render("sign_in.html", {"signed_in": False, "section": "", "token": token})


@router.post("/sign-in")
def sign_in(request: Request, session: SessionDep, settings: SettingsDep, token: Token) -> Response:
    """Use the link up, set the session cookie and go to the dashboard."""
    refuse_cross_site(request)
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
