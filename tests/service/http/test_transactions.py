"""One transaction a request, and many more requests than connections."""

from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import pytest
from anyio.to_thread import current_default_thread_limiter
from fastapi import BackgroundTasks, Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.app import create_app
from service.http.auth.authentication import RequireScope
from service.http.dependencies import SessionDep, TransactionsDep
from service.http.transactions import share_pool
from service.keys.secrets import create_key
from service.principal import Principal
from service.settings import Settings
from service.store.tables import Workspace


@pytest.fixture
def small_app(settings: Settings) -> FastAPI:
    """Two connections in all, and routes that would starve for them if they could."""
    app = create_app(settings.model_copy(update={"database_pool_size": 2, "statement_timeout_ms": 60_000}))

    # The session comes first, so that the request already holds a turn when it asks who sent it.
    @app.get("/work")
    def work(session: SessionDep, principal: Annotated[Principal, Depends(RequireScope())]) -> dict[str, int]:
        return {"one": session.scalar(text("SELECT 1 FROM pg_sleep(0.005)")) or 0}

    @app.get("/async-work")
    async def async_work(
        transactions: TransactionsDep, principal: Annotated[Principal, Depends(RequireScope())]
    ) -> dict[str, int]:
        return {"one": await transactions.run(lambda session: session.scalar(text("SELECT 1"))) or 0}

    @app.post("/write")
    def write(session: SessionDep, background: BackgroundTasks) -> dict[str, str]:
        session.add(Workspace(id="ws_w", name="w"))
        session.flush()

        def look() -> None:
            with app.state.sessions() as other:
                seen.append(other.get(Workspace, "ws_w") is not None)

        background.add_task(look)
        return {}

    seen: list[bool] = []
    app.state.seen = seen
    return app


def test_fifty_at_once_on_two_connections(
    small_app: FastAPI, sessions: sessionmaker[Session], workspace_id: str
) -> None:
    with sessions.begin() as session:
        _, secret = create_key(session, workspace_id=workspace_id, name="k", scopes=["findings:read"])
    headers = {"Authorization": f"Bearer {secret}"}
    with TestClient(small_app, base_url="http://127.0.0.1") as client, ThreadPoolExecutor(50) as pool:
        paths = ["/work", "/async-work"] * 75
        statuses = list(pool.map(lambda path: client.get(path, headers=headers).status_code, paths))
    # Had one waited for a connection that another's thread was to free, the pool would have given up: 503.
    assert statuses == [200] * 150


def test_there_are_as_many_threads_as_connections(small_app: FastAPI) -> None:
    @small_app.get("/threads")
    async def threads() -> float:
        return current_default_thread_limiter().total_tokens

    with TestClient(small_app, base_url="http://127.0.0.1") as client:
        assert client.get("/threads").json() == 2


def test_the_commit_comes_before_the_answer(small_app: FastAPI) -> None:
    with TestClient(small_app, base_url="http://127.0.0.1") as client:
        assert client.post("/write").status_code == 200
    assert small_app.state.seen == [True]


def test_a_commit_that_fails_is_a_failed_request(small_app: FastAPI, sessions: sessionmaker[Session]) -> None:
    @small_app.post("/defer")
    def deferred(session: SessionDep) -> dict[str, str]:
        session.execute(text("CREATE TABLE late (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
        session.execute(text("INSERT INTO late VALUES (1), (1)"))
        return {}

    with TestClient(small_app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        response = client.post("/defer")
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")


@pytest.mark.parametrize("size", range(2, 40))
def test_the_pool_is_shared_out_whole(size: int) -> None:
    own, authentication = share_pool(size)
    assert own >= 1
    assert authentication >= 1
    assert own + authentication == size
