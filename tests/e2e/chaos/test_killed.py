"""kill -9 of every process there is, in the middle of a run."""

import signal

import pytest
from sqlalchemy import text

from tests.support.chaos import LEASE_SECONDS, LONG, Chaos, Reference, Worker
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_the_worker_is_killed_and_another_goes_on(chaos: Chaos, undisturbed: Reference) -> None:
    first = chaos.start_worker()
    audit = chaos.create(LONG)
    chaos.wait_until_training(audit)
    first.kill()
    # Nobody holds its stdin any more: it ends by itself.
    wait_for(lambda: not chaos.children(), LEASE_SECONDS, "the child outlives its supervisor")
    assert chaos.job(audit).state == "running"
    chaos.start_worker()
    chaos.assert_settled([audit], like=undisturbed(LONG))
    job = chaos.job(audit)
    assert (job.attempt, job.failures) == (2, 1)


def test_a_stopped_worker_is_fenced_and_its_child_has_ended_by_itself(chaos: Chaos, undisturbed: Reference) -> None:
    frozen = chaos.start_worker()
    audit = chaos.create(LONG)
    chaos.wait_until_training(audit)
    owner = chaos.job(audit).owner
    freeze_in_a_transaction(chaos, frozen)
    wait_for(lambda: not chaos.children(), 3 * LEASE_SECONDS, "the child of a frozen supervisor goes on")
    chaos.start_worker()
    wait_for(lambda: chaos.job(audit).attempt == 2, 60, lambda: chaos.story(audit))
    frozen.signal(signal.SIGCONT)
    wait_for(lambda: "no longer ours" in frozen.log.read_text(), 30, frozen.log.read_text)
    chaos.assert_settled([audit], like=undisturbed(LONG))
    assert chaos.job(audit).owner != owner
    assert {event.attempt for event in chaos.events(audit) if event.message.startswith("Finished")} == {2}


def test_the_child_is_killed(chaos: Chaos, undisturbed: Reference) -> None:
    worker = chaos.start_worker()
    audit = chaos.create(LONG)
    chaos.wait_until_training(audit)
    (child,) = worker.children()
    child.kill()
    chaos.assert_settled([audit], like=undisturbed(LONG))
    assert (chaos.job(audit).attempt, chaos.job(audit).failures) == (2, 1)


@pytest.mark.slow
def test_the_fork_server_is_killed(chaos: Chaos, undisturbed: Reference) -> None:
    """The child under way is its supervisor's and goes on; the next is forked from a new one."""
    worker = chaos.start_worker()
    audit = chaos.create(LONG)
    chaos.wait_until_training(audit)
    (server,) = chaos.fork_servers()
    server.kill()
    chaos.assert_settled([audit], like=undisturbed(LONG))
    assert (chaos.job(audit).attempt, chaos.job(audit).failures) == (1, 0)
    (successor,) = chaos.fork_servers()
    assert successor.pid != server.pid
    assert successor.ppid() == worker.pid


def freeze_in_a_transaction(chaos: Chaos, worker: Worker) -> None:
    """At the worst moment: it holds locks of the database, on the job's row for one."""
    locked = text(
        "SELECT count(*) FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE application_name = 'finetooth-worker' "
        "AND datname = current_database() AND state = 'idle in transaction' AND mode = 'RowShareLock' "
        "AND relation = 'jobs'::regclass"
    )

    def frozen() -> bool:
        worker.signal(signal.SIGSTOP)
        with chaos.sessions() as session:
            if session.scalar(locked):
                return True
        worker.signal(signal.SIGCONT)
        return False

    wait_for(frozen, 30, "it was never in a transaction")


@pytest.mark.slow
def test_everything_is_killed_at_once(chaos: Chaos, undisturbed: Reference) -> None:
    """As a power cut does it: both servers, the worker and its child."""
    worker = chaos.start_worker()
    audit = chaos.create(LONG)
    chaos.wait_until_training(audit)
    (child,) = worker.children()
    chaos.servers.kill(chaos.servers.postgres)
    chaos.servers.kill(chaos.servers.valkey)
    worker.kill()
    child.kill()
    chaos.servers.revive()
    chaos.start_worker()
    chaos.assert_settled([audit], like=undisturbed(LONG))
    assert chaos.job(audit).attempt == 2


@pytest.mark.slow
def test_a_job_that_kills_its_worker_each_time_fails_after_three(chaos: Chaos) -> None:
    audit = chaos.create(LONG)
    for attempt in (1, 2, 3):
        worker = chaos.start_worker()
        wait_for(lambda attempt=attempt: chaos.job(audit).attempt == attempt, 60, lambda: chaos.story(audit))
        chaos.wait_until_training(audit, steps=1)
        worker.kill()
        wait_for(lambda: not chaos.children(), 15, "the child outlives its supervisor")
    chaos.start_worker()
    chaos.assert_settled([audit], "failed")
    assert chaos.job(audit).failures == 3
