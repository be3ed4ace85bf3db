"""Base models whose files lie in the object store: which they are, by hash, and where a worker puts them."""

import hashlib
import json
from typing import Any

from pydantic import Field

from service.contract.closed import Closed


class StoredFile(Closed):
    """One file of a stored model."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")
    """Its name in the model's folder, which is no path."""
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class StoredModel(Closed):
    """The files of a stored model, and what its config.json says."""

    files: tuple[StoredFile, ...] = Field(min_length=1)
    config: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the names and hashes of all files, in hexadecimal digits: it changes if any byte does."""
        named = sorted((file.name, file.sha256) for file in self.files)
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()

    @property
    def bytes(self) -> int:
        """How many bytes all files have."""
        return sum(file.bytes for file in self.files)


def cached_name(digest: str) -> str:
    """Name of the folder of a worker's model cache that holds the stored model of this digest."""
    return f"stored-{digest}"
