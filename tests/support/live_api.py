"""The API on a real port, without workers: for clients that need a network."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.keys.secrets import create_key
from service.server.config import server_config
from service.settings import Settings
from service.store.engine import make_engine, make_sessions
from service.store.seed import ensure_workspace


@dataclass(frozen=True)
class LiveApi:
    """An API that answers, and a key with all rights."""

    url: str
    key: str
    workspace_id: str
    app: FastAPI


@contextmanager
def live_api(settings: Settings) -> Iterator[LiveApi]:
    """Serves on a free port of 127.0.0.1 for the time of the block."""
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    engine = make_engine(url, pooler=settings.database_pooler, application_name="test")
    with make_sessions(engine).begin() as session:
        workspace = ensure_workspace(session)
        _, key = create_key(session, workspace_id=workspace.id, name="test", scopes=["admin"])
    engine.dispose()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        app = create_app(settings)
        server = uvicorn.Server(server_config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, daemon=True, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield LiveApi(f"http://127.0.0.1:{listener.getsockname()[1]}", key, workspace.id, app)
        finally:
            server.should_exit = True
            thread.join(60)
