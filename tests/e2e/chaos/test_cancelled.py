"""A cancel at every moment: it is told within seconds, and either the cancel counts or the result, never both."""

import random
import threading
import time

import pytest
from sqlalchemy import text

from service.lifecycle.audits import request_cancel
from tests.support.chaos import LONG, SHORT, Chaos, Reference, waits_for_scores
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def cancel(chaos: Chaos, audit: str) -> None:
    with chaos.sessions.begin() as session:
        request_cancel(session, workspace_id=chaos.workspace_id, audit_id=audit)


@pytest.mark.slow
def test_a_run_is_cancelled_and_then_a_publication(chaos: Chaos, undisturbed: Reference) -> None:
    chaos.start_worker()
    running, published, kept = chaos.create(LONG), chaos.create(SHORT), chaos.create(SHORT)
    chaos.wait_until_training(running)
    asked = time.monotonic()
    cancel(chaos, running)
    chaos.assert_settled([running], "cancelled")
    assert time.monotonic() - asked < 35
    # The scores are being copied when the cancel comes: it came before the result was public.
    with chaos.sessions() as bystander:
        bystander.execute(text("LOCK TABLE scores IN EXCLUSIVE MODE"))
        wait_for(lambda: waits_for_scores(chaos), 90, lambda: chaos.story(published))
        cancel(chaos, published)
    chaos.assert_settled([published], "cancelled")
    # And once it is public, a cancel changes nothing.
    chaos.wait_for_state(kept, "succeeded")
    cancel(chaos, kept)
    chaos.assert_settled([kept], like=undisturbed(SHORT))


def test_the_worker_dies_while_it_should_cancel(chaos: Chaos) -> None:
    worker = chaos.start_worker()
    audit = chaos.create(LONG)
    chaos.wait_until_training(audit)
    worker.kill()
    asked = time.monotonic()
    cancel(chaos, audit)
    chaos.start_worker()  # whose reconciler finds it
    chaos.assert_settled([audit], "cancelled")
    assert time.monotonic() - asked < 60


@pytest.mark.slow
def test_cancels_race_claims(chaos: Chaos, undisturbed: Reference) -> None:
    """Each cancel comes within half a second of the claim, before or after it."""
    for worker in [chaos.start_worker(ready=False) for _ in range(2)]:
        worker.wait_until_ready()
    moments = random.Random(4)
    audits = []
    for _ in range(10):
        audit = chaos.create(SHORT)
        threading.Timer(moments.uniform(0, 1.5), cancel, (chaos, audit)).start()
        audits.append(audit)
        time.sleep(0.2)
    for audit in audits:
        chaos.assert_settled([audit], chaos.wait_for_state(audit, "cancelled", "succeeded"))
    after = chaos.create(SHORT)
    chaos.assert_settled([after], like=undisturbed(SHORT))
