"""Who somebody is by the word of a trusted proxy."""

from starlette.requests import Request

from service.http.auth.trusted_proxy import TRUSTED_PROXY, proxied_header, proxied_user
from service.people.identity import Identity
from service.settings import Settings

MOST_CHARACTERS = 255


def proxied_identity(request: Request, settings: Settings) -> Identity | None:
    """Read who asks from the headers of a trusted proxy; None where none says it.

    Args:
        request: As the proxy passed it on.
        settings: Name the proxy's addresses and headers.
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
        email_verified=bool(email),  # who is trusted to say who it is, is trusted with this too
        groups=tuple(group.strip() for group in groups.split(",") if group.strip()),
    )
