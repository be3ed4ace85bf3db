"""/metrics: what it counts, against what was done, and that it tells nothing of a workspace."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.contract.failure import ErrorCode, Failure
from service.lifecycle.jobs import claim, expire_one, fail, release
from service.lifecycle.workers import Device, beat
from service.store.counters import Counted, count
from service.store.tables import Audit


def scrape(client: TestClient) -> dict[tuple[str, ...], float]:
    """(name, label values...) to value."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_a_key_is_needed_and_any_host_name_will_do(client: TestClient, anonymous_client: TestClient) -> None:
    assert anonymous_client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"Host": "api:8000"}).status_code == 200


def test_jobs_queue_age_and_attempts(
    client: TestClient, make_audit: Callable[[], Audit], sessions: sessionmaker[Session]
) -> None:
    for _ in range(4):
        make_audit()
    with sessions.begin() as session:
        session.execute(text("UPDATE jobs SET next_attempt_at = next_attempt_at - interval '100 s'"))
    with sessions.begin() as session:
        gave_back = claim(session, lane="gpu", owner="a")
        assert gave_back is not None
        release(session, gave_back)
        broken = claim(session, lane="gpu", owner="a")
        assert broken is not None
        fail(session, broken, Failure(code=ErrorCode.OUT_OF_MEMORY, message="m", hint="h"))
        claim(session, lane="gpu", owner="b")
        session.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE owner = 'b'"))
    with sessions.begin() as session:
        assert expire_one(session, retry_seconds=1000) is not None
        beat(session, owner="a", lane="gpu", host="h", pid=1)
        beat(session, owner="b", lane="gpu", host="h", pid=2)
        beat(session, owner="c", lane="gpu", host="h", pid=3)
        assert claim(session, lane="gpu", owner="b")
        session.execute(text("UPDATE workers SET seen_at = seen_at - interval '1 day' WHERE owner = 'c'"))
    found = scrape(client)
    assert found["finetooth_jobs", "gpu", "queued"] == 2
    assert found["finetooth_jobs", "gpu", "running"] == 1
    assert found["finetooth_jobs", "gpu", "failed"] == 1
    assert 100 <= found["finetooth_queue_age_seconds", "gpu"] < 200
    assert found["finetooth_queue_age_seconds", "io"] == 0
    assert found["finetooth_attempts_total", "released"] == 1
    assert found["finetooth_attempts_total", "out_of_memory"] == 1
    assert found["finetooth_attempts_total", "lease_lost"] == 1
    assert found["finetooth_lease_expiries_total",] == 1
    workers = {tuple(labels): number for (name, *labels), number in found.items() if name == "finetooth_workers"}
    assert workers == {("gpu", "busy"): 1, ("gpu", "idle"): 1, ("io", "busy"): 0, ("io", "idle"): 0}


def test_what_never_happened_is_zero_so_that_its_first_time_is_an_increase(client: TestClient) -> None:
    found = scrape(client)
    assert found["finetooth_attempts_total", "network"] == 0
    assert {reason for name, *labels in found if name == "finetooth_attempts_total" for reason in labels} >= {
        "published",
        "cancelled",
        "released",
        *ErrorCode,
    }
    assert found["finetooth_attempts_started_total", "io"] == 0
    assert found["finetooth_stage_seconds_total", "training"] == 0


def test_workers_of_the_gpu_lane_by_device(client: TestClient, sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        for owner, lane, device in (
            ("a", "gpu", Device("NVIDIA H200", 2**37, 2**30)),
            ("b", "gpu", Device("NVIDIA H200", 2**37, 0)),
            ("c", "gpu", Device("cpu", 2**34, 0)),
            ("d", "gpu", None),
            ("gone", "gpu", Device("cpu", 2**34, 0)),
            ("e", "io", None),
        ):
            beat(session, owner=owner, lane=lane, host="h", pid=1, device=device)  # type: ignore[arg-type]
        session.execute(text("UPDATE workers SET seen_at = seen_at - interval '1 day' WHERE owner = 'gone'"))
    found = scrape(client)
    devices = {labels[0]: number for (name, *labels), number in found.items() if name == "finetooth_worker_devices"}
    assert devices == {"NVIDIA H200": 2, "cpu": 1, "unknown": 1}


def test_workers_count_in_the_database(client: TestClient, sessions: sessionmaker[Session]) -> None:
    for _ in range(2):
        with sessions.begin() as session:
            count(session, Counted.STAGE_SECONDS, "training", 2.5)
            count(session, Counted.SAMPLES, by=40)
            count(session, Counted.STARTED, "gpu")
            count(session, Counted.FENCED)
    with sessions() as session:
        count(session, Counted.FENCED)  # a transaction that is rolled back has counted nothing
    found = scrape(client)
    assert found["finetooth_stage_seconds_total", "training"] == 5
    assert found["finetooth_training_samples_total",] == 80
    assert found["finetooth_attempts_started_total", "gpu"] == 2
    assert found["finetooth_fenced_attempts_total",] == 2


def test_requests_are_counted_by_route_and_not_by_path(client: TestClient) -> None:
    for number in range(3):
        client.get(f"/v1/audits/aud_{number}")
    client.get("/wp-login.php")
    client.request("BREW", "/coffee")
    found = scrape(client)
    assert found["finetooth_http_request_seconds_count", "GET", "/v1/audits/{audit_id}", "4xx"] == 3
    assert found["finetooth_http_request_seconds_count", "any", "unknown", "4xx"] >= 2
    assert not [labels for labels in found if any("aud_" in part or "wp-login" in part for part in labels)]


def test_nothing_of_a_workspace_is_in_it(
    client: TestClient, make_audit: Callable[[], Audit], workspace_id: str
) -> None:
    audit = make_audit()
    client.get(f"/v1/audits/{audit.id}")
    answer = client.get("/metrics").text
    for identity in (audit.id, audit.job_id, audit.dataset_id, workspace_id):
        assert identity not in answer


SHARING = """
    import multiprocessing
    from service.ops.metrics import RequestMetrics

    def serve(number, metrics):
        for _ in range(number):
            metrics.observe("GET", "/x", 200, 0.1)
        return metrics.collect().decode()

    def child(number):
        print(serve(number, RequestMetrics()) or "nothing", flush=True)

    if __name__ == "__main__":
        for number in (2, 3):
            process = multiprocessing.get_context("spawn").Process(target=child, args=(number,))
            process.start()
            process.join()
"""


def test_several_processes_share_what_they_count_or_tell_nothing(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(SHARING))
    shared = tmp_path / "shared"
    shared.mkdir()

    def run(**environment: str) -> str:
        return subprocess.run(
            [sys.executable, program],
            env={**os.environ, "PYTHONPATH": str(Path.cwd()), **environment},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert run().split() == ["nothing", "nothing"]
    together = run(PROMETHEUS_MULTIPROC_DIR=str(shared))
    assert [line.split()[-1] for line in together.splitlines() if "_count{" in line] == ["2.0", "5.0"]
