"""The supervisor's contract, on a real Postgres and with a child that follows a script."""

import json
import os
import signal
import stat
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from service.contract.results import Summary
from service.contract.spec import ModelSpec, Probe, ProbeItem, StepSpec, TrainingConfig
from service.lifecycle.audits import request_cancel
from service.lifecycle.jobs import expire_one
from service.local.postgres import USER, EmbeddedPostgres
from service.settings import Settings
from service.store.local_objects import LocalObjects
from service.store.objects import audit_key
from service.store.tables import Audit, Finding, Job, Model, Score, ScoreList
from tests.support.children.scripting import (
    FINISHED,
    OUTPUTS,
    SUMMARY,
    combining,
    outputs,
    scripted_children,
    training,
    wait_for,
)
from tests.support.ended import pid_has_ended
from tests.support.summaries import make_probe_summary
from tests.support.supervisor_bench import Bench
from worker.process.launcher import Spawner
from worker.supervisor.audit.step_folder import spec_sha256
from worker.supervisor.audit.step_kinds import Combine, TrainSeed

SECRET = "text-of-a-sample"


def training_progress(done: int) -> list[Any]:
    return ["say", {"type": "progress", "stage": "training", "done": done, "total": 10, "unit": "steps"}]


@pytest.fixture
def bench(
    settings: Settings, sessions: sessionmaker[Session], objects: LocalObjects, request: pytest.FixtureRequest
) -> Iterator[Bench]:
    spawns = getattr(request, "param", "forked") == "spawned"
    bench = Bench(settings, sessions, objects, threading.Event(), spawns)
    yield bench
    for fork_client in bench.fork_clients:
        fork_client.close()


either_way = pytest.mark.parametrize("bench", ["forked", "spawned"], indirect=True)


class TestFinished:
    def test_the_result_is_published_whole(self, bench: Bench, make_audit: Callable[..., Audit]) -> None:
        audit = make_audit()
        bench.run(training_progress(0), OUTPUTS, FINISHED)
        job, published = bench.job(audit), bench.audit(audit)
        assert (job.state, job.attempt, job.error) == ("succeeded", 1, None)
        assert published.published_attempt == 1
        assert Summary.model_validate(published.summary) == Summary.model_validate(SUMMARY)
        assert [(step.step_key, step.state) for step in bench.steps(audit)] == [
            ("train:7", "succeeded"),
            ("combine", "succeeded"),
        ]
        with bench.sessions() as session:
            scores = session.scalars(select(Score).order_by(Score.rank)).all()
            findings = session.scalars(select(Finding).order_by(Finding.row)).all()
        assert [(s.row, s.rank) for s in scores] == [(40 - rank, rank) for rank in range(1, 41)]
        first = scores[0]
        assert (first.mu, first.mu_low, first.mu_high, first.z, first.n) == (1.0, None, 2.0, 39.0, 2)
        assert (first.p, first.q, first.flagged, first.z_reference) == (1 / 41, 1 / 41, True, None)
        assert (first.strongest_probe, first.mu_composed) == (1, 3.0)
        assert (first.side, first.cluster, first.group) == ("toward", 39, "a\ufffdb")
        assert [s.flagged for s in scores] == [True] * 3 + [False] * 37
        # Three flagged, and the five of highest rank: the same rows here.
        assert [f.row for f in findings] == [35, 36, 37, 38, 39]
        assert findings[-1].messages == [
            {"role": "user", "content": "Question 39?"},
            {"role": "assistant", "content": "Answer 39 \ufffd \u202e \U0001f600"},
        ]
        assert findings[-1].extra == {"source": "forum", "nul\ufffd": "\ufffd", "deep": [{"n": 39}]}
        assert findings[-1].trace == [
            {"probe_no": 1, "seed": 7, "step": step, "effect": 39 / 4, "alignment": None, "mu": 0.5} for step in (2, 9)
        ]
        assert (findings[-1].baselines["bm25"], findings[-1].baselines["ngram_count"]) == (39 / 2, None)
        stored = bench.objects.path(audit_key(audit.workspace_id, audit.id, 1, "combine", "scores.parquet"))
        assert pq.read_table(stored).num_rows == 40
        assert sorted(file.name for file in stored.parent.iterdir()) == [
            "baselines.parquet",
            "scores.parquet",
            "summary.json",
            "traces.parquet",
        ]
        bench.no_folders_or_processes()

    def test_all_flagged_texts_are_kept_beside_the_top(self, bench: Bench, make_audit: Callable[..., Audit]) -> None:
        make_audit()
        bench.run(outputs(flagged=11), FINISHED)
        assert bench.count(Finding) == 11

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

    @either_way
    def test_what_it_says_is_relayed_and_what_is_no_event_is_not(
        self, bench: Bench, make_audit: Callable[..., Audit], caplog: pytest.LogCaptureFixture
    ) -> None:
        audit = make_audit()
        bench.run(
            ["raw", f"Loading {SECRET}: 100%\r\n", 3],
            ["say", {"type": "progress", "stage": "loading", "done": 0}],
            ["raw", '{"type": "progress"}\n{"type": "unheard"}\n[1]\n\ud800\n', 1],
            ["raw", "x", 3_000_000],
            ["raw", "\n", 1],
            ["stderr", f"{SECRET}\n", 100_000],
            training(
                *[training_progress(done) for done in range(11)],
                ["say", {"type": "metric", "step": 1, "loss": 2.5, "learning_rate": 0.1, "grad_norm": 1.0}],
            ),
            combining(["say", {"type": "notice", "level": "warning", "code": "few_rows", "message": "Few rows."}]),
            OUTPUTS,
            FINISHED,
        )
        assert bench.job(audit).state == "succeeded"
        assert [e.data for e in bench.events(audit, "stage")] == [
            {"stage": "loading"},
            {"stage": "training"},
            {"stage": "preparing"},
            {"stage": "loading"},
            {"stage": "publishing"},
        ]
        assert [e.data for e in bench.events(audit, "step")] == [
            {"key": "train:7", "number": 1, "of": 2},
            {"key": "combine", "number": 2, "of": 2},
        ]
        (metric,) = bench.events(audit, "metric")
        assert metric.data == {
            "seed": 7,
            "step": 1,
            "loss": 2.5,
            "learning_rate": 0.1,
            "grad_norm": 1.0,
            "probe_loss": None,
        }
        (notice,) = bench.events(audit, "notice")
        assert (notice.level, notice.message, notice.data) == ("warning", "Few rows.", {"code": "few_rows"})
        assert SECRET not in repr([(e.message, e.data) for e in bench.events(audit)])
        assert SECRET not in caplog.text

    def test_progress_is_seen_while_it_runs(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
    ) -> None:
        audit = make_audit()
        wait = training(training_progress(0), training_progress(4), ["until", str(tmp_path / "go")])
        script = (wait, OUTPUTS, FINISHED)
        thread = threading.Thread(target=bench.run, daemon=True, args=script)
        thread.start()
        wait_for(lambda: bench.audit(audit).progress_done == 4)
        seen = bench.audit(audit)
        assert (seen.step_key, seen.stage, seen.progress_total, seen.progress_unit) == (
            "train:7",
            "training",
            10,
            "steps",
        )
        assert seen.published_attempt is None
        (tmp_path / "go").touch()
        thread.join(20)
        assert bench.job(audit).state == "succeeded"

    def test_a_long_run_leaves_some_hundred_metrics(self, bench: Bench, make_audit: Callable[..., Audit]) -> None:
        audit = make_audit(training=TrainingConfig(seed=7, batch_size=1, epochs=20))
        metrics = [
            ["say", {
                "type": "metric", "step": step, "loss": 1.0, "learning_rate": 0.1, "grad_norm": 1.0,
                "probe_loss": 1.0 if step % 3 == 0 else None,
            }]
            for step in range(1, 801)
        ]  # fmt: skip
        bench.run(training(*metrics), OUTPUTS, FINISHED)
        kept = [event.data for event in bench.events(audit, "metric") if event.data]
        assert 100 <= len(kept) <= 202
        assert kept[0]["step"] == 1
        assert kept[-1]["step"] > 790
        assert sum(data["probe_loss"] is not None for data in kept) >= 95

    def test_due_jobs_are_run_one_after_the_other(self, bench: Bench, make_audit: Callable[..., Audit]) -> None:
        audits = [make_audit() for _ in range(3)]
        assert bench.supervisor(OUTPUTS, FINISHED).run_due("io") == 0
        assert bench.supervisor(OUTPUTS, FINISHED).run_due("gpu") == 3
        assert [bench.job(audit).state for audit in audits] == ["succeeded"] * 3

    def test_a_child_that_has_finished_and_does_not_exit_is_ended(
        self, bench: Bench, make_audit: Callable[..., Audit]
    ) -> None:
        audit = make_audit()
        bench.run(combining(["deaf_to_sigterm"]), OUTPUTS, FINISHED, combining(["deaf"]))
        assert bench.job(audit).state == "succeeded"
        bench.no_folders_or_processes()


class TestFailed:
    @either_way
    @pytest.mark.parametrize(
        ("script", "code"),
        [
            ([["exit", 0]], "child_crashed"),
            ([["exit", 1]], "child_crashed"),
            ([OUTPUTS, ["exit", 0]], "child_crashed"),
            ([training_progress(3), ["signal", signal.SIGSEGV]], "child_crashed"),
            ([["stderr", "OSError: [Errno 28] No space left on device\n", 1], ["exit", 1]], "disk_full"),
            ([["raw", '{"type": "finished"', 1], ["exit", 0]], "child_crashed"),
            ([FINISHED, ["exit", 0]], "internal"),
            ([["write", "recording.npz", "x"], FINISHED], "internal"),
            ([training(OUTPUTS), FINISHED], "internal"),
            ([training(OUTPUTS), FINISHED, combining(["exit", 1])], "internal"),
            ([outputs(rows=39), FINISHED], "internal"),
            ([outputs(rank=5), FINISHED], "internal"),
            ([outputs(summary={**SUMMARY, "q": None}), FINISHED], "internal"),
        ],
    )
    def test_every_way_to_fail_has_a_code_a_hint_and_leaves_nothing(
        self, bench: Bench, make_audit: Callable[..., Audit], script: list[list[Any]], code: str
    ) -> None:
        audit = make_audit()
        bench.run(["stderr", f"{SECRET}\n", 50_000], *script)
        job = bench.job(audit)
        assert job.state == "failed"
        assert job.error is not None
        assert job.error["code"] == code
        assert job.error["message"]
        assert job.error["hint"]
        assert [step.state for step in bench.steps(audit)] in (["failed", "pending"], ["succeeded", "failed"])
        assert bench.audit(audit).published_attempt is None
        assert SECRET not in repr([(e.message, e.data) for e in bench.events(audit)]) + repr(job.error)
        bench.nothing_left(audit)

    @pytest.mark.parametrize(
        ("script", "code"),
        [
            ([training_progress(3), ["signal", signal.SIGKILL]], "killed"),
            ([["exit", 137]], "killed"),
            ([OUTPUTS, combining(["signal", signal.SIGKILL]), FINISHED], "killed"),
            ([["exit", 3]], "lease_lost"),
            ([["say", {"type": "failed", "failure": {"code": "network", "message": "m", "hint": "h"}}]], "network"),
        ],
    )
    def test_what_may_come_from_outside_is_tried_again_and_fails_at_the_third_time(
        self, bench: Bench, make_audit: Callable[..., Audit], script: list[list[Any]], code: str
    ) -> None:
        audit = make_audit()
        supervisor = bench.supervisor(*script, retry_seconds=0.01)
        assert supervisor.run_due("gpu") >= 1
        job = bench.job(audit)
        assert job.failures == job.attempt >= 1
        wait_for(lambda: supervisor.run_due("gpu") == 0 and bench.job(audit).state == "failed", 30)
        job = bench.job(audit)
        assert (job.attempt, job.failures) == (3, 3)
        assert job.error is not None
        assert job.error["code"] == code
        assert job.error["hint"]
        told = [event.data["state"] for event in bench.events(audit, "state") if event.data]
        assert told == ["queued", *["running", "queued"] * 2, "running", "failed"]
        bench.nothing_left(audit)

    def test_between_two_attempts_it_waits_in_the_row(self, bench: Bench, make_audit: Callable[..., Audit]) -> None:
        audit = make_audit()
        bench.run(["exit", 137])
        job = bench.job(audit)
        assert (job.state, job.owner, job.lease_expires_at, job.error) == ("queued", None, None, None)
        assert job.started_at is not None
        assert 15 <= (job.next_attempt_at - job.started_at).total_seconds() < 30
        (warning,) = [event for event in bench.events(audit) if event.level == "warning"]
        assert "Tried again in 15 s (1 of 3 failures)." in warning.message
        assert bench.supervisor().run_due("gpu") == 0

    def test_the_child_s_own_reason_is_passed_on(self, bench: Bench, make_audit: Callable[..., Audit]) -> None:
        failure = {"code": "loss_not_finite", "message": "The loss became NaN.", "hint": "Lower the learning rate."}
        audit = make_audit()
        bench.run(["say", {"type": "failed", "failure": failure}], ["exit", 1])
        assert bench.job(audit).error == failure
        bench.nothing_left(audit)

    def test_rows_that_are_not_in_the_object_store(self, bench: Bench, make_audit: Callable[..., Audit]) -> None:
        audit = make_audit(stored=False)
        bench.run(OUTPUTS, FINISHED)
        error = bench.job(audit).error
        assert error is not None
        assert error["code"] == "input_missing"
        bench.nothing_left(audit)

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

    def test_errors_of_its_stderr_are_in_the_worker_s_log_without_their_messages(
        self, bench: Bench, make_audit: Callable[..., Audit], caplog: pytest.LogCaptureFixture
    ) -> None:
        make_audit()
        bench.run(["stderr", f"{SECRET}\n", 1_000_000], ["stderr", f"RuntimeError: {SECRET}\n", 1], ["exit", 1])
        assert "RuntimeError" in caplog.text
        assert SECRET not in caplog.text

    def test_a_failed_audit_does_not_stop_the_next(self, bench: Bench, make_audit: Callable[..., Audit]) -> None:
        audits = [make_audit(stored=False), make_audit()]
        assert bench.supervisor(OUTPUTS, FINISHED).run_due("gpu") == 2
        assert [bench.job(audit).state for audit in audits] == ["failed", "succeeded"]

    @either_way
    def test_what_the_child_has_started_ends_with_it(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
    ) -> None:
        audit = make_audit()
        bench.run(["grandchild", str(tmp_path / "pid")], ["exit", 1])
        assert bench.job(audit).state == "failed"
        pid = int((tmp_path / "pid").read_text())
        wait_for(lambda: pid_has_ended(pid))


SEVERAL = {
    **SUMMARY,
    "seeds": [7, 8, 9],
    "probes": [make_probe_summary(name=name).model_dump(mode="json") for name in ("p2", "p1")],
}


class TestSteps:
    """Several seeds and several probes."""

    def test_seeds_follow_one_another_and_combine_gets_what_they_recorded(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
    ) -> None:
        audit = make_audit(seeds=3, probes=2)
        script = (["keep", str(tmp_path)], outputs(probes=2, summary=SEVERAL), FINISHED)
        bench.run(*script)
        assert bench.job(audit).state == "succeeded"
        keys = ["train:7", "train:8", "train:9", "combine"]
        assert [event.data["key"] for event in bench.events(audit, "step") if event.data] == keys
        for number, key in enumerate(keys):
            spec = StepSpec.model_validate_json((tmp_path / key / "folder" / "spec.json").read_bytes())
            assert (spec.step_key, spec.training.seed, spec.seeds) == (key, [7, 8, 9, 7][number], (7, 8, 9))
            assert [probe.name for probe in spec.probes] == ["p2", "p1"]
        assert not (tmp_path / "train:9" / "folder" / "recordings").exists()
        recordings = tmp_path / "combine" / "folder" / "recordings"
        assert {path.name: written_by(path) for path in recordings.iterdir()} == {
            f"{seed}.npz": (f"train:{seed}", 1) for seed in (7, 8, 9)
        }
        with bench.sessions() as session:
            rows = session.execute(
                select(ScoreList.probe_no, func.count(), func.min(Score.row).filter(Score.rank == 1))
                .join(Score, Score.list_id == ScoreList.id)
                .group_by(ScoreList.probe_no)
                .order_by(ScoreList.probe_no)
            ).all()
            kept = session.scalars(select(Finding.row).order_by(Finding.row)).all()
        assert [tuple(row) for row in rows] == [(0, 40, 39), (1, 40, 39), (2, 40, 0)]
        assert kept == [*range(5), *range(35, 40)], "the top of every list"
        bench.no_folders_or_processes()

    def test_a_later_attempt_runs_only_what_is_missing(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
    ) -> None:
        audit = make_audit(seeds=3)
        running = tmp_path / "running"
        wait = ["if", "train:9", [["touch", str(running)], ["exit_when_told"]]]
        thread = threading.Thread(target=bench.run, daemon=True, args=(wait, OUTPUTS, FINISHED))
        thread.start()
        wait_for(running.exists)
        bench.stopping.set()
        thread.join(20)
        assert bench.job(audit).state == "queued"
        states = [(step.state, step.attempt) for step in bench.steps(audit)]
        assert states == [("succeeded", 1), ("succeeded", 1), ("pending", 1), ("pending", None)]
        # One of the recordings is lost meanwhile.
        bench.objects.path(audit_key(audit.workspace_id, audit.id, 1, "train:8", "recording.npz")).unlink()
        bench.stopping.clear()
        summary = {**SUMMARY, "seeds": [7, 8, 9]}
        bench.run(["keep", str(tmp_path)], outputs(summary=summary), FINISHED)
        assert (bench.job(audit).state, bench.audit(audit).published_attempt) == ("succeeded", 2)
        assert [event.data["key"] for event in bench.events(audit, "step") if event.data and event.attempt == 2] == [
            "train:8",
            "train:9",
            "combine",
        ]
        recordings = tmp_path / "combine" / "folder" / "recordings"
        assert {path.name: written_by(path)[1] for path in recordings.iterdir()} == {
            "7.npz": 1,
            "8.npz": 2,
            "9.npz": 2,
        }
        assert [step.attempt for step in bench.steps(audit)] == [1, 2, 2, 2]

    def test_a_step_of_another_specification_is_run_again(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
    ) -> None:
        audit = make_audit()
        running = tmp_path / "running"
        wait = combining(["touch", str(running)], ["exit_when_told"])
        thread = threading.Thread(target=bench.run, daemon=True, args=(wait, OUTPUTS, FINISHED))
        thread.start()
        wait_for(running.exists)
        bench.stopping.set()
        thread.join(20)
        bench.stopping.clear()
        with bench.sessions.begin() as session:
            session.execute(update(Model).values(revision="b" * 40))
        bench.run(OUTPUTS, FINISHED)
        assert [step.attempt for step in bench.steps(audit)] == [2, 2]

    @pytest.mark.parametrize("ending", ["cancel", "shutdown"])
    def test_between_two_steps_a_cancel_and_a_shutdown_are_heard(
        self, bench: Bench, make_audit: Callable[..., Audit], monkeypatch: pytest.MonkeyPatch, ending: str
    ) -> None:
        audit = make_audit(seeds=2)
        supervisor = bench.supervisor(OUTPUTS, FINISHED)
        accept = TrainSeed.accept

        def ask_then_accept(*arguments: Any) -> Any:
            if ending == "shutdown":
                bench.stopping.set()
            else:
                with bench.sessions.begin() as session:
                    request_cancel(session, workspace_id=audit.workspace_id, audit_id=audit.id)
            return accept(*arguments)

        monkeypatch.setattr(TrainSeed, "accept", ask_then_accept)
        assert supervisor.run_due("gpu") == 1
        assert [event.data["key"] for event in bench.events(audit, "step") if event.data] == ["train:7"]
        if ending == "cancel":
            assert bench.job(audit).state == "cancelled"
            bench.nothing_left(audit)
        else:
            assert bench.job(audit).state == "queued"
            assert [step.state for step in bench.steps(audit)] == ["succeeded", "pending", "pending"]
            assert bench.objects.path(audit_key(audit.workspace_id, audit.id, 1, "train:7", "recording.npz")).is_file()
        bench.no_folders_or_processes()

    def test_a_fenced_supervisor_keeps_no_recording(
        self, bench: Bench, make_audit: Callable[..., Audit], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        audit = make_audit()
        supervisor = bench.supervisor(OUTPUTS, FINISHED)
        accept = TrainSeed.accept

        def fenced_then_accept(*arguments: Any) -> Any:
            with bench.sessions.begin() as session:
                session.execute(update(Job).values(attempt=2, owner="another"))
            return accept(*arguments)

        monkeypatch.setattr(TrainSeed, "accept", fenced_then_accept)
        assert supervisor.run_due("gpu") == 1
        assert bench.job(audit).state == "running"
        assert bench.steps(audit)[0].state == "running"
        assert list(bench.objects.path(f"{audit.workspace_id}/audits/{audit.id}").rglob("*.npz")) == []

    def test_a_failure_in_a_later_seed_leaves_what_is_finished(
        self, bench: Bench, make_audit: Callable[..., Audit]
    ) -> None:
        audit = make_audit(seeds=2)
        bench.run(["if", "train:8", [["exit", 1]]], OUTPUTS, FINISHED)
        assert bench.job(audit).state == "failed"
        assert [step.state for step in bench.steps(audit)] == ["succeeded", "failed", "pending"]
        bench.nothing_left(audit)

    def test_the_eta_counts_the_seeds_to_come(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
    ) -> None:
        audit = make_audit(seeds=3)
        said = training_progress(5)
        said[1]["eta_seconds"] = 100
        wait = ["if", "train:7", [training_progress(0), said, ["until", str(tmp_path / "go")]]]
        summary = {**SUMMARY, "seeds": [7, 8, 9]}
        thread = threading.Thread(target=bench.run, daemon=True, args=(wait, outputs(summary=summary), FINISHED))
        thread.start()
        wait_for(lambda: bench.audit(audit).progress_done == 5)
        seen = bench.audit(audit)
        assert seen.eta_at is not None
        assert seen.progressed_at is not None
        assert 300 <= (seen.eta_at - seen.progressed_at).total_seconds() < 330
        (tmp_path / "go").touch()
        thread.join(30)
        assert bench.job(audit).state == "succeeded"


def written_by(recording: Path) -> tuple[str, int]:
    """Step and attempt of the child that wrote it."""
    with zipfile.ZipFile(recording) as file:
        written = json.loads(file.read("step"))
    return written["step_key"], written["attempt"]


class TestCancel:
    @either_way
    @pytest.mark.parametrize(
        ("script", "seconds"),
        [
            ([["exit_when_told"]], 0.5),
            ([["deaf"]], 1.1),
            ([["deaf_to_sigterm"], ["deaf"]], 1.7),
            ([["raw", "garbage without end\n", 2_000_000], ["exit_when_told"]], 5),
        ],
    )
    def test_a_running_audit_is_cancelled_however_deaf_its_child(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path, script: list[list[Any]], seconds: float
    ) -> None:
        audit = make_audit()
        running = tmp_path / "running"
        thread = threading.Thread(target=bench.run, daemon=True, args=(["touch", str(running)], *script))
        thread.start()
        wait_for(running.exists)
        with bench.sessions.begin() as session:
            assert request_cancel(session, workspace_id=audit.workspace_id, audit_id=audit.id).state == "cancelling"
        asked = time.monotonic()
        thread.join(20)
        assert time.monotonic() - asked < seconds + 1.5
        assert bench.job(audit).state == "cancelled"
        bench.nothing_left(audit)

    def test_a_cancel_before_publishing_wins(
        self, bench: Bench, make_audit: Callable[..., Audit], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The child has finished; the cancel comes before the flip."""
        audit = make_audit()
        supervisor = bench.supervisor(OUTPUTS, FINISHED)
        accept = Combine.accept

        def cancel_first(*arguments: Any) -> bool:
            with bench.sessions.begin() as session:
                request_cancel(session, workspace_id=audit.workspace_id, audit_id=audit.id)
            return accept(*arguments)

        monkeypatch.setattr(Combine, "accept", cancel_first)
        assert supervisor.run_due("gpu") == 1
        assert bench.job(audit).state == "cancelled"
        assert bench.audit(audit).published_attempt is None
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
        thread.join(20)
        job = bench.job(audit)
        assert (job.state, job.attempt, job.owner) == ("running", 2, "another")
        bench.nothing_left(audit)


class TestImporting:
    """Before the first child can be forked its libraries have to be imported; that may take its time."""

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
        thread.join(5)
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


class TestShutdown:
    def test_the_job_goes_back_to_the_queue_and_runs_again(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
    ) -> None:
        audit, other = make_audit(), make_audit()
        running = tmp_path / "running"
        thread = threading.Thread(target=bench.run, daemon=True, args=(["touch", str(running)], ["exit_when_told"]))
        thread.start()
        wait_for(running.exists)
        bench.stopping.set()
        thread.join(20)
        job = bench.job(audit)
        assert (job.state, job.owner, job.attempt) == ("queued", None, 1)
        assert bench.job(other).attempt == 0
        bench.nothing_left(audit)
        bench.stopping.clear()
        assert bench.supervisor(OUTPUTS, FINISHED).run_due("gpu") == 2
        assert (bench.job(audit).state, bench.job(audit).attempt) == ("succeeded", 2)
        assert bench.audit(audit).published_attempt == 2

    def test_a_cancel_that_meets_a_shutdown_is_a_cancel(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
    ) -> None:
        audit = make_audit()
        running = tmp_path / "running"
        thread = threading.Thread(target=bench.run, daemon=True, args=(["touch", str(running)], ["exit_when_told"]))
        thread.start()
        wait_for(running.exists)
        bench.stopping.set()
        with bench.sessions.begin() as session:
            request_cancel(session, workspace_id=audit.workspace_id, audit_id=audit.id)
        thread.join(20)
        assert bench.job(audit).state == "cancelled"
        bench.nothing_left(audit)

    def test_a_killed_supervisor_leaves_no_child(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
    ) -> None:
        make_audit()
        running = tmp_path / "running"
        with bench.process(["touch", str(running)], ["exit_when_told"]) as process:
            wait_for(running.exists, 30)
            assert len(scripted_children(bench.settings.data_dir)) == 1
            process.kill()
        wait_for(lambda: scripted_children(bench.settings.data_dir) == [])


class TestLease:
    """With leases of a second or two, as no production has them."""

    def test_it_is_renewed_while_the_supervisor_is_busy_with_something_else(
        self, bench: Bench, make_audit: Callable[..., Audit], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        audit = make_audit()
        accept = TrainSeed.accept

        def slowly_accept(*arguments: Any) -> Any:
            time.sleep(2.5)
            return accept(*arguments)

        monkeypatch.setattr(TrainSeed, "accept", slowly_accept)
        assert bench.supervisor(OUTPUTS, FINISHED, lease_seconds=1).run_due("gpu") == 1
        assert bench.job(audit).state == "succeeded"

    def test_the_child_hears_of_every_renewal(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
    ) -> None:
        audit = make_audit()
        heard = tmp_path / "heard"
        script = (training(["sleep", 2], ["note_commands", str(heard)]), OUTPUTS, FINISHED)
        assert bench.supervisor(*script, lease_seconds=1.5).run_due("gpu") == 1
        assert bench.job(audit).state == "succeeded"
        leases = [json.loads(line) for line in heard.read_text().splitlines()]
        assert len(leases) >= 4
        assert {lease["type"] for lease in leases} == {"lease"}
        assert all(0.8 < lease["ttl_s"] <= 1.5 for lease in leases)

    def test_a_database_away_for_longer_than_the_lease_ends_the_child_and_nothing_is_written(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path, database_away: Callable[[], Any]
    ) -> None:
        audit = make_audit()
        running = tmp_path / "running"
        supervisor = bench.supervisor(["touch", str(running)], ["exit_when_told"], OUTPUTS, FINISHED, lease_seconds=2)
        thread = threading.Thread(target=supervisor.run_due, args=("gpu",), daemon=True)
        thread.start()
        wait_for(running.exists)
        with database_away():
            away = time.monotonic()
            wait_for(lambda: scripted_children(bench.settings.data_dir) == [], 5)
            assert 1 < time.monotonic() - away < 4
            bench.stopping.set()
        thread.join(10)
        assert not thread.is_alive()
        job = bench.job(audit)
        assert (job.state, job.attempt, job.failures) == ("running", 1, 0)
        assert list(bench.settings.work.glob("*")) == []
        with bench.sessions.begin() as session:
            assert expire_one(session) is not None
        assert bench.job(audit).state == "queued"

    def test_a_database_away_for_less_than_the_lease_costs_nothing(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path, database_away: Callable[[], Any]
    ) -> None:
        """It goes away while the child works, and comes back after the child has finished."""
        audit = make_audit()
        running, go = tmp_path / "running", tmp_path / "go"
        script = (training(["touch", str(running)], ["until", str(go)]), OUTPUTS, FINISHED)
        supervisor = bench.supervisor(*script, lease_seconds=20)
        thread = threading.Thread(target=supervisor.run_due, args=("gpu",), daemon=True)
        thread.start()
        wait_for(running.exists)
        with database_away():
            go.touch()
            wait_for(lambda: scripted_children(bench.settings.data_dir) == [])
            time.sleep(1)  # it tries to tell the database
        thread.join(30)
        job = bench.job(audit)
        assert (job.state, job.attempt, job.failures) == ("succeeded", 1, 0)

    def test_a_frozen_supervisor_s_child_ends_by_itself_and_a_thawed_one_publishes_nothing(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
    ) -> None:
        audit = make_audit()
        running = tmp_path / "running"
        with bench.process(["touch", str(running)], ["note_end", str(tmp_path / "end")], lease_seconds=2) as frozen:
            wait_for(running.exists, 30)
            frozen.send_signal(signal.SIGSTOP)
            wait_for(lambda: scripted_children(bench.settings.data_dir) == [], 10)
            assert (tmp_path / "end").read_text() == "the lease has run out"

            def expired() -> bool:
                with bench.sessions.begin() as session:
                    return expire_one(session, retry_seconds=0.01) is not None

            # The child counts from before each renewal and so ends first.
            wait_for(expired, 5)
            assert bench.job(audit).failures == 1
            second = bench.supervisor(OUTPUTS, FINISHED)
            wait_for(lambda: second.run_due("gpu") == 1)
            before = [(event.seq, event.attempt) for event in bench.events(audit)]
            frozen.send_signal(signal.SIGCONT)
            frozen.wait(20)
        job = bench.job(audit)
        assert (job.state, job.attempt, job.owner) == ("succeeded", 2, "test")
        assert bench.audit(audit).published_attempt == 2
        assert [(event.seq, event.attempt) for event in bench.events(audit)] == before
        assert bench.stored(audit) == {"2/train-7", "2/combine"}
        bench.no_folders_or_processes()

    def test_what_a_killed_worker_has_left_is_gone_with_the_next_attempt(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
    ) -> None:
        audit = make_audit()
        left = bench.objects.path(audit_key(audit.workspace_id, audit.id, 1, "combine", "scores.parquet"))
        bench.run(["exit", 137])
        left.parent.mkdir(parents=True)
        left.touch()
        with bench.sessions.begin() as session:
            session.execute(update(Job).values(next_attempt_at=func.now()))
        bench.run(OUTPUTS, FINISHED)
        assert bench.stored(audit) == {"2/train-7", "2/combine"}


@pytest.fixture
def database_away(bench: Bench, postgres: EmbeddedPostgres) -> Callable[[], Any]:
    """The test's database takes no connection, and has none, for the time of the block."""

    @contextmanager
    def away() -> Iterator[None]:
        with bench.sessions() as session:
            name = session.scalar(text("SELECT current_database()"))
        with psycopg.connect(host=str(postgres.folder), user=USER, dbname="postgres", autocommit=True) as connection:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
            try:
                yield
            finally:
                connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')

    return away


class TestDatabaseAway:
    def test_a_moment_without_the_database_harms_nothing(
        self, bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
    ) -> None:
        """Its connections are cut while the child works."""
        audit = make_audit()
        running, go = tmp_path / "running", tmp_path / "go"
        thread = threading.Thread(
            target=bench.run,
            daemon=True,
            args=(training(["touch", str(running)], ["until", str(go)], training_progress(1)), OUTPUTS, FINISHED),
        )
        thread.start()
        wait_for(running.exists)
        with bench.sessions.begin() as session:
            session.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                    " AND datname = current_database()"
                )
            )
        go.touch()
        thread.join(30)
        assert bench.job(audit).state == "succeeded"
