"""What one attempt has done of a step is where the next one begins, on whatever worker."""

import threading
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import func, update

from service.lifecycle.audits import request_cancel
from service.store.objects import checkpoints_prefix
from service.store.tables import Audit, Job
from tests.support.children.scripting import FINISHED, OUTPUTS, training
from tests.support.supervisor_bench import Bench
from tests.support.waiting import wait_for


def stored(bench: Bench, audit: Audit) -> list[Path]:
    found = bench.objects.path(checkpoints_prefix(audit.workspace_id, audit.id)).rglob("*")
    return [path for path in found if path.is_file()]


def given(kept: Path) -> dict[str, str]:
    """The checkpoints in the folder that a child was given."""
    found = (kept / "train:7" / "folder").glob("checkpoints/*/manifest.json")
    return {manifest.parent.name: manifest.read_text() for manifest in sorted(found)}


def test_a_worker_that_ends_saves_and_another_goes_on(
    bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
) -> None:
    audit = make_audit()
    running = tmp_path / "running"
    script = [["checkpoint", "000000005", "one"], ["touch", str(running)], ["save_when_told", "000000008", "one"]]
    thread = threading.Thread(target=bench.run, daemon=True, args=script)
    thread.start()
    wait_for(running.exists)
    bench.stopping.set()
    thread.join(60)
    job = bench.job(audit)
    assert (job.state, job.attempt, job.failures) == ("queued", 1, 0)
    bench.no_folders_or_processes()

    bench.stopping.clear()
    bench.run(training(["keep", str(tmp_path / "kept")]), OUTPUTS, FINISHED)
    assert given(tmp_path / "kept") == {"000000005": "one", "000000008": "one"}
    assert (bench.job(audit).state, bench.audit(audit).published_attempt) == ("succeeded", 2)
    assert stored(bench, audit) == []


def test_a_killed_child_is_gone_on_with_from_its_last_checkpoint(
    bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
) -> None:
    audit = make_audit()
    bench.run(["checkpoint", "000000005", "one"], ["signal", 9])
    assert (bench.job(audit).state, bench.job(audit).failures) == ("queued", 1)
    with bench.sessions.begin() as session:
        session.execute(update(Job).values(next_attempt_at=func.now()))
    bench.run(training(["keep", str(tmp_path / "kept")]), OUTPUTS, FINISHED)
    assert given(tmp_path / "kept") == {"000000005": "one"}
    assert bench.audit(audit).published_attempt == 2


def test_a_child_that_does_not_save_in_time_is_ended(
    bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
) -> None:
    audit = make_audit()
    running = tmp_path / "running"
    script = [["checkpoint", "000000005", "one"], ["touch", str(running)], ["deaf_to_sigterm"], ["deaf"]]
    thread = threading.Thread(target=bench.run, daemon=True, args=script)
    thread.start()
    wait_for(running.exists)
    bench.stopping.set()
    thread.join(60)
    assert (bench.job(audit).state, bench.job(audit).failures) == ("queued", 0)
    bench.no_folders_or_processes()
    bench.stopping.clear()
    bench.run(training(["keep", str(tmp_path / "kept")]), OUTPUTS, FINISHED)
    assert given(tmp_path / "kept") == {"000000005": "one"}


def test_a_cancelled_audit_is_not_saved(bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path) -> None:
    audit = make_audit()
    running = tmp_path / "running"
    script = [["touch", str(running)], ["save_when_told", "000000008", "one"]]
    thread = threading.Thread(target=bench.run, daemon=True, args=script)
    thread.start()
    wait_for(running.exists)
    with bench.sessions.begin() as session:
        request_cancel(session, workspace_id=audit.workspace_id, audit_id=audit.id)
    thread.join(60)
    assert bench.job(audit).state == "cancelled"
    assert stored(bench, audit) == []
