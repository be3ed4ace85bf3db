"""A person as an issuer or a proxy describes them, and the roles that the settings give them."""

from collections import defaultdict
from dataclasses import dataclass

from service.roles import Role, strongest
from service.sign_in_settings import SignInSettings
from service.store.seed import DEFAULT_WORKSPACE


@dataclass(frozen=True)
class Identity:
    """A person as the issuer describes them."""

    issuer: str
    subject: str
    """The person's id, unique at the issuer and never given to somebody else."""
    email: str | None = None
    """The e-mail address in lower case."""
    email_verified: bool = False
    name: str | None = None
    groups: tuple[str, ...] = ()


def roles_by_groups(identity: Identity, settings: SignInSettings) -> dict[str, Role]:
    """Find the roles that a person's groups give: the strongest one of each workspace.

    Args:
        identity: The person.
        settings: The roles of each group.

    Returns:
        Roles by the workspace's name.
    """
    found: dict[str, list[Role]] = defaultdict(list)
    for group in identity.groups:
        given = settings.group_roles.get(group, {})
        for workspace, role in ({DEFAULT_WORKSPACE: given} if isinstance(given, str) else given).items():
            found[workspace].append(role)
    return {workspace: strongest(roles) for workspace, roles in found.items()}
