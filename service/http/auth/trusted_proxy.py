"""What a proxy that has signed somebody in says of them, where its address is one of FINETOOTH_SIGN_IN_PROXIES.

The address is that of the connection itself, which `service.server.protocol` notes, and never what X-Forwarded-For
tells: anybody may send that.
"""

from ipaddress import ip_address

from starlette.requests import Request

from service.settings import Settings

TRUSTED_PROXY = "trusted-proxy"
"""The issuer of people whom a proxy has signed in."""


def proxied_user(request: Request) -> str | None:
    """Return what the proxy calls whoever asks; None where no trusted proxy says it."""
    settings: Settings = request.app.state.settings
    return proxied_header(request, settings.proxy_user_header)


def proxied_header(request: Request, name: str) -> str | None:
    """Read a header of a trusted proxy; None where it is missing, comes twice, or from somebody else.

    Args:
        request: Whose header it is.
        name: Of the header.
    """
    settings: Settings = request.app.state.settings
    if not settings.sign_in_proxies or not _comes_from_one(request, settings):
        return None
    values = [value.strip() for value in request.headers.getlist(name)]
    return values[0] or None if len(values) == 1 else None


def _comes_from_one(request: Request, settings: Settings) -> bool:
    peer = getattr(request.state, "peer", None)
    if peer is None:
        return False
    try:
        address = ip_address(peer)
    except ValueError:
        return False
    return any(address in network for network in settings.sign_in_proxies)
