"""Workspaces take turns, and audits of one workspace go by priority: on a real database, with workers that meet."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from psycopg.errors import IdleInTransactionSessionTimeout
from sqlalchemy import Engine, event, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from service.contract.failure import ErrorCode, Failure
from service.lifecycle import turns
from service.lifecycle.audits import request_cancel, retry_audit
from service.lifecycle.deletion import delete_audit
from service.lifecycle.jobs import Claim, claim, fail
from service.store.ids import new_id
from service.store.tables import Job, Workspace
from tests.support.builders import add_audit

Sessions = sessionmaker[Session]
FAILURE = Failure(code=ErrorCode.OUT_OF_MEMORY, message="The device ran out of memory.", hint="Lower batch_size.")


@pytest.fixture
def make_workspace(sessions: Sessions) -> Callable[[], str]:
    numbers = itertools.count()

    def make() -> str:
        with sessions.begin() as session:
            workspace = Workspace(id=new_id("ws"), name=f"tenant {next(numbers)}")
            session.add(workspace)
        return workspace.id

    return make


def take(sessions: Sessions, owner: str = "w") -> Claim:
    with sessions.begin() as session:
        held = claim(session, lane="gpu", owner=owner)
    assert held is not None
    return held


def end(sessions: Sessions, held: Claim) -> None:
    with sessions.begin() as session:
        assert fail(session, held, FAILURE)


def test_three_hundred_audits_delay_another_workspace_by_one_at_most(
    sessions: Sessions, make_workspace: Callable[[], str]
) -> None:
    """Eight workers take and end audits of a workspace with hundreds, while others come with one each."""
    many = make_workspace()
    with sessions.begin() as session:
        for _ in range(300):
            add_audit(session, many)
    guests = [make_workspace() for _ in range(10)]
    arrived: dict[str, datetime] = {}
    over = threading.Event()

    def work(number: int) -> None:
        while not over.is_set():
            with sessions.begin() as session:
                held = claim(session, lane="gpu", owner=f"worker-{number}")
            if held is None:
                return
            time.sleep(0.02)
            end(sessions, held)

    with ThreadPoolExecutor(8) as pool:
        workers = [pool.submit(work, number) for number in range(8)]
        for guest in guests:
            with sessions.begin() as session:
                add_audit(session, guest)
            with sessions() as session:
                arrived[guest] = session.scalars(select(func.clock_timestamp())).one()
            time.sleep(0.1)
        over.set()
        for worker in workers:
            worker.result()
    with sessions() as session:
        for guest in guests:
            started_at = session.scalars(select(Job.started_at).where(Job.workspace_id == guest)).one()
            assert started_at is not None, "taken while hundreds waited"
            between = Job.started_at.between(arrived[guest], started_at)
            first = select(func.count()).select_from(Job).where(Job.workspace_id == many, between)
            assert session.scalars(first).one() <= 1
        assert session.scalars(select(func.count()).where(Job.workspace_id == many, Job.state == "queued")).one() > 0


def test_workers_that_come_at_once_serve_different_workspaces(
    sessions: Sessions, make_workspace: Callable[[], str]
) -> None:
    """At no time has a workspace two running audits more than another one that waits."""
    tenants = [make_workspace() for _ in range(3)]
    for tenant in tenants:
        with sessions.begin() as session:
            for _ in range(8):
                add_audit(session, tenant)
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        for _ in range(3):
            take(sessions, f"worker-{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    with sessions() as session:
        order = session.scalars(select(Job.workspace_id).order_by(Job.started_at)).all()
    assert len(order) == 24
    for taken in range(1, 25):
        running = [order[:taken].count(tenant) for tenant in tenants]
        assert max(running) - min(running) <= 1


def test_deleting_its_audits_gives_a_workspace_no_other_turn(
    sessions: Sessions, make_workspace: Callable[[], str]
) -> None:
    deleting, patient = make_workspace(), make_workspace()
    for tenant in (deleting, patient):
        with sessions.begin() as session:
            for _ in range(3):
                add_audit(session, tenant)
    served = []
    for _ in range(6):
        held = take(sessions)
        served.append(held.workspace_id)
        end(sessions, held)
        if held.workspace_id == deleting:
            with sessions.begin() as session:
                delete_audit(session, workspace_id=deleting, audit_id=held.subject_id)
    assert served == [deleting, patient] * 3


def test_priorities_hold_within_a_workspace_and_not_beyond(
    sessions: Sessions, make_workspace: Callable[[], str]
) -> None:
    tenant, other = make_workspace(), make_workspace()
    with sessions.begin() as session:
        ids = {add_audit(session, tenant, priority=name).id: name for name in ("low", "normal", "high", "high")}
        others = [add_audit(session, other, priority="low").id for _ in range(2)]
    taken = []
    for _ in range(6):
        held = take(sessions)
        taken.append(ids.get(held.subject_id, "other"))
        end(sessions, held)
    assert taken == ["high", "other", "high", "other", "normal", "low"]
    # A retry keeps its audit's priority.
    with sessions.begin() as session:
        add_audit(session, other, priority="normal")
        retry_audit(session, workspace_id=other, audit_id=others[0])
        kept = session.scalars(select(Job.priority).where(Job.subject_id == others[0], Job.state == "queued")).one()
    assert kept == 2


def test_whose_jobs_are_all_locked_is_passed_over(sessions: Sessions, make_workspace: Callable[[], str]) -> None:
    first, second = make_workspace(), make_workspace()
    with sessions.begin() as session:
        locked, free = add_audit(session, first).id, add_audit(session, second).id
    with sessions.begin() as session:
        request_cancel(session, workspace_id=first, audit_id=locked)
        assert take(sessions).subject_id == free


def test_a_worker_that_freezes_in_a_claim_holds_nobody_up_for_long(
    sessions: Sessions, make_workspace: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "FROZEN_SECONDS", 1)
    tenant = make_workspace()
    with sessions.begin() as session:
        audit_id = add_audit(session, tenant).id
    frozen = sessions()
    assert claim(frozen, lane="gpu", owner="frozen") is not None
    began = time.monotonic()
    assert take(sessions).subject_id == audit_id
    assert time.monotonic() - began < 10
    with pytest.raises(DBAPIError) as caught:
        frozen.execute(select(1))
    assert isinstance(caught.value.orig, IdleInTransactionSessionTimeout)
    frozen.close()


@pytest.fixture
def statements(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    """What is asked of the database."""
    found: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        found.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    yield found
    event.remove(engine, "before_cursor_execute", note)


def rows_read(plan: dict[str, Any]) -> float:
    """Rows that a plan's scans have given or thrown away."""
    mine = 0.0
    if "Scan" in plan["Node Type"]:
        rows = (
            plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
        )
        mine = rows * plan["Actual Loops"]
    return mine + sum(rows_read(part) for part in plan.get("Plans", ()))


def test_a_claim_among_a_hundred_thousand_jobs_reads_few(
    sessions: Sessions, make_workspace: Callable[[], str], statements: list[tuple[str, Any]]
) -> None:
    """By the plans that Postgres ran: one look into the index for each workspace that waits."""
    tenants = [make_workspace() for _ in range(50)]
    with sessions.begin() as session:
        session.execute(
            text(
                "INSERT INTO jobs (id, workspace_id, kind, subject_id, lane, priority) "
                "SELECT 'job_' || n, (CAST(:tenants AS text[]))[1 + n % 50], 'dataset', 'ds_' || n, 'io', n % 3 "
                "FROM generate_series(1, 100000) AS n"
            ),
            {"tenants": tenants},
        )
    with sessions() as session:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"}).execute(text("ANALYZE jobs"))
    with sessions.begin() as session:
        assert claim(session, lane="io", owner="w") is not None
    statements.clear()
    began = time.monotonic()
    with sessions.begin() as session:
        assert claim(session, lane="io", owner="w") is not None
    assert time.monotonic() - began < 2
    asked = [(words, given) for words, given in statements if words.startswith("SELECT") and "jobs" in words]
    assert len(asked) == 2
    read = 0.0
    with sessions() as session:
        for words, given in asked:
            plan = session.connection().exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {words}", given).scalar_one()
            assert "ix_jobs_queued" in str(plan)
            read += rows_read(plan[0]["Plan"])
        session.rollback()
    assert read < 50 * 5


def test_a_job_that_its_workspaces_limit_holds_back_is_not_late(
    sessions: Sessions, make_workspace: Callable[[], str]
) -> None:
    """An idle worker that looked for it every second could not take it."""
    mine = make_workspace()
    with sessions.begin() as session:
        for _ in range(2):
            add_audit(session, mine)

    def late(since: timedelta, max_running: int | None) -> bool:
        with sessions.begin() as session:
            return turns.has_late_job(session, "gpu", since=since, max_running=max_running)

    assert late(timedelta(0), 1)
    assert not late(timedelta(hours=1), 1)
    held = take(sessions)
    assert late(timedelta(0), None)
    assert late(timedelta(0), 2)
    assert not late(timedelta(0), 1)
    end(sessions, held)
    assert late(timedelta(0), 1)
