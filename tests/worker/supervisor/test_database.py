"""A database that is away for a moment harms no audit."""

import threading
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import text

from service.store.tables import Audit
from tests.support.children.scripting import FINISHED, OUTPUTS, training, training_progress
from tests.support.supervisor_bench import Bench
from tests.support.waiting import wait_for


def test_a_moment_without_the_database_harms_nothing(
    bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
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
