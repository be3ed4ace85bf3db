"""Which files of a hub model are fetched, and what is refused before they are; a local server plays the hub."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

COMMIT = "c0ffee" * 6 + "abcd"
LOAD = """
import json, sys
from pathlib import Path
import torch
from service.contract.spec import ModelSource, ModelSpec, TrainingConfig
from worker.training.errors import TrainingError
from worker.training.models import load_model
spec = ModelSpec(source=ModelSource.HUB, location="org/model", revision=sys.argv[1])
try:
    load_model(spec, TrainingConfig(), torch.device("cpu"), cache=Path(sys.argv[2]))
    print("null")
except TrainingError as error:
    print(error.failure.model_dump_json())
"""


class Hub(BaseHTTPRequestHandler):
    folder: ClassVar[Path]
    asked: ClassVar[set[str]]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == f"/api/models/org/model/tree/{COMMIT}":
            files = [file for file in self.folder.rglob("*") if file.is_file()]
            entries = [
                {"type": "file", "path": str(f.relative_to(self.folder)), "size": f.stat().st_size, "oid": oid(f)}
                for f in files
            ]
            self.answer(json.dumps(entries).encode())
            return
        name = path.partition(f"/resolve/{COMMIT}/")[2]
        file = self.folder / name
        if name and file.is_file():
            self.asked.add(name)
            self.answer(file.read_bytes(), ETag=f'"{oid(file)}"', **{"X-Repo-Commit": COMMIT})
            return
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815  # the base class's spelling

    def answer(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def oid(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@pytest.fixture
def hub(tiny_folder: Path, tmp_path: Path) -> Iterator[str]:
    Hub.folder, Hub.asked = shutil.copytree(tiny_folder, tmp_path / "repository"), set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def load(hub: str, folder: Path) -> dict[str, str] | None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    result = subprocess.run(
        [sys.executable, "-c", LOAD, COMMIT, str(folder)],
        env={**kept, "HF_ENDPOINT": hub, "HF_HOME": str(folder / "hub")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    failure: dict[str, str] | None = json.loads(result.stdout.splitlines()[-1])
    return failure


def test_the_model_alone_is_fetched_and_no_pickle(hub: str, tmp_path: Path) -> None:
    (Hub.folder / "original").mkdir()
    for name in ("pytorch_model.bin", "consolidated.safetensors", "original/model.safetensors", "original/params.json"):
        (Hub.folder / name).write_bytes(b"not to be read")
    assert load(hub, tmp_path) is None
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= Hub.asked
    assert not {name for name in Hub.asked if "/" in name or name.endswith(".bin") or "consolidated" in name}


def test_an_adapter_is_refused_before_its_weights_are_fetched(hub: str, tmp_path: Path) -> None:
    """It names a base model, which could lie anywhere on the worker's disk, and brings a pickle."""
    (Hub.folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(Hub.folder)}))
    (Hub.folder / "adapter_model.bin").write_bytes(b"")
    failure = load(hub, tmp_path)
    assert failure is not None
    assert failure["code"] == "model_unsafe"
    assert "adapter" in failure["message"]
    assert not {name for name in Hub.asked if name.endswith((".bin", ".safetensors"))}


def test_damaged_weights_of_the_hub(hub: str, tmp_path: Path) -> None:
    weights = Hub.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    failure = load(hub, tmp_path)
    assert failure is not None
    assert failure["code"] == "model_not_found"
    assert "damaged" in failure["message"]
