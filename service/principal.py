"""Who is asking, and what they may do."""

from dataclasses import dataclass

from service.errors import ForbiddenError
from service.roles import Scope as Scope


@dataclass(frozen=True)
class Principal:
    """Who is asking, and what they may do: somebody with a key, or a person who has signed in."""

    workspace_id: str
    key_id: str | None
    """Id of its key; None for a person."""
    scopes: frozenset[str]
    in_first_workspace: bool = False
    """Whether the workspace is the one that the installation started with."""
    user_id: str | None = None
    """Id of the person; None for a key."""
    user_name: str | None = None
    """What the person is called; None for a key."""
    workspace_name: str = ""
    proxy_user: str | None = None
    """Whom a trusted proxy has to name with each request of the browser; None: nobody."""

    @property
    def actor_id(self) -> str:
        """The id of the key or the person."""
        return self.key_id or self.user_id or ""

    @property
    def administers_installation(self) -> bool:
        """Whether it may do what concerns more than one workspace, or the server's own files."""
        return self.in_first_workspace and self.may("admin")

    def may(self, scope: Scope) -> bool:
        """Whether the key or role has the scope, or `admin`."""
        return scope in self.scopes or "admin" in self.scopes

    def require_installation_admin(self) -> None:
        """Refuse whoever does not administer the installation.

        Raises:
            ForbiddenError: `installation_admin_only`.
        """
        if not self.administers_installation:
            raise ForbiddenError(
                "installation_admin_only", "Only an admin of the installation's first workspace may do this."
            )
