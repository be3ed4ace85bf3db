"""Postgres goes away: for a moment, in the middle of a run, and while a result is being published."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from tests.support.chaos import LONG, SHORT, Chaos, Reference, waits_for_scores
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_postgres_is_killed_while_a_result_is_published(chaos: Chaos, undisturbed: Reference) -> None:
    """A bystander's lock holds the copying of scores up, so that the kill comes in the middle of it."""
    chaos.start_worker()
    audit = chaos.create(SHORT)
    with chaos.sessions() as bystander:
        bystander.execute(text("LOCK TABLE scores IN EXCLUSIVE MODE"))
        wait_for(lambda: waits_for_scores(chaos), 90, lambda: chaos.story(audit))
        chaos.servers.kill(chaos.servers.postgres)
        with pytest.raises(OperationalError):
            bystander.execute(text("SELECT 1"))
    chaos.servers.revive()
    chaos.assert_settled([audit], like=undisturbed(SHORT))
    assert list(chaos.published_once().values()) == [1]


@pytest.mark.slow
def test_postgres_restarts_in_the_middle_of_a_run(chaos: Chaos, undisturbed: Reference) -> None:
    """Back within the lease: the child need not notice."""
    chaos.start_worker()
    audit = chaos.create(LONG)
    chaos.wait_until_training(audit)
    chaos.servers.postgres.stop()
    chaos.servers.postgres.start()
    chaos.assert_settled([audit], like=undisturbed(LONG))


@pytest.mark.slow
def test_postgres_is_away_for_longer_than_a_lease(chaos: Chaos, undisturbed: Reference) -> None:
    """The worker cannot know whether the job is still its own: it stops, and starts again when it can."""
    chaos.start_worker()
    audit = chaos.create(LONG)
    chaos.wait_until_training(audit)
    chaos.servers.kill(chaos.servers.postgres)
    wait_for(lambda: not chaos.children(), 30, "the child goes on without a lease")
    chaos.servers.revive()
    chaos.assert_settled([audit], like=undisturbed(LONG))
    assert chaos.job(audit).attempt == 2
