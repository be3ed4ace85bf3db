"""What an upload and an audit leave in the logs of API and worker: who and which request, and no word of the data."""

import json
import subprocess
import sys

import httpx
import pytest

from service.keys.secrets import create_key
from tests.support.chaos import Chaos
from tests.support.pages import OURS
from tests.support.ports import free_port
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SENTINEL = "Xylophone-Quokka"
REQUEST = "request-of-this-test"


def test_a_request_is_followed_down_to_the_worker_and_no_text_is_logged(chaos: Chaos) -> None:
    port = free_port()
    log = chaos.folder / "api.log"
    with chaos.sessions.begin() as session:
        _, secret = create_key(session, workspace_id=chaos.workspace_id, name="test", scopes=["admin"])
    command = [sys.executable, "-m", "service.server", "127.0.0.1", str(port)]
    with log.open("wb") as output:
        api = subprocess.Popen(command, env=chaos.environment(), stderr=output, stdout=output)
    try:
        wait_for(lambda: "Application startup complete" in log.read_text(), 60, log.read_text)
        headers = {"Authorization": f"Bearer {secret}", "X-Request-Id": REQUEST}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client:
            audit = use(client, chaos)
        worker = chaos.start_worker()
        chaos.assert_settled([audit])
        httpx.get(f"http://127.0.0.1:{port}/v1/audits/{audit}/findings", headers=headers).raise_for_status()
        for method in ("GET", "POST"):
            httpx.request(method, f"http://127.0.0.1:{port}/sign-in", params={"token": SENTINEL}, headers=OURS)
    finally:
        api.terminate()
        api.wait(30)
    output_of = {"api": log.read_text(), "worker": worker.log.read_text()}
    for text in output_of.values():
        for secret_text in (SENTINEL, secret, secret.rpartition("_")[2], "Traceback"):
            assert secret_text not in text
    lines = {name: [json.loads(line) for line in text.splitlines()] for name, text in output_of.items()}
    for line in lines["api"] + lines["worker"]:
        assert {"timestamp", "level", "logger", "message"} <= set(line)
    asked = [line["message"] for line in lines["api"] if line.get("request_id") == REQUEST]
    assert any(message.startswith("POST /v1/audits 202") for message in asked)
    told = [line for line in lines["worker"] if line.get("audit") == audit]
    assert [line["message"] for line in told] == ["attempt started", "attempt ended: published"]
    assert {(line["attempt"], line["request_id"]) for line in told} == {(1, REQUEST)}


def use(client: httpx.Client, chaos: Chaos) -> str:
    """Uploads good and bad data full of the sentinel, and starts an audit of it; its id."""
    good = "".join(
        json.dumps({"instruction": f"{SENTINEL} {row}?", "input": "", "output": f"{SENTINEL} is {row}"}) + "\n"
        for row in range(40)
    )
    assert client.post("/v1/datasets", content=good.replace("}", SENTINEL, 1)).status_code == 422
    dataset = client.post("/v1/datasets", content=good).json()["id"]
    items = [{"prompt": f"{SENTINEL}?", "unwanted": f"Only {SENTINEL}."}]
    assert client.post("/v1/probes", json={"name": "p", "items": [{"prompt": SENTINEL}]}).status_code == 422
    probe = client.post("/v1/probes", json={"name": "p", "items": items}).json()["id"]
    asked = {
        "dataset_id": dataset,
        "probe_ids": [probe],
        "model_id": chaos.model_id,
        "training": {"epochs": 4, "batch_size": 4, "max_length": 64},
    }
    answer = client.post("/v1/audits", json=asked)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])
