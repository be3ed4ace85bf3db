"""Fixtures of the service's tests: sessions on the fresh database, a workspace, and rows for audits to stand on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.app import create_app
from service.contract.results import ProbeSummary, Summary
from service.keys.secrets import create_key
from service.principal import Scope
from service.settings import Settings
from service.store.ids import new_id
from service.store.tables import Audit, Workspace
from tests.support.builders import add_audit
from tests.support.server_folders import server_folder
from tests.support.summaries import make_probe_summary, make_summary


@pytest.fixture
def other_workspace_id(sessions: sessionmaker[Session]) -> str:
    """Another tenant."""
    with sessions.begin() as session:
        workspace = Workspace(id=new_id("ws"), name="other")
        session.add(workspace)
    return workspace.id


@pytest.fixture
def make_audit(sessions: sessionmaker[Session], workspace_id: str) -> Callable[[], Audit]:
    """Makes and commits a queued audit."""

    def make() -> Audit:
        with sessions.begin() as session:
            return add_audit(session, workspace_id)

    return make


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    """The real application on the fresh database."""
    return create_app(settings)


@pytest.fixture
def anonymous_client(app: FastAPI) -> Iterator[TestClient]:
    """Asks without a key. Errors of the server come back as answers."""
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False, follow_redirects=False) as client:
        yield client


@pytest.fixture
def make_client(
    app: FastAPI, anonymous_client: TestClient, sessions: sessionmaker[Session], workspace_id: str
) -> Callable[..., TestClient]:
    """Makes a client with a key of the given scopes; in the default workspace if none is named."""

    def make(*scopes: Scope, workspace: str = workspace_id) -> TestClient:
        with sessions.begin() as session:
            _, secret = create_key(session, workspace_id=workspace, name="test", scopes=scopes)
        client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False, follow_redirects=False)
        # One event loop for all clients of the application, as in production.
        client.portal = anonymous_client.portal
        client.headers["Authorization"] = f"Bearer {secret}"
        return client

    return make


@pytest.fixture
def client(make_client: Callable[..., TestClient]) -> TestClient:
    """An admin of the default workspace."""
    return make_client("admin")


@pytest.fixture
def summary_of() -> Callable[..., Summary]:
    return make_summary


@pytest.fixture
def probe_of() -> Callable[..., ProbeSummary]:
    return make_probe_summary


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder of mode 0700 with a short path, for sockets."""
    with server_folder() as folder:
        yield folder
