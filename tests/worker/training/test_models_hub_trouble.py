"""Trouble on the way to the hub, and a full disk: neither is a model that was not found, and both are retried."""

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from service.contract.failure import Failure
from tests.support.model_hub import COMMIT, LOAD, Hub
from worker.child.failures import failure_of
from worker.supervisor.failures import is_retried


class TroubledHub(Hub):
    """Serves the model, but for its weights."""

    trouble: ClassVar[str]
    at: ClassVar[str] = "model.safetensors"

    def do_GET(self) -> None:  # noqa: N802  # the base class's spelling
        if not self.path.partition("?")[0].endswith(self.at):
            super().do_GET()
        elif self.trouble == "unavailable":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.trouble == "cut off" and self.command == "GET":
            size = (self.folder / "model.safetensors").stat().st_size
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.write(b"x" * (size // 2))
            self.reset()
        elif self.trouble == "reset":
            self.reset()
        else:
            super().do_GET()

    do_HEAD = do_GET  # noqa: N815  # the base class's spelling

    def reset(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()


@pytest.fixture
def hub(tiny_folder: Path, tmp_path: Path) -> Iterator[str]:
    TroubledHub.folder = Hub.folder = shutil.copytree(tiny_folder, tmp_path / "repository")
    TroubledHub.asked = Hub.asked = set()
    TroubledHub.trouble, TroubledHub.at = "", "model.safetensors"
    server = ThreadingHTTPServer(("127.0.0.1", 0), TroubledHub)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # connections are reset on purpose
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def load(hub: str, cache: Path, **environment: str) -> dict[str, Any] | None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    result = subprocess.run(
        [sys.executable, "-c", LOAD, COMMIT, str(cache)],
        env={**kept, "HF_ENDPOINT": hub, "HF_HOME": str(cache / "hub"), **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] | None = json.loads(result.stdout.splitlines()[-1])
    return found


def assert_retried(found: dict[str, Any] | None, code: str) -> None:
    assert found is not None
    assert found["code"] == code, found
    assert is_retried(Failure.model_validate(found))


@pytest.mark.parametrize(
    "trouble",
    ["cut off", pytest.param("reset", marks=pytest.mark.slow), pytest.param("unavailable", marks=pytest.mark.slow)],
)
def test_a_download_that_breaks_off_is_the_network_s(hub: str, tmp_path: Path, trouble: str) -> None:
    TroubledHub.trouble = trouble
    found = load(hub, tmp_path)
    assert_retried(found, "network")
    assert found is not None
    assert "'org/model'" in found["message"]
    assert hub in found["message"]
    TroubledHub.trouble = ""
    assert load(hub, tmp_path) is None


@pytest.mark.slow
def test_a_hub_that_fails_before_anything_is_known(hub: str, tmp_path: Path) -> None:
    TroubledHub.trouble, TroubledHub.at = "unavailable", COMMIT
    assert_retried(load(hub, tmp_path), "network")


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    found = load(nobody, tmp_path)
    assert_retried(found, "network")
    assert found is not None
    assert "HTTPS_PROXY" in found["hint"]


def test_a_worker_that_may_not_ask(hub: str, tmp_path: Path) -> None:
    found = load(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert_retried(found, "network")
    assert found is not None
    assert "HF_HUB_OFFLINE" in found["hint"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for the description of the model and not for its weights."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full(hub: str, small_disk: Path) -> None:
    """ENOSPC from the kernel, while the weights come."""
    found = load(hub, small_disk)
    assert_retried(found, "disk_full")
    assert found is not None
    assert found["message"] == "The worker's disk is full."


def test_a_disk_that_is_full_when_a_model_is_converted(small_disk: Path) -> None:
    """Safetensors has an error type of its own for it."""
    with pytest.raises(SafetensorError) as caught:
        save_file({"weight": torch.zeros(100_000)}, small_disk / "model.safetensors")
    assert_retried(failure_of(caught.value).model_dump(mode="json"), "disk_full")
