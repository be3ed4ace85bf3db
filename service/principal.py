"""Who is asking, and what they may do."""

from dataclasses import dataclass
from typing import Literal

from service.errors import ForbiddenError

Scope = Literal["datasets:write", "audits:write", "findings:read", "verdicts:write", "admin"]
"""What a key may do beside reading datasets, probes, models and audits. `admin` implies all."""


@dataclass(frozen=True)
class Principal:
    """Who is asking, and what they may do."""

    workspace_id: str
    key_id: str
    scopes: frozenset[str]
    in_first_workspace: bool = False
    """Whether the workspace is the one that the installation started with."""

    @property
    def administers_installation(self) -> bool:
        """Whether it may do what concerns more than one workspace, or the server's own files."""
        return self.in_first_workspace and self.may("admin")

    def may(self, scope: Scope) -> bool:
        """Whether the key has the scope, or `admin`."""
        return scope in self.scopes or "admin" in self.scopes

    def require_installation_admin(self) -> None:
        """Raise ForbiddenError `installation_admin_only` unless it administers the installation."""
        if not self.administers_installation:
            raise ForbiddenError(
                "installation_admin_only", "Only an admin key of the installation's first workspace may do this."
            )
