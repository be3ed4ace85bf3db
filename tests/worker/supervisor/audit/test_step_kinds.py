"""What is kept of a finished child if the job was cancelled or fenced meanwhile."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update

from service.lifecycle.audits import request_cancel
from service.store.objects import step_prefix
from service.store.tables import Audit, Job
from tests.support.children.scripting import FINISHED, OUTPUTS
from tests.support.supervisor_bench import Bench
from worker.supervisor.audit.step_kinds import Combine, TrainSeed


def test_a_cancel_before_publishing_wins(
    bench: Bench, make_audit: Callable[..., Audit], monkeypatch: pytest.MonkeyPatch
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


def test_a_fenced_supervisor_keeps_no_recording(
    bench: Bench, make_audit: Callable[..., Audit], monkeypatch: pytest.MonkeyPatch
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


def test_a_step_knows_how_many_bytes_it_has_stored(bench: Bench, make_audit: Callable[..., Audit]) -> None:
    audit = make_audit()
    assert bench.supervisor(OUTPUTS, FINISHED).run_due("gpu") == 1
    assert bench.job(audit).state == "succeeded"
    for step in bench.steps(audit):
        folder = bench.objects.path(step_prefix(audit.workspace_id, audit.id, 1, step.step_key))
        assert step.bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert step.bytes > 0
