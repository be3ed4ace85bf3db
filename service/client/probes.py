"""Probes and the packs of probe items that come with the service."""

from collections.abc import Iterator, Mapping, Sequence

from service.client.connection import Connection
from service.client.errors import Json
from service.client.paths import resource


class Probes(Connection):
    """The methods of `Client` for probes."""

    def create_probe(self, name: str, items: Sequence[Mapping[str, str | None]]) -> Json:
        """Create a probe.

        Args:
            name: What people see.
            items: Each `{"prompt": ..., "unwanted": ...}`, and `"reference"` where a wanted answer is known.

        Returns:
            The probe.
        """
        body = {"name": name, "items": [dict(item) for item in items]}
        return self._create("/v1/probes", lambda: {"json": body})

    def create_probe_from_pack(
        self, pack: str, parameters: Mapping[str, str] | None = None, *, name: str | None = None
    ) -> Json:
        """Create a probe from the items of a built-in pack.

        Args:
            pack: The pack's name; see `probe_packs`.
            parameters: A value for each parameter of the pack.
            name: The probe's name; by default the service names it.

        Returns:
            The probe.
        """
        body = {"pack": pack, "parameters": dict(parameters or {}), "name": name}
        return self._create("/v1/probes", lambda: {"json": body})

    def probes(self) -> Iterator[Json]:
        """List the probes, newest first."""
        return self._pages("/v1/probes")

    def probe(self, probe_id: str) -> Json:
        """Return one probe with its items."""
        return self._send("GET", resource("probes", probe_id))

    def delete_probe(self, probe_id: str) -> None:
        """Delete a probe that no audit uses."""
        self._delete(resource("probes", probe_id))

    def probe_packs(self) -> Iterator[Json]:
        """List the built-in packs by name, without their items."""
        return self._pages("/v1/probe-packs")

    def probe_pack(self, name: str) -> Json:
        """Return one built-in pack with its parameters and items."""
        return self._send("GET", resource("probe-packs", name))
