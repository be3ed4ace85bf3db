"""The register of base models."""

from collections.abc import Iterator

from service.client.connection import Connection
from service.client.errors import Json
from service.client.paths import resource


class Models(Connection):
    """The methods of `Client` for base models."""

    def create_model(self, name: str, source: str, location: str, revision: str | None = None) -> Json:
        """Register a base model; needs the scope `admin`.

        Args:
            name: By which audits may name it: lower-case letters, digits, dots and dashes.
            source: `hub`, `local` or `bundled`.
            location: For `hub` `owner/name`; for `local` the absolute path of a folder on the server.
            revision: For `hub` the commit, 40 hexadecimal digits; for `local` None.

        Returns:
            The model.
        """
        body = {"name": name, "source": source, "location": location, "revision": revision}
        return self._create("/v1/models", lambda: {"json": body})

    def models(self) -> Iterator[Json]:
        """List the registered models, newest first."""
        return self._pages("/v1/models")

    def model(self, id_or_name: str) -> Json:
        """Return one registered model."""
        return self._send("GET", resource("models", id_or_name))

    def delete_model(self, id_or_name: str) -> None:
        """Remove a model that no audit uses from the register; needs the scope `admin`."""
        self._delete(resource("models", id_or_name))
