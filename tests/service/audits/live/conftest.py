"""A real server, a running audit on it, and a client."""

from collections.abc import Iterator

import httpx
import pytest

from service.audits.live import changes as changes_module
from service.lifecycle.jobs import Claim, claim
from service.settings import Settings
from tests.support.builders import add_audit
from tests.support.live_api import LiveApi, live_api
from tests.support.live_audits import Sessions, client_of


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rhythm of the tests; that of the service is a second."""
    monkeypatch.setattr(changes_module, "POLL_SECONDS", 0.1)


@pytest.fixture
def api(settings: Settings) -> Iterator[LiveApi]:
    with live_api(settings.model_copy(update={"max_waiting_requests": 120})) as api:
        yield api


@pytest.fixture
def http(api: LiveApi) -> Iterator[httpx.Client]:
    with client_of(api) as client:
        yield client


@pytest.fixture
def held(api: LiveApi, sessions: Sessions) -> Claim:
    """A running audit."""
    with sessions.begin() as session:
        add_audit(session, api.workspace_id)
        found = claim(session, lane="gpu", owner="w")
    assert found is not None
    return found
