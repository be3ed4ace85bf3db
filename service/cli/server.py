"""The service that the command talks to."""

from dataclasses import dataclass

from service.client import Client


@dataclass(frozen=True)
class Server:
    """A service that answers."""

    client: Client
    url: str
    local: bool
    """On this machine: it can read local folders, and the demo model is its default."""
    temporary: bool
    """Ends with this run; its data stays."""
