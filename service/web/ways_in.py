"""How a visitor may sign in, as the pages offer it."""

from typing import Any

from starlette.requests import Request

from service.http.auth.trusted_proxy import proxied_user
from service.settings import Settings


def ways_in(request: Request) -> dict[str, Any]:
    """What `_sign_in.html` asks for, but for why the last try failed.

    Returns:
        `issuer`, what the button that leads to it says; `proxied`, whom a trusted proxy has signed in. None: not here.
    """
    settings: Settings = request.app.state.settings
    return {
        "issuer": settings.oidc_label if settings.oidc_issuer is not None else None,
        "proxied": proxied_user(request),
    }
