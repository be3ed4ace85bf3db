"""The headers with which a trusted proxy names the person it has signed in; see FINETOOTH_SIGN_IN_PROXIES.

The proxy is recognised by the address of the connection itself, which `service.server.protocol` notes, and never by
X-Forwarded-For, which any client may send.
"""

from ipaddress import ip_address

from starlette.requests import Request

from service.settings import Settings

TRUSTED_PROXY = "trusted-proxy"
"""The issuer that is stored for people whom a proxy has signed in."""


def proxied_user(request: Request) -> str | None:
    """Return the proxy's name for the person who asks, or None without a trusted proxy."""
    settings: Settings = request.app.state.settings
    return proxied_header(request, settings.proxy_user_header)


def proxied_header(request: Request, name: str) -> str | None:
    """Read a header of a trusted proxy.

    Args:
        request: The request.
        name: The header's name.

    Returns:
        Its value; None if it is missing, comes twice, or is not from a trusted proxy.
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
