"""What a supervisor counts of the attempts that it runs."""

from collections.abc import Callable

from sqlalchemy import text

from service.store.counters import Counted, count, read_counters
from service.store.tables import Audit
from tests.support.children.scripting import FINISHED, OUTPUTS
from tests.support.supervisor_bench import Bench


def test_what_could_not_be_counted_is_counted_with_what_comes_next(
    bench: Bench, make_audit: Callable[..., Audit]
) -> None:
    """The counter is locked meanwhile; a worker that is cut off from the database is refused in the same way."""
    make_audit()
    with bench.sessions.begin() as session:
        count(session, Counted.STARTED, "gpu", by=0)
    supervisor = bench.supervisor(OUTPUTS, FINISHED)
    with bench.sessions.begin() as locker:
        locker.execute(text("SELECT 1 FROM counters WHERE name = 'started' FOR UPDATE"))
        assert supervisor.run_due("gpu") == 1
    make_audit()
    assert supervisor.run_due("gpu") == 1
    with bench.sessions() as session:
        assert read_counters(session)["started", "gpu"] == 2
