"""The service that a command talks to."""

from dataclasses import dataclass

from service.client import Client


@dataclass(frozen=True)
class Server:
    """A service that answers."""

    client: Client
    url: str
    local: bool
    """Whether it runs on this machine: it can then read local folders, and the demo model is its default."""
    temporary: bool
    """Whether it ends with this command; its data stays."""
