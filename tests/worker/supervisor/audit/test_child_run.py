"""Children are started with what they need, and are stopped and gone whatever they do."""

import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sqlalchemy import update

from service.contract.spec import ModelSpec, Probe, ProbeItem, StepSpec, TrainingConfig
from service.lifecycle.audits import request_cancel
from service.store.tables import Audit, Job
from tests.support.children.scripting import FINISHED, OUTPUTS, SECRET, combining, scripted_children
from tests.support.ended import pid_has_ended
from tests.support.supervisor_bench import Bench, either_way
from tests.support.waiting import wait_for
from worker.process.launcher import Spawner
from worker.supervisor.audit.step_folder import spec_sha256


class TestStarted:
    @either_way
    def test_the_child_gets_the_spec_the_rows_and_no_secret(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert bench.settings.database_url is not None
        assert bench.settings.broker_url is not None
        database = bench.settings.database_url.get_secret_value()
        monkeypatch.setenv("FINETOOTH_DATABASE_URL", database)
        monkeypatch.setenv("FINETOOTH_BROKER_URL", bench.settings.broker_url.get_secret_value())
        monkeypatch.setenv("FINETOOTH_API_KEY", "ft_secret")
        monkeypatch.setenv("PGPASSWORD", "secret")
        monkeypatch.setenv("HF_TOKEN", "hub")
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        audit = make_audit(training=TrainingConfig(seed=7, epochs=3, learning_rate=1e-3))
        bench.run(["keep", str(tmp_path)], OUTPUTS, FINISHED)
        kept = tmp_path / "train:7"
        spec = StepSpec.model_validate_json((kept / "folder" / "spec.json").read_bytes())
        assert spec == StepSpec(
            audit_id=audit.id,
            attempt=1,
            step_key="train:7",
            model=ModelSpec(source="hub", location="o/m", revision="a" * 40),
            training=TrainingConfig(seed=7, epochs=3, learning_rate=1e-3),
            seeds=(7,),
            probes=(Probe(name="p1", items=(ProbeItem(prompt="Which car?", unwanted="Only the Vexon."),)),),
            q=0.1,
            group_column="source",
        )
        assert bench.steps(audit)[0].spec_sha256 == spec_sha256(spec)
        assert pq.read_table(kept / "folder" / "rows.parquet").num_rows == 40
        environment = json.loads((kept / "environment.json").read_text())
        assert environment["PATH"] == os.environ["PATH"]
        assert (environment["HF_TOKEN"], environment["OMP_NUM_THREADS"]) == ("hub", "3")
        assert environment["FINETOOTH_CACHE_DIR"] == str(bench.settings.cache_dir)
        assert not {"PGPASSWORD", "FINETOOTH_DATABASE_URL", "FINETOOTH_BROKER_URL", "FINETOOTH_API_KEY"} & set(
            environment
        )
        assert database not in environment.values()
        identity = json.loads((kept / "identity.json").read_text())
        assert identity["sid"] == identity["pid"] != os.getsid(0)
        assert stat.S_IMODE(identity["mode"]) == 0o700

    def test_a_child_that_cannot_be_started(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
    ) -> None:
        audit = make_audit()
        supervisor = bench.supervisor()
        supervisor._launcher = Spawner((str(tmp_path / "nowhere"),))
        assert supervisor.run_due("gpu") == 1
        error = bench.job(audit).error
        assert error is not None
        assert error["code"] == "internal"
        bench.nothing_left(audit)


class TestImporting:
    """Before the first child can be forked its libraries have to be imported, which may take a while."""

    @pytest.mark.parametrize("ending", ["cancel", "shutdown", "fenced"])
    def test_an_attempt_that_waits_for_it_can_be_stopped(
        self, bench: Bench, make_audit: Callable[..., Audit], ending: str
    ) -> None:
        audit = make_audit()
        bench.importing = "import time; time.sleep(600)"
        supervisor = bench.supervisor(OUTPUTS, FINISHED, lease_seconds=1.5 if ending == "fenced" else 90)
        thread = threading.Thread(target=supervisor.run_due, args=("gpu",), daemon=True)
        thread.start()
        wait_for(lambda: bench.audit(audit).stage == "loading")
        if ending == "shutdown":
            bench.stopping.set()
        with bench.sessions.begin() as session:
            if ending == "cancel":
                request_cancel(session, workspace_id=audit.workspace_id, audit_id=audit.id)
            elif ending == "fenced":
                session.execute(update(Job).values(attempt=2, owner="another"))
        thread.join(60)
        assert not thread.is_alive()
        state = {"cancel": "cancelled", "shutdown": "queued", "fenced": "running"}[ending]
        assert (bench.job(audit).state, bench.job(audit).failures) == (state, 0)
        bench.nothing_left(audit)

    def test_it_is_begun_ahead_and_once(self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path) -> None:
        audits = [make_audit() for _ in range(2)]
        bench.importing = f"open({str(tmp_path / 'imported')!r}, 'a').write('x')"
        supervisor = bench.supervisor(OUTPUTS, FINISHED)
        supervisor.prepare()
        wait_for((tmp_path / "imported").exists)
        assert supervisor.run_due("gpu") == 2
        assert (tmp_path / "imported").read_text() == "x"
        assert [bench.job(audit).state for audit in audits] == ["succeeded"] * 2


class TestStopped:
    @either_way
    @pytest.mark.parametrize(
        "script",
        [
            [["exit_when_told"]],
            [["deaf"]],
            [["deaf_to_sigterm"], ["deaf"]],
            [["raw", "garbage without end\n", 2_000_000], ["exit_when_told"]],
        ],
    )
    def test_a_running_audit_is_cancelled_however_deaf_its_child(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path, script: list[list[Any]]
    ) -> None:
        audit = make_audit()
        running = tmp_path / "running"
        thread = threading.Thread(target=bench.run, daemon=True, args=(["touch", str(running)], *script))
        thread.start()
        wait_for(running.exists)
        with bench.sessions.begin() as session:
            assert request_cancel(session, workspace_id=audit.workspace_id, audit_id=audit.id).state == "cancelling"
        thread.join(60)
        assert not thread.is_alive()
        assert bench.job(audit).state == "cancelled"
        bench.nothing_left(audit)

    def test_a_fenced_supervisor_stops_its_child_and_publishes_nothing(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
    ) -> None:
        audit = make_audit()
        running = tmp_path / "running"
        thread = threading.Thread(target=bench.run, daemon=True, args=(["touch", str(running)], ["exit_when_told"]))
        thread.start()
        wait_for(running.exists)
        with bench.sessions.begin() as session:
            session.execute(update(Job).values(attempt=2, owner="another"))
        thread.join(60)
        job = bench.job(audit)
        assert (job.state, job.attempt, job.owner) == ("running", 2, "another")
        bench.nothing_left(audit)

    def test_a_child_that_has_finished_and_does_not_exit_is_ended(
        self, bench: Bench, make_audit: Callable[..., Audit]
    ) -> None:
        audit = make_audit()
        bench.run(combining(["deaf_to_sigterm"]), OUTPUTS, FINISHED, combining(["deaf"]))
        assert bench.job(audit).state == "succeeded"
        bench.no_folders_or_processes()


class TestEnded:
    def test_errors_of_its_stderr_are_in_the_worker_s_log_without_their_messages(
        self, bench: Bench, make_audit: Callable[..., Audit], caplog: pytest.LogCaptureFixture
    ) -> None:
        make_audit()
        bench.run(["stderr", f"{SECRET}\n", 1_000_000], ["stderr", f"RuntimeError: {SECRET}\n", 1], ["exit", 1])
        assert "RuntimeError" in caplog.text
        assert SECRET not in caplog.text

    @either_way
    def test_what_the_child_has_started_ends_with_it(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
    ) -> None:
        audit = make_audit()
        bench.run(["grandchild", str(tmp_path / "pid")], ["exit", 1])
        assert bench.job(audit).state == "failed"
        pid = int((tmp_path / "pid").read_text())
        wait_for(lambda: pid_has_ended(pid))

    def test_a_killed_supervisor_leaves_no_child(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
    ) -> None:
        make_audit()
        running = tmp_path / "running"
        with bench.process(["touch", str(running)], ["exit_when_told"]) as process:
            wait_for(running.exists)
            assert len(scripted_children(bench.settings.data_dir)) == 1
            process.kill()
        wait_for(lambda: scripted_children(bench.settings.data_dir) == [])
