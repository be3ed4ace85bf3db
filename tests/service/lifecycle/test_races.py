"""Commands that meet, each on a connection of its own."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, sessionmaker

from service.lifecycle.audits import publish, record_event, request_cancel
from service.lifecycle.jobs import Claim, claim
from service.store.tables import Audit, AuditEvent, Job
from tests.support.builders import summary_of

Sessions = sessionmaker[Session]


def test_every_job_is_claimed_exactly_once(sessions: Sessions, make_audit: Callable[[], Audit]) -> None:
    audits = {make_audit().id for _ in range(30)}
    workers = 8
    start = Barrier(workers)

    def work(number: int) -> list[Claim]:
        taken: list[Claim] = []
        start.wait()
        while True:
            with sessions.begin() as session:
                held = claim(session, lane="gpu", owner=f"worker-{number}")
            if held is None:
                return taken
            taken.append(held)

    with ThreadPoolExecutor(workers) as pool:
        claims = [held for taken in pool.map(work, range(workers)) for held in taken]
    assert Counter(held.subject_id for held in claims) == Counter(audits)
    assert {held.attempt for held in claims} == {1}
    with sessions() as session:
        owners = dict(session.execute(select(Job.subject_id, Job.owner)).all())
    assert owners == {held.subject_id: held.owner for held in claims}


def test_a_claim_passes_over_a_job_that_somebody_is_cancelling(
    sessions: Sessions, workspace_id: str, make_audit: Callable[[], Audit]
) -> None:
    first, second = make_audit(), make_audit()
    with sessions.begin() as one, sessions.begin() as two:
        request_cancel(one, workspace_id=workspace_id, audit_id=first.id)
        two.execute(text("SET LOCAL lock_timeout = '1s'"))
        held = claim(two, lane="gpu", owner="worker-2")
        assert held is not None
        assert held.subject_id == second.id


@pytest.mark.parametrize("cancel_first", [True, False])
def test_cancel_and_publish_follow_one_another(
    sessions: Sessions, workspace_id: str, make_audit: Callable[[], Audit], cancel_first: bool
) -> None:
    """The second waits for the first's commit and then sees what it did."""
    audit = make_audit()
    with sessions.begin() as session:
        held = claim(session, lane="gpu", owner="worker-1")
    assert held is not None

    def do_cancel(session: Session) -> str:
        return request_cancel(session, workspace_id=workspace_id, audit_id=audit.id).state

    def do_publish(session: Session) -> bool:
        return publish(session, held, summary_of())

    def in_transaction(command: Callable[[Session], object]) -> object:
        with sessions.begin() as session:
            return command(session)

    first, second = (do_cancel, do_publish) if cancel_first else (do_publish, do_cancel)
    with ThreadPoolExecutor(1) as pool:
        with sessions.begin() as session:
            first_answer = first(session)
            waiting = pool.submit(in_transaction, second)
            with sessions() as observer:
                while not observer.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                    observer.rollback()
            assert not waiting.done()
        second_answer = waiting.result(timeout=60)
    assert (first_answer, second_answer) == (("cancelling", False) if cancel_first else (True, "succeeded"))
    with sessions() as session:
        seen = session.get_one(Audit, audit.id)
    assert seen.published_attempt == (None if cancel_first else 1)
    assert (seen.summary is None) == cancel_first


def test_cancels_racing_publishes_end_in_one_of_two_ways(
    sessions: Sessions, workspace_id: str, make_audit: Callable[[], Audit]
) -> None:
    claims = []
    for _ in range(12):
        make_audit()
        with sessions.begin() as session:
            held = claim(session, lane="gpu", owner="worker-1")
        assert held is not None
        claims.append(held)

    def race(held: Claim) -> tuple[bool, str]:
        start = Barrier(2)

        def cancel() -> str:
            start.wait()
            with sessions.begin() as session:
                return request_cancel(session, workspace_id=workspace_id, audit_id=held.subject_id).state

        def flip() -> bool:
            start.wait()
            with sessions.begin() as session:
                return publish(session, held, summary_of())

        with ThreadPoolExecutor(2) as pool:
            asked, published = pool.submit(cancel), pool.submit(flip)
            return published.result(), asked.result()

    for held in claims:
        published, state = race(held)
        assert (published, state) in {(True, "succeeded"), (False, "cancelling")}
        with sessions() as session:
            audit = session.get_one(Audit, held.subject_id)
            assert (audit.published_attempt is not None) == published


def test_events_of_api_and_worker_never_share_a_number(
    sessions: Sessions, workspace_id: str, make_audit: Callable[[], Audit]
) -> None:
    audit = make_audit()
    with sessions.begin() as session:
        held = claim(session, lane="gpu", owner="worker-1")
    assert held is not None

    def write(number: int) -> None:
        with sessions.begin() as session:
            if number == 20:
                request_cancel(session, workspace_id=workspace_id, audit_id=audit.id)
            else:
                assert record_event(session, held, level="info", type="notice", message=str(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    with sessions() as session:
        count, last = session.execute(
            select(func.count(), func.max(AuditEvent.seq)).where(AuditEvent.audit_id == audit.id)
        ).one()
    assert count == last == 2 + 40
