"""The API as processes of their own on one database and one object store."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from service.settings import Settings

PATIENCE = 60.0


@contextmanager
def api_process(settings: Settings) -> Iterator[str]:
    """The address of a running API process, as `finetooth up` starts it."""
    assert settings.database_url is not None
    assert settings.broker_url is not None
    given = {
        "FINETOOTH_DATABASE_URL": settings.database_url.get_secret_value(),
        "FINETOOTH_BROKER_URL": settings.broker_url.get_secret_value(),
        "FINETOOTH_DATA_DIR": str(settings.data_dir),
        "FINETOOTH_DATABASE_POOL_SIZE": "4",
        "FINETOOTH_OBJECT_URL": settings.object_url or "",
        "FINETOOTH_OBJECT_ENDPOINT": settings.object_endpoint or "",
    }
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.local.api", str(listener.fileno())],
            pass_fds=[listener.fileno()],
            env=os.environ | given,
        )
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            _wait_for(address, process)
            yield address
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _wait_for(address: str, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None, "the API ended while it started"
        try:
            urllib.request.urlopen(f"{address}/healthz", timeout=PATIENCE).close()
        except urllib.error.URLError:
            assert time.monotonic() < end, "the API did not start"
            time.sleep(0.1)
        else:
            return
