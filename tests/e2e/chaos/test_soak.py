"""The soak of benchmarks/soak.py in short: each kind of fault, over and over, while audits come and go."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import update

from benchmarks.faults import Fault, Kind
from benchmarks.soak import soak
from benchmarks.soak_figures import Figures, figures_of
from service.store.tables import AuditEvent, Job
from tests.support.chaos import SHORT, Chaos, Reference, Servers

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]


def test_many_audits_while_something_breaks_every_few_seconds(servers: Servers) -> None:
    figures = soak(servers, audits=120, workers=2, fault_seconds=(3, 5), seed=12)
    assert figures.sound, figures
    assert figures.succeeded + len(figures.failed) == figures.audits == 120
    assert figures.succeeded >= 100, figures
    assert set(figures.faults) == {kind.value for kind in Kind}
    assert figures.hits >= 10
    assert figures.recovered


def test_a_soak_sees_what_is_wrong(chaos: Chaos, undisturbed: Reference) -> None:
    expected = undisturbed(SHORT)
    chaos.start_worker()
    audit = chaos.create(SHORT)
    chaos.assert_settled([audit])

    def judged(faults: tuple[Fault, ...] = (), expected: list[tuple[object, ...]] = expected) -> Figures:
        return figures_of(chaos, [audit], faults, expected=expected, seconds=1.0)

    assert judged().sound
    assert audit in judged(expected=expected[1:]).wrong
    folder = chaos.settings.work / f"{audit}.1.left"
    folder.mkdir()
    assert judged().orphans == 1
    folder.rmdir()

    with chaos.sessions.begin() as session:
        session.execute(update(Job).values(failures=1))
    assert judged().unexplained_failures == 1
    hit = Fault(Kind.CHILD_KILLED, datetime.now(UTC), ((audit, 1),))
    assert judged((hit,)).sound

    with chaos.sessions.begin() as session:
        last = chaos.events(audit)[-1]
        again = {"workspace_id": last.workspace_id, "attempt": 1, "level": "info", "type": "state", "message": "Again."}
        session.add(AuditEvent(audit_id=audit, seq=last.seq + 1, data=last.data, **again))
    assert judged((hit,)).doubled == [audit]

    lost = {"state": "queued", "finished_at": None}
    with chaos.sessions.begin() as session:
        session.execute(update(Job).values(next_attempt_at=datetime(2999, 1, 1, tzinfo=UTC), **lost))
    assert judged((hit,)).lost == [audit]
