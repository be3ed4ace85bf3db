"""Which files of a hub model are fetched, and what is refused before they are; a local server plays the hub."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.model_hub import COMMIT, LOAD, Hub


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
