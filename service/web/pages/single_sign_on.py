"""Signing a person in without a key: at an OpenID Connect issuer, or by the word of a trusted proxy.

The issuer sends the browser back with a code. The way there is a link and not a form, since the pages' content security
policy lets no form lead to another site. A person who follows it from elsewhere can only sign in as themselves, since
the way back needs the cookie that was set here.
"""

import logging
import re
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import RedirectResponse

from service.http.auth.authentication import refuse_cross_site
from service.http.dependencies import SessionDep, SettingsDep, TransactionsDep
from service.http.problems.problem import Problem
from service.http.sub_path import address
from service.people.arrivals import PersonRefused, arrive
from service.people.oidc import handshake as handshakes
from service.people.oidc.errors import IssuerError
from service.people.oidc.handshake import Handshake
from service.people.proxied import proxied_identity
from service.settings import Settings
from service.web.page_route import OpenPageRoute
from service.web.pages.sign_in import show_sign_in, signed_in

if TYPE_CHECKING:
    from service.people.oidc.issuer import Issuer

COOKIE = "finetooth_sign_in"
"""The name of the cookie that ties the issuer's answer to the browser that asked."""

CALLBACK = "/sign-in/oidc/callback"
"""The path to which the issuer sends a browser back."""

MOST_SECONDS = 600
"""Seconds from leaving for the issuer to coming back."""

REFUSED: dict[str, tuple[int, str]] = {
    "unreachable": (503, "The issuer does not answer just now. Try again in a minute; a key signs in meanwhile."),
    "misconfigured": (
        503,
        "Sign-in is not set up correctly: the issuer does not match FINETOOTH_OIDC_ISSUER. Tell the operator of this "
        "server; its log says more.",
    ),
    "code_refused": (403, "The issuer did not confirm this sign-in. Start again from here."),
    "token_invalid": (
        403,
        "What the issuer sent does not prove who you are. Start again from here; if it happens again, tell the "
        "operator of this server: its log says more.",
    ),
    "other_browser": (
        403,
        "This sign-in was begun in another browser, or more than ten minutes ago. Start again from here.",
    ),
    "not_proxied": (
        403,
        "No proxy that this server trusts has signed you in. Sign in there, then load this page again.",
    ),
    "disabled": (403, "An admin has disabled your account on this server. Ask an admin of the installation."),
    "no_role": (
        403,
        "It is known who you are, but you have no role here. Ask an admin to add your e-mail under People, then sign "
        "in again.",
    ),
}
"""The message for a person who could not be signed in, with the status."""

router = APIRouter(route_class=OpenPageRoute)
log = logging.getLogger(__name__)

Field = Annotated[str, Query(max_length=4096)]


@router.get("/sign-in/oidc")
async def leave(request: Request, settings: SettingsDep) -> Response:
    """Send the browser to the issuer."""
    issuer = _issuer(request)
    handshake = handshakes.begin()
    try:
        where = await issuer.address(handshake, _redirect_uri(request))
    except IssuerError as error:
        return _refuse(request, error.reason, error)
    response = RedirectResponse(where, 303)
    response.set_cookie(COOKIE, handshake.secret, max_age=MOST_SECONDS, **_attributes(request, settings))
    return response


@router.get(CALLBACK)
async def come_back(
    request: Request,
    settings: SettingsDep,
    transactions: TransactionsDep,
    code: Field = "",
    state: Field = "",
    error: Field = "",
) -> Response:
    """Sign in whom the issuer vouches for, and go to the dashboard; the cookie of the way there is used up."""
    response = await _answer(request, settings, transactions, code, state, error)
    response.delete_cookie(COOKIE, **_attributes(request, settings))
    return response


@router.post("/sign-in/proxy")
def take_proxys_word(request: Request, session: SessionDep, settings: SettingsDep) -> Response:
    """Sign in whom a trusted proxy names, and go to the dashboard."""
    refuse_cross_site(request)
    identity = proxied_identity(request, settings)
    if identity is None:
        return _refuse(request, "not_proxied")
    cookie = arrive(session, identity, settings)
    if isinstance(cookie, PersonRefused):
        return _refuse(request, cookie.reason)
    return signed_in(request, settings, cookie)


async def _answer(
    request: Request, settings: Settings, transactions: TransactionsDep, code: str, state: str, error: str
) -> Response:
    issuer = _issuer(request)
    handshake = Handshake(request.cookies.get(COOKIE, ""))
    if not handshake.secret or not handshake.answers(state):
        return _refuse(request, "other_browser")
    if error or not code:
        said = error if re.fullmatch(r"[a-z_]{1,60}", error) else "no code"
        return show_sign_in(request, refused=f"The issuer did not sign you in ({said}). Start again.", status=403)
    try:
        identity = await issuer.identify(code, handshake, _redirect_uri(request))
    except IssuerError as problem:
        return _refuse(request, problem.reason, problem)
    cookie = await transactions.run(lambda session: arrive(session, identity, settings))
    if isinstance(cookie, PersonRefused):
        return _refuse(request, cookie.reason)
    return signed_in(request, settings, cookie)


def _refuse(request: Request, reason: str, error: IssuerError | None = None) -> Response:
    if error is not None:
        log.warning("sign-in by OpenID Connect failed: %s", error)
    status, refused = REFUSED[reason]
    return show_sign_in(request, refused=refused, status=status)


def _issuer(request: Request) -> "Issuer":
    """Return the issuer. Raises Problem 404 where none is set."""
    issuer: Issuer | None = request.app.state.issuer
    if issuer is None:
        raise Problem(404, "not_found", "This server has no issuer to sign in at: FINETOOTH_OIDC_ISSUER names one.")
    return issuer


def _redirect_uri(request: Request) -> str:
    """Return the address of the way back as the browser sees it: behind a proxy under its host, scheme and path.

    `KnownHosts` has checked the host.
    """
    return f"{request.url.scheme}://{request.headers['host']}{address(CALLBACK)}"


def _attributes(request: Request, settings: Settings) -> dict[str, Any]:
    path = f"{settings.root_path}/sign-in"
    return {"path": path, "secure": request.url.scheme == "https", "httponly": True, "samesite": "lax"}
