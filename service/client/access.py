"""Keys and workspaces: which programs may do what."""

from collections.abc import Iterator, Sequence

from service.client.connection import Connection
from service.client.errors import Json
from service.client.paths import resource


class Access(Connection):
    """The methods of `Client` for keys and workspaces."""

    def create_key(self, name: str, scopes: Sequence[str], *, expires_at: str | None = None) -> Json:
        """Create a key in this key's workspace.

        Args:
            name: What people see.
            scopes: What it may do, such as `findings:read`; docs/api.md lists them.
            expires_at: When it ends, an RFC 3339 timestamp; None for never.

        Returns:
            The key; its text is in `secret`, and only in this answer.
        """
        body = {"name": name, "scopes": list(scopes), "expires_at": expires_at}
        return self._create("/v1/keys", lambda: {"json": body})

    def keys(self) -> Iterator[Json]:
        """List the keys, newest first, revoked ones too, without their texts."""
        return self._pages("/v1/keys")

    def key(self, key_id: str) -> Json:
        """Return what a key may do, when it was last used and when it ends."""
        return self._send("GET", resource("keys", key_id))

    def rotate_key(self, key_id: str, *, overlap_seconds: int = 0) -> Json:
        """Give a key a new text.

        Args:
            key_id: The key.
            overlap_seconds: For how long the old text is still accepted.

        Returns:
            The key, with its new text in `secret`.
        """
        return self._send("POST", resource("keys", key_id, "rotate"), json={"overlap_seconds": overlap_seconds})

    def revoke_key(self, key_id: str) -> None:
        """Revoke a key. Idempotent."""
        self._delete(resource("keys", key_id))

    def create_workspace(self, name: str) -> Json:
        """Create a workspace without keys; needs an admin key of the installation's first workspace."""
        return self._create("/v1/workspaces", lambda: {"json": {"name": name}})

    def change_workspace(self, workspace_id: str, **limits: int | None) -> Json:
        """Set limits of a workspace; needs an admin key of the installation's first workspace.

        Args:
            workspace_id: The workspace.
            limits: `max_queued_audits`, `max_running_audits` or `max_bytes`; None for the setting's value again.

        Returns:
            The workspace with its limits.
        """
        return self._send("PATCH", resource("workspaces", workspace_id), json=limits)

    def delete_workspace(self, workspace_id: str, name: str) -> Json:
        """Delete a workspace with everything in it, in the background; there is no way back. Idempotent.

        Needs an admin key of the installation's first workspace.

        Args:
            workspace_id: The workspace.
            name: What it is called, so that none is deleted by accident.

        Returns:
            The workspace; `deletion` says how far it is.
        """
        return self._send("DELETE", resource("workspaces", workspace_id), params={"name": name})

    def workspace(self, workspace_id: str) -> Json:
        """Return a workspace with its limits, and how far its deletion is if it is being deleted."""
        return self._send("GET", resource("workspaces", workspace_id))

    def workspace_usage(self, workspace_id: str) -> Json:
        """Read how much the workspace uses of what is limited, and how much it may use."""
        return self._send("GET", resource("workspaces", workspace_id, "usage"))

    def workspaces(self) -> Iterator[Json]:
        """List the key's own workspace; for an admin of the installation all, newest first."""
        return self._pages("/v1/workspaces")

    def create_workspace_key(
        self, workspace_id: str, name: str, scopes: Sequence[str], *, expires_at: str | None = None
    ) -> Json:
        """Create a key in another workspace, such as its first; needs an admin key of the first workspace.

        Args:
            workspace_id: The workspace.
            name: What people see.
            scopes: What the key may do.
            expires_at: When it ends, an RFC 3339 timestamp; None for never.

        Returns:
            The key; its text is in `secret`, and only in this answer.
        """
        body = {"name": name, "scopes": list(scopes), "expires_at": expires_at}
        return self._create(resource("workspaces", workspace_id, "keys"), lambda: {"json": body})
