"""What somebody may do in a workspace: scopes, and roles, each of which is a named bundle of them."""

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

Scope = Literal["datasets:write", "audits:write", "findings:read", "verdicts:write", "admin"]
"""What a key or a role may do beside reading datasets, probes, models and audits. `admin` implies all."""

Role = Literal["viewer", "reviewer", "editor", "admin"]
"""What a person is in a workspace; each may do all that the one before may."""

ROLES: Mapping[Role, frozenset[Scope]] = {
    "viewer": frozenset({"findings:read"}),
    "reviewer": frozenset({"findings:read", "verdicts:write"}),
    "editor": frozenset({"findings:read", "verdicts:write", "datasets:write", "audits:write"}),
    "admin": frozenset({"admin"}),
}
"""What each role may do, as the scopes of a key."""


def strongest(roles: Iterable[Role]) -> Role:
    """Return the one of several roles that may do most."""
    return max(roles, key=get_args(Role).index)
