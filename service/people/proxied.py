"""A person as a trusted proxy describes them."""

from starlette.requests import Request

from service.http.auth.trusted_proxy import TRUSTED_PROXY, proxied_header, proxied_user
from service.people.identity import Identity
from service.settings import Settings

MOST_CHARACTERS = 255
"""The longest name that we take from a proxy's header; providers keep theirs below it."""


def proxied_identity(request: Request, settings: Settings) -> Identity | None:
    """Read the person who asks from the headers of a trusted proxy.

    Args:
        request: The request, as the proxy passed it on.
        settings: The proxy's addresses and headers.

    Returns:
        The person; None if no trusted proxy names one.
    """
    user = proxied_user(request)
    if user is None or len(user) > MOST_CHARACTERS:
        return None
    email = (proxied_header(request, settings.proxy_email_header) or "").lower()
    groups = proxied_header(request, settings.proxy_groups_header) or ""
    return Identity(
        issuer=TRUSTED_PROXY,
        subject=user,
        email=email[:MOST_CHARACTERS] or None,
        email_verified=bool(email),  # a proxy that is trusted to name the person is trusted with this too
        groups=tuple(group.strip() for group in groups.split(",") if group.strip()),
    )
