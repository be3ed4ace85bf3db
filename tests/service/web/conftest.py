"""A signed-in browser, and an audit to look at."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.keys.secrets import create_key, create_sign_in_link
from service.settings import Settings
from tests.support.made_audits import make_published
from tests.support.pages import Sessions, SignIn, press_sign_in


@pytest.fixture
def app_client(settings: Settings, workspace_id: str) -> Iterator[TestClient]:
    with TestClient(create_app(settings), base_url="http://localhost", follow_redirects=False) as client:
        yield client


@pytest.fixture
def sign_in(app_client: TestClient, sessions: Sessions, workspace_id: str) -> SignIn:
    """Signs the client in with a key of the given scopes."""

    def go(*scopes: Any, workspace: str = workspace_id) -> TestClient:
        with sessions.begin() as session:
            key, _ = create_key(session, workspace_id=workspace, name="browser", scopes=scopes or ("admin",))
            token = create_sign_in_link(session, key_id=key.id, minutes=5)
        app_client.cookies.clear()
        assert press_sign_in(app_client, f"/sign-in?token={token}").status_code == 303
        return app_client

    return go


@pytest.fixture
def published(sessions: Sessions, workspace_id: str) -> str:
    with sessions.begin() as session:
        return make_published(session, workspace_id).id
