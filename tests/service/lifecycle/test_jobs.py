"""Each command on a real database: what it writes, and what it leaves alone."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from service.contract.failure import ErrorCode, Failure
from service.contract.protocol import ProgressEvent, Stage
from service.contract.spec import TrainingConfig
from service.lifecycle.audits import (
    create_audit,
    finish_step,
    publish,
    record_event,
    record_progress,
    request_cancel,
    start_step,
)
from service.lifecycle.jobs import Claim, cancel_requested, claim, fail, mark_cancelled, requeue_orphans
from service.store.tables import Audit, AuditEvent, AuditProbe, AuditStep, Job
from tests.support.builders import add_audit, add_dataset, add_model, add_probe, summary_of

Sessions = sessionmaker[Session]
FAILURE = Failure(code=ErrorCode.OUT_OF_MEMORY, message="The device ran out of memory.", hint="Lower batch_size.")


def take(sessions: Sessions, owner: str = "worker-1") -> Claim:
    with sessions.begin() as session:
        held = claim(session, lane="gpu", owner=owner)
    assert held is not None
    return held


def snapshot(sessions: Sessions, audit_id: str) -> dict[str, Any]:
    """All that the database says about an audit."""
    with sessions() as session:
        audit = session.get_one(Audit, audit_id)
        job = session.get_one(Job, audit.job_id)
        steps = session.scalars(select(AuditStep).where(AuditStep.audit_id == audit_id)).all()
        events = session.scalars(select(AuditEvent).where(AuditEvent.audit_id == audit_id)).all()
        return {
            "audit": _columns(audit),
            "job": _columns(job),
            "steps": [_columns(step) for step in steps],
            "events": [_columns(event) for event in events],
        }


def first_step(sessions: Sessions, audit_id: str) -> dict[str, Any]:
    return min(snapshot(sessions, audit_id)["steps"], key=lambda step: step["step_no"])


def _columns(row: Any) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in row.__table__.columns}


def event_types(sessions: Sessions, audit_id: str) -> list[tuple[int, str, str]]:
    query = select(AuditEvent.seq, AuditEvent.type, AuditEvent.message).where(AuditEvent.audit_id == audit_id)
    with sessions() as session:
        return [tuple(row) for row in session.execute(query.order_by(AuditEvent.seq))]


def test_create_writes_audit_step_job_and_event(sessions: Sessions, make_audit: Callable[[], Audit]) -> None:
    audit = make_audit()
    seen = snapshot(sessions, audit.id)
    assert seen["job"]["state"] == "queued"
    assert (seen["job"]["kind"], seen["job"]["lane"], seen["job"]["attempt"]) == ("audit", "gpu", 0)
    assert seen["job"]["subject_id"] == audit.id
    assert {(step["step_no"], step["step_key"], step["state"]) for step in seen["steps"]} == {
        (1, "train:7", "pending"),
        (2, "combine", "pending"),
    }
    assert [(event["seq"], event["type"], event["data"]) for event in seen["events"]] == [
        (1, "state", {"state": "queued"})
    ]
    assert TrainingConfig.model_validate(seen["audit"]["training"]) == TrainingConfig(seed=7)


def test_every_seed_is_a_step_and_every_probe_has_its_number(sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        audit = add_audit(session, workspace_id, probes=2, seeds=3)
        steps = session.scalars(select(AuditStep).where(AuditStep.audit_id == audit.id).order_by(AuditStep.step_no))
        assert [step.step_key for step in steps] == ["train:7", "train:8", "train:9", "combine"]
        numbers = session.scalars(select(AuditProbe.probe_no).where(AuditProbe.audit_id == audit.id))
        assert sorted(numbers) == [1, 2]


@pytest.mark.parametrize("foreign", ["dataset_id", "probe_id", "model_id"])
def test_an_audit_stands_on_its_own_workspace_only(
    sessions: Sessions, workspace_id: str, other_workspace_id: str, foreign: str
) -> None:
    with sessions.begin() as session:
        makers = {"dataset_id": add_dataset, "probe_id": add_probe, "model_id": add_model}
        ids = {name: make(session, workspace_id) for name, make in makers.items()}
        ids[foreign] = makers[foreign](session, other_workspace_id)
        probe_id = ids.pop("probe_id")
    with pytest.raises(IntegrityError), sessions.begin() as session:
        create_audit(session, workspace_id=workspace_id, training=TrainingConfig(), q=0.05, probe_ids=[probe_id], **ids)
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0


def test_claim_takes_the_oldest_due_job_of_the_lane(sessions: Sessions, make_audit: Callable[[], Audit]) -> None:
    first, second, third = make_audit(), make_audit(), make_audit()
    with sessions.begin() as session:
        later = func.now() + timedelta(hours=1)
        session.execute(update(Job).where(Job.subject_id == first.id).values(next_attempt_at=later))
        session.execute(update(Job).where(Job.subject_id == second.id).values(lane="io"))
    held = take(sessions)
    assert held.subject_id == third.id
    assert (held.attempt, held.owner) == (1, "worker-1")
    with sessions.begin() as session:
        assert claim(session, lane="gpu", owner="worker-2") is None
    seen = snapshot(sessions, third.id)
    assert (seen["job"]["state"], seen["job"]["owner"], seen["audit"]["stage"]) == ("running", "worker-1", "preparing")
    assert seen["job"]["started_at"] >= seen["job"]["created_at"]


def test_progress_shows_stage_and_eta_on_the_databases_clock(
    sessions: Sessions, make_audit: Callable[[], Audit]
) -> None:
    audit = make_audit()
    held = take(sessions)
    for done in (0, 5):
        with sessions.begin() as session:
            event = ProgressEvent(stage=Stage.TRAINING, done=done, total=10, unit="steps", eta_seconds=90)
            assert record_progress(session, held, event)
    row = snapshot(sessions, audit.id)["audit"]
    assert (row["stage"], row["progress_done"], row["progress_total"], row["progress_unit"]) == (
        "training",
        5,
        10,
        "steps",
    )
    assert row["eta_at"] - row["progressed_at"] == timedelta(seconds=90)
    # The stage is news once, not at every step.
    assert [event for event in event_types(sessions, audit.id) if event[1] == "stage"] == [(3, "stage", "Training.")]


def test_events_are_numbered_without_gaps(sessions: Sessions, make_audit: Callable[[], Audit]) -> None:
    audit = make_audit()
    held = take(sessions)
    for step in range(3):
        with sessions.begin() as session:
            assert record_event(session, held, level="info", type="metric", message="", data={"step": step})
    assert [seq for seq, _, _ in event_types(sessions, audit.id)] == [1, 2, 3, 4, 5]


def test_a_step_starts_and_finishes(sessions: Sessions, make_audit: Callable[[], Audit]) -> None:
    audit = make_audit()
    held = take(sessions)
    with sessions.begin() as session:
        assert start_step(session, held, "train:7", "ab" * 32)
    assert snapshot(sessions, audit.id)["audit"]["step_key"] == "train:7"
    step = first_step(sessions, audit.id)
    assert (step["state"], step["attempt"], step["spec_sha256"]) == ("running", 1, "ab" * 32)
    with sessions.begin() as session:
        assert finish_step(session, held, "train:7", True)
    step = first_step(sessions, audit.id)
    assert step["state"] == "succeeded"
    assert step["finished_at"] >= step["started_at"]
    with sessions.begin() as session, pytest.raises(LookupError, match="train:8"):
        start_step(session, held, "train:8", "ab" * 32)


def test_publish_makes_everything_public_at_once(sessions: Sessions, make_audit: Callable[[], Audit]) -> None:
    audit = make_audit()
    held = take(sessions)
    with sessions.begin() as session:
        assert publish(session, held, summary_of())
        # Before the commit, nobody else sees a part of it.
        seen = snapshot(sessions, audit.id)
        assert (seen["job"]["state"], seen["audit"]["published_attempt"]) == ("running", None)
        assert seen["audit"]["summary"] is None
    seen = snapshot(sessions, audit.id)
    assert (seen["job"]["state"], seen["audit"]["published_attempt"]) == ("succeeded", 1)
    assert seen["audit"]["summary"] == summary_of().model_dump(mode="json")
    assert seen["audit"]["stage"] is None
    assert seen["job"]["finished_at"] >= seen["job"]["started_at"]
    assert event_types(sessions, audit.id)[-1] == (3, "state", "Finished: 3 of 40 samples flagged.")


def test_a_publish_that_rolls_back_leaves_nothing(sessions: Sessions, make_audit: Callable[[], Audit]) -> None:
    audit = make_audit()
    held = take(sessions)
    before = snapshot(sessions, audit.id)
    with sessions() as session:
        assert publish(session, held, summary_of())
        session.rollback()
    assert snapshot(sessions, audit.id) == before


def test_fail_keeps_code_message_and_hint(sessions: Sessions, make_audit: Callable[[], Audit]) -> None:
    audit = make_audit()
    held = take(sessions)
    with sessions.begin() as session:
        assert start_step(session, held, "train:7", "ab" * 32)
        assert fail(session, held, FAILURE)
    seen = snapshot(sessions, audit.id)
    assert seen["job"]["state"] == "failed"
    assert Failure.model_validate(seen["job"]["error"]) == FAILURE
    assert first_step(sessions, audit.id)["state"] == "failed"
    assert seen["audit"]["step_key"] is None
    last = seen["events"][-1]
    assert (last["level"], last["data"]["state"], last["data"]["code"]) == ("error", "failed", "out_of_memory")


def test_cancel_of_a_queued_audit_is_immediate(
    sessions: Sessions, workspace_id: str, make_audit: Callable[[], Audit]
) -> None:
    audit = make_audit()
    with sessions.begin() as session:
        job = request_cancel(session, workspace_id=workspace_id, audit_id=audit.id)
    assert job.state == "cancelled"
    with sessions.begin() as session:
        assert claim(session, lane="gpu", owner="worker-1") is None
    before = snapshot(sessions, audit.id)
    with sessions.begin() as session:
        assert request_cancel(session, workspace_id=workspace_id, audit_id=audit.id).state == "cancelled"
    assert snapshot(sessions, audit.id) == before


def test_cancel_of_a_running_audit_waits_for_its_worker(
    sessions: Sessions, workspace_id: str, make_audit: Callable[[], Audit]
) -> None:
    audit = make_audit()
    held = take(sessions)
    with sessions() as session:
        assert not cancel_requested(session, held)
    with sessions.begin() as session:
        # Nobody asked: a worker cannot cancel of its own will.
        assert not mark_cancelled(session, held)
    for _ in range(2):
        with sessions.begin() as session:
            assert request_cancel(session, workspace_id=workspace_id, audit_id=audit.id).state == "cancelling"
    with sessions() as session:
        assert cancel_requested(session, held)
    with sessions.begin() as session:
        assert record_event(session, held, level="info", type="notice", message="stopping")
    with sessions.begin() as session:
        assert not publish(session, held, summary_of())
    with sessions.begin() as session:
        assert mark_cancelled(session, held)
    seen = snapshot(sessions, audit.id)
    assert (seen["job"]["state"], seen["audit"]["published_attempt"]) == ("cancelled", None)
    messages = [message for _, _, message in event_types(sessions, audit.id)]
    assert messages == ["Queued.", "Attempt 1 started.", "Cancel requested.", "stopping", "Cancelled."]


def test_a_failure_while_cancelling_ends_as_cancelled(
    sessions: Sessions, workspace_id: str, make_audit: Callable[[], Audit]
) -> None:
    audit = make_audit()
    held = take(sessions)
    with sessions.begin() as session:
        request_cancel(session, workspace_id=workspace_id, audit_id=audit.id)
        assert fail(session, held, FAILURE)
    seen = snapshot(sessions, audit.id)
    assert (seen["job"]["state"], seen["job"]["error"]) == ("cancelled", None)
    assert seen["events"][-1]["data"]["code"] == "out_of_memory"


def test_cancel_after_the_end_changes_nothing(
    sessions: Sessions, workspace_id: str, make_audit: Callable[[], Audit]
) -> None:
    audit = make_audit()
    held = take(sessions)
    with sessions.begin() as session:
        publish(session, held, summary_of())
    before = snapshot(sessions, audit.id)
    with sessions.begin() as session:
        assert request_cancel(session, workspace_id=workspace_id, audit_id=audit.id).state == "succeeded"
    assert snapshot(sessions, audit.id) == before


def test_cancel_in_another_workspace_finds_nothing(
    sessions: Sessions, other_workspace_id: str, make_audit: Callable[[], Audit]
) -> None:
    audit = make_audit()
    with sessions.begin() as session, pytest.raises(LookupError):
        request_cancel(session, workspace_id=other_workspace_id, audit_id=audit.id)


def test_an_old_attempts_writes_change_nothing(sessions: Sessions, make_audit: Callable[[], Audit]) -> None:
    audit = make_audit()
    zombie = take(sessions, "worker-1")
    with sessions.begin() as session:
        assert requeue_orphans(session) == 1
    current = take(sessions, "worker-1")
    before = snapshot(sessions, audit.id)
    assert before["job"]["attempt"] == 2
    # The same owner with its old attempt, and another owner with the new attempt, are both strangers.
    strangers = [zombie, replace(current, owner="worker-2")]
    for stranger in strangers:
        with sessions.begin() as session:
            assert not record_progress(session, stranger, ProgressEvent(stage=Stage.SCORING, done=1))
            assert not record_event(session, stranger, level="info", type="notice", message="boo")
            assert not start_step(session, stranger, "train:7", "cd" * 32)
            assert not finish_step(session, stranger, "train:7", True)
            assert not publish(session, stranger, summary_of())
            assert not fail(session, stranger, FAILURE)
            assert not mark_cancelled(session, stranger)
            assert cancel_requested(session, stranger)
    assert snapshot(sessions, audit.id) == before


def test_orphans_are_queued_again_and_cancels_finished(
    sessions: Sessions, workspace_id: str, make_audit: Callable[[], Audit]
) -> None:
    running, cancelling, queued = make_audit(), make_audit(), make_audit()
    held = take(sessions)
    take(sessions)
    with sessions.begin() as session:
        start_step(session, held, "train:7", "ab" * 32)
        request_cancel(session, workspace_id=workspace_id, audit_id=cancelling.id)
    with sessions.begin() as session:
        assert requeue_orphans(session) == 2
        assert requeue_orphans(session) == 0
    seen = {audit.id: snapshot(sessions, audit.id) for audit in (running, cancelling, queued)}
    assert [seen[audit.id]["job"]["state"] for audit in (running, cancelling, queued)] == [
        "queued",
        "cancelled",
        "queued",
    ]
    assert seen[running.id]["job"]["owner"] is None
    assert first_step(sessions, running.id)["state"] == "pending"
    assert seen[running.id]["audit"]["step_key"] is None
    assert take(sessions).attempt == 2


def test_audits_of_one_workspace_do_not_share_event_numbers(sessions: Sessions, workspace_id: str) -> None:
    with sessions.begin() as session:
        first, second = add_audit(session, workspace_id), add_audit(session, workspace_id)
    assert event_types(sessions, first.id)[0][0] == event_types(sessions, second.id)[0][0] == 1


def test_workspaces_take_turns(sessions: Sessions, workspace_id: str, other_workspace_id: str) -> None:
    with sessions.begin() as session:
        ours = [add_audit(session, workspace_id).id for _ in range(3)]
    with sessions.begin() as session:
        theirs = [add_audit(session, other_workspace_id).id for _ in range(2)]
    assert [take(sessions, f"worker-{number}").subject_id for number in range(5)] == [
        ours[0],
        theirs[0],  # none of theirs runs
        ours[1],  # as many run, and ours was served the longest ago
        theirs[1],
        ours[2],
    ]


def test_a_workspace_without_running_jobs_comes_first(
    sessions: Sessions, workspace_id: str, other_workspace_id: str
) -> None:
    with sessions.begin() as session:
        ours = [add_audit(session, workspace_id).id for _ in range(2)]
        theirs = [add_audit(session, other_workspace_id).id for _ in range(3)]
    assert {take(sessions, "a").subject_id, take(sessions, "b").subject_id} == {ours[0], theirs[0]}
    with sessions.begin() as session:
        session.execute(
            update(Job)
            .where(Job.subject_id == theirs[0])
            .values(state="succeeded", finished_at=func.now(), lease_expires_at=None, owner=None)
        )
    assert take(sessions, "c").subject_id == theirs[1]
