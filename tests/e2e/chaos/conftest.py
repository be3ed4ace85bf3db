"""One pair of servers for all cases, a fresh stack on it for each, and what an undisturbed audit comes to."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from service.contract import TrainingConfig
from service.lifecycle.wakeup import wake
from tests.e2e.chaos.stack import Chaos, Servers

Reference = Callable[[TrainingConfig], list[tuple[object, ...]]]


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
    """The scores of an audit that nothing happened to: what every other one has to come to, bit for bit."""

    @cache
    def run(training: TrainingConfig) -> list[tuple[object, ...]]:
        chaos = Chaos(servers)
        try:
            audit = chaos.create(training)
            chaos.start_worker()
            wake(chaos.settings, "gpu")
            chaos.assert_settled([audit])
            assert chaos.job(audit).attempt == 1
            return chaos.result(audit)
        finally:
            chaos.close()

    return run
