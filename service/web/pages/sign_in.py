"""How a browser is signed in: by the button behind a one-time link, or by an API key typed into the page.

The page also leads to where people sign in without a key (`single_sign_on`).

Whatever opens the link for somebody, to show a preview or look for malware, presses no button, and no page of another
site can: so neither uses the link up, nor signs a visitor in as somebody else.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.responses import RedirectResponse

from service.http.auth.authentication import COOKIE, refuse_cross_site
from service.http.dependencies import SessionDep, SettingsDep
from service.http.problems.problem import Problem
from service.keys.browsers import KeyRefused, Reason, sign_in_with_key
from service.keys.secrets import redeem_sign_in_link
from service.settings import Settings
from service.web.forms import read_bounded_form
from service.web.page_route import OpenPageRoute
from service.web.templating import render
from service.web.ways_in import ways_in

KEY_FORM_BYTES = 4 * 2**10
"""The largest form that is read before anybody has signed in; a key has 31 characters."""

KEY_FORM_SECONDS = 10.0
"""Seconds that such a form may take."""

REFUSED: dict[Reason, str] = {
    "malformed": "This is not a whole key: it is cut or mistyped. Copy all of it, from ft_ to its end.",
    "unknown": "No key has this text, or it was replaced by a new one. Ask an admin for a key.",
    "expired": "This key has expired. Ask an admin for a new one.",
    "revoked": "This key has been revoked. Ask an admin for a new one.",
}
"""The message for a person whose key does not sign in."""

router = APIRouter(route_class=OpenPageRoute)

Token = Annotated[str | None, Query(min_length=1, max_length=200, pattern="^[A-Za-z0-9_-]+$")]


async def _typed_key(request: Request) -> str | None:
    """Read the key from the form; None where the request is the button of a link. Refuses pages of other sites."""
    refuse_cross_site(request)
    if "token" in request.query_params:
        return None
    form = await read_bounded_form(request, most_bytes=KEY_FORM_BYTES, seconds=KEY_FORM_SECONDS)
    return form.get("key", "").strip()


@router.get("/sign-in")
def sign_in_page(request: Request, token: Token = None) -> Response:
    """Show the button, which neither reads nor uses the link's token; without a token a field for a key."""
    return show_sign_in(request, token)


@router.post("/sign-in")
def sign_in(
    request: Request,
    session: SessionDep,
    settings: SettingsDep,
    key: Annotated[str | None, Depends(_typed_key)],
    token: Token = None,
) -> Response:
    """Use the link up, or look the key up; then set the session cookie and go to the dashboard."""
    if token is not None:
        cookie = redeem_sign_in_link(session, token, hours=settings.session_hours)
        if cookie is None:
            raise Problem(
                403,
                "sign_in_link_invalid",
                "This sign-in link was used before or is too old. `finetooth sign-in` prints a new one; in containers "
                "`python -m service.bootstrap sign-in-link URL` does. An API key signs in too, at /sign-in.",
            )
        return signed_in(request, settings, cookie)
    found = sign_in_with_key(session, key or "", hours=settings.session_hours)
    if isinstance(found, KeyRefused):
        return show_sign_in(request, refused=REFUSED[found.reason], status=403)
    return signed_in(request, settings, found)


def show_sign_in(
    request: Request, token: str | None = None, *, refused: str | None = None, status: int = 200
) -> Response:
    """Show the ways to sign in.

    Args:
        request: Says which there are.
        token: Token of a one-time link; None: another way is taken.
        refused: Why the last try failed, and what to do; None: there was none.
        status: The answer's status.
    """
    context = {
        "signed_in": False,
        "section": "",
        "token": token,
        "refused": refused,
        **ways_in(request),
    }
    return render("sign_in.html", context, status=status)


def signed_in(request: Request, settings: Settings, cookie: str) -> Response:
    """Set the session's cookie and go to the dashboard, wherever the browser came from.

    Args:
        request: Says whether the connection is encrypted.
        settings: Say how long the browser stays signed in, and under which path.
        cookie: The session's cookie.
    """
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
