"""One pair of servers for all cases, a fresh stack on it for each, and what an undisturbed audit comes to."""

from collections.abc import Iterator
from functools import cache, partial

import pytest

from tests.support.chaos import Chaos, Reference, Servers, undisturbed_scores
from tests.support.server_folders import server_folder


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with server_folder("ft-c-") as folder:
        servers = Servers(folder)
        try:
            servers.start()
            yield servers
        finally:
            servers.stop()


@pytest.fixture
def chaos(servers: Servers) -> Iterator[Chaos]:
    chaos = Chaos(servers)
    yield chaos
    chaos.close()


@pytest.fixture(scope="session")
def undisturbed(servers: Servers) -> Reference:
    """`undisturbed_scores`, once a configuration."""
    return cache(partial(undisturbed_scores, servers))
