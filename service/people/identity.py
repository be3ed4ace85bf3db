"""Who an issuer or a proxy says that somebody is, and which roles the settings give them for it."""

from collections import defaultdict
from dataclasses import dataclass

from service.roles import Role, strongest
from service.sign_in_settings import SignInSettings
from service.store.seed import DEFAULT_WORKSPACE


@dataclass(frozen=True)
class Identity:
    """A person as the issuer knows them."""

    issuer: str
    subject: str
    """Unique at the issuer, and never given to somebody else."""
    email: str | None = None
    """In lower case."""
    email_verified: bool = False
    name: str | None = None
    groups: tuple[str, ...] = ()


def roles_by_groups(identity: Identity, settings: SignInSettings) -> dict[str, Role]:
    """Find what the person's groups make them: the strongest role of each workspace, by its name.

    Args:
        identity: Who signs in.
        settings: Say what each group means.
    """
    found: dict[str, list[Role]] = defaultdict(list)
    for group in identity.groups:
        given = settings.group_roles.get(group, {})
        for workspace, role in ({DEFAULT_WORKSPACE: given} if isinstance(given, str) else given).items():
            found[workspace].append(role)
    return {workspace: strongest(roles) for workspace, roles in found.items()}
