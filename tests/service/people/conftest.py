"""Issuers, applications that know one, and people who come from it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.app import create_app
from service.http.auth.authentication import COOKIE
from service.keys.secrets import open_browser_session
from service.roles import Role
from service.settings import Settings
from tests.support.builders import add_dataset, add_model, add_person, add_probe
from tests.support.oidc_issuer import CLIENT_ID, CLIENT_SECRET, ScriptedIssuer, real_issuer, scripted_issuer

Sessions = sessionmaker[Session]


@pytest.fixture(scope="session")
def issuer(server_folder: Path) -> Iterator[str]:
    """Address of the session's real issuer."""
    with real_issuer(server_folder / "issuer.log") as address:
        yield address


@pytest.fixture
def scripted() -> Iterator[ScriptedIssuer]:
    with scripted_issuer() as one:
        yield one


@pytest.fixture
def serve(settings: Settings, workspace_id: str) -> Iterator[Callable[..., TestClient]]:
    """Starts an application with an issuer and further settings; a browser of it that is signed out."""
    open_clients: list[TestClient] = []

    def start(issuer: str | None, **changed: Any) -> TestClient:
        named: dict[str, Any] = {}
        if issuer is not None:
            named = {
                "oidc_issuer": issuer,
                "oidc_client_id": CLIENT_ID,
                "oidc_client_secret": SecretStr(CLIENT_SECRET),
            }
        app = create_app(settings.model_copy(update=named | changed))
        client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False, follow_redirects=False)
        client.__enter__()
        open_clients.append(client)
        return client

    yield start
    for client in open_clients:
        client.__exit__(None, None, None)


@pytest.fixture
def person(sessions: Sessions, workspace_id: str) -> Callable[..., tuple[str, str]]:
    """Makes a person with a role, and signs a browser in as them; id and cookie."""

    def make(role: Role, *, name: str = "Ada", workspace: str = workspace_id) -> tuple[str, str]:
        with sessions.begin() as session:
            user_id = add_person(session, workspace, role, name=name)
            return user_id, open_browser_session(session, workspace_id=workspace, user_id=user_id, hours=1)

    return make


@pytest.fixture
def browse(anonymous_client: TestClient, person: Callable[..., tuple[str, str]]) -> Callable[..., TestClient]:
    """The browser of a new person with a role."""

    def go(role: Role, **options: Any) -> TestClient:
        anonymous_client.cookies.set(COOKIE, person(role, **options)[1])
        return anonymous_client

    return go


@pytest.fixture
def audit_body(sessions: Sessions, workspace_id: str) -> dict[str, Any]:
    """What an audit needs."""
    with sessions.begin() as session:
        return {
            "dataset_id": add_dataset(session, workspace_id),
            "probe_ids": [add_probe(session, workspace_id)],
            "model_id": add_model(session, workspace_id),
        }
