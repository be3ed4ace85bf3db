"""The ways to sign in that pages offer."""

from typing import Any

from starlette.requests import Request

from service.http.auth.trusted_proxy import proxied_user
from service.settings import Settings


def ways_in(request: Request) -> dict[str, Any]:
    """Return what `_sign_in.html` needs, except why the last try failed.

    Returns:
        `issuer`, the label of the button that leads to it, and `proxied`, the person whom a trusted proxy has signed
        in; each None where there is none.
    """
    settings: Settings = request.app.state.settings
    return {
        "issuer": settings.oidc_label if settings.oidc_issuer is not None else None,
        "proxied": proxied_user(request),
    }
