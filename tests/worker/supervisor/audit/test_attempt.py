"""How attempts at an audit end, on a real Postgres and with a child that follows a script."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sqlalchemy import func, select, update

from service.contract.results import Summary
from service.lifecycle.audits import request_cancel
from service.store.objects import audit_key
from service.store.tables import Audit, Finding, Job, Score
from tests.support.children.scripting import (
    FINISHED,
    OUTPUTS,
    SECRET,
    SUMMARY,
    combining,
    outputs,
    training,
    training_progress,
)
from tests.support.supervisor_bench import Bench, either_way
from tests.support.waiting import wait_for
from worker.supervisor.audit.step_kinds import TrainSeed


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
        # Of the last row the scripted child says neither.
        assert findings[-1].tokens is None
        assert [near["neighbour"] for near in findings[0].nearest or []] == [36, 37]
        assert findings[0].tokens is not None
        assert findings[0].tokens[0]["elsewhere"] == 0.125
        stored = bench.objects.path(audit_key(audit.workspace_id, audit.id, 1, "combine", "scores.parquet"))
        assert pq.read_table(stored).num_rows == 40
        assert sorted(file.name for file in stored.parent.iterdir()) == [
            "baselines.parquet",
            "nearest.parquet",
            "scores.parquet",
            "summary.json",
            "tokens.parquet",
            "traces.parquet",
        ]
        bench.no_folders_or_processes()

    def test_all_flagged_texts_are_kept_beside_the_top(self, bench: Bench, make_audit: Callable[..., Audit]) -> None:
        make_audit()
        bench.run(outputs(flagged=11), FINISHED)
        assert bench.count(Finding) == 11

    def test_due_jobs_are_run_one_after_the_other(self, bench: Bench, make_audit: Callable[..., Audit]) -> None:
        audits = [make_audit() for _ in range(3)]
        assert bench.supervisor(OUTPUTS, FINISHED).run_due("io") == 0
        assert bench.supervisor(OUTPUTS, FINISHED).run_due("gpu") == 3
        assert [bench.job(audit).state for audit in audits] == ["succeeded"] * 3


class TestFailed:
    @either_way
    @pytest.mark.parametrize(
        ("script", "code"),
        [
            ([["exit", 0]], "child_crashed"),
            ([["exit", 1]], "child_crashed"),
            ([OUTPUTS, ["exit", 0]], "child_crashed"),
            ([training_progress(3), ["signal", signal.SIGSEGV]], "child_crashed"),
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
            ([["stderr", "OSError: [Errno 28] No space left on device\n", 1], ["exit", 1]], "disk_full"),
            (
                [["say", {"type": "failed", "failure": {"code": "device_failed", "message": "m", "hint": "h"}}]],
                "device_failed",
            ),
            (
                [
                    ["stderr", "terminate called\n  what():  CUDA error: unspecified launch failure\n", 1],
                    ["signal", signal.SIGABRT],
                ],
                "device_failed",
            ),
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
        wait_for(lambda: supervisor.run_due("gpu") == 0 and bench.job(audit).state == "failed")
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

    def test_a_failed_audit_does_not_stop_the_next(self, bench: Bench, make_audit: Callable[..., Audit]) -> None:
        audits = [make_audit(stored=False), make_audit()]
        assert bench.supervisor(OUTPUTS, FINISHED).run_due("gpu") == 2
        assert [bench.job(audit).state for audit in audits] == ["failed", "succeeded"]

    def test_a_failure_in_a_later_seed_leaves_what_is_finished(
        self, bench: Bench, make_audit: Callable[..., Audit]
    ) -> None:
        audit = make_audit(seeds=2)
        bench.run(["if", "train:8", [["exit", 1]]], OUTPUTS, FINISHED)
        assert bench.job(audit).state == "failed"
        assert [step.state for step in bench.steps(audit)] == ["succeeded", "failed", "pending"]
        bench.nothing_left(audit)

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
        thread.join(60)
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
        thread.join(60)
        assert bench.job(audit).state == "cancelled"
        bench.nothing_left(audit)

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
