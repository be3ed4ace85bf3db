"""One pair of servers for all cases, a fresh stack on it for each, and what an undisturbed audit comes to."""

import shutil
import tempfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import pytest

from tests.support.chaos import Chaos, Reference, Servers, undisturbed_scores


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """A short path: Unix sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="ft-c-"))
    servers = Servers(folder)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def chaos(servers: Servers) -> Iterator[Chaos]:
    chaos = Chaos(servers)
    yield chaos
    chaos.close()


@pytest.fixture(scope="session")
def undisturbed(servers: Servers) -> Reference:
    """`undisturbed_scores`, once a configuration."""
    return cache(partial(undisturbed_scores, servers))
