"""What is said of a model that the hub does not hand out; a local server plays the hub."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ANSWERS = {
    # As the hub answers: a gated model without and with a token, a wrong token, a model that does not exist.
    "org/gated": (401, "GatedRepo", "Access to model org/gated is restricted."),
    "org/not-yet-granted": (403, "GatedRepo", "Access to model org/not-yet-granted is restricted."),
    "org/token-may-not": (403, "", "Please enable access to public gated repositories in your token settings."),
    "org/wrong-token": (401, "", "Invalid credentials in Authorization header"),
    "org/missing": (401, "RepoNotFound", "Repository not found"),
    "org/no-revision": (404, "RevisionNotFound", "Revision not found"),
}
LOAD = """
import json, sys
from pathlib import Path
import torch
from service.contract.spec import ModelSource, ModelSpec, TrainingConfig
from worker.training.errors import TrainingError
from worker.training.models import load_model
found = {}
for location in json.loads(sys.argv[1]):
    spec = ModelSpec(source=ModelSource.HUB, location=location, revision="a" * 40)
    try:
        load_model(spec, TrainingConfig(), torch.device("cpu"), cache=Path(sys.argv[2]))
    except TrainingError as error:
        found[location] = error.failure.model_dump(mode="json")
print(json.dumps(found))
"""


class Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.removeprefix("/api/models")
        status, code, message = ANSWERS["/".join(path.split("/")[1:3])]
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815  # the base class's spelling

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def load_all(hub: str, folder: Path, **environment: str) -> dict[str, dict[str, str]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    result = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(list(ANSWERS)), str(folder)],
        env={**kept, "HF_ENDPOINT": hub, "HF_HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    failures: dict[str, dict[str, str]] = json.loads(result.stdout.splitlines()[-1])
    return failures


def test_a_model_that_is_refused_is_not_a_model_that_is_missing(hub: str, tmp_path: Path) -> None:
    token = "hf_" + "S3cret" * 6
    failures = load_all(hub, tmp_path, HF_TOKEN=token)
    assert {location: failure["code"] for location, failure in failures.items()} == {
        "org/gated": "model_gated",
        "org/not-yet-granted": "model_gated",
        "org/token-may-not": "model_gated",
        "org/wrong-token": "model_gated",
        "org/missing": "model_not_found",
        "org/no-revision": "model_not_found",
    }
    assert f"{hub}/org/gated" in failures["org/gated"]["hint"]
    assert "HF_TOKEN" in failures["org/gated"]["hint"]
    assert token not in json.dumps(failures)
