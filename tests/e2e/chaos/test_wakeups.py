"""Wake-ups that come too often, too early or never, and a broker that forgets or goes away: the row is the job."""

import pytest
import redis

from service.lifecycle.wakeup import wake
from tests.support.chaos import LONG, SHORT, Chaos, Reference, Servers

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def flush(servers: Servers) -> None:
    with redis.Redis(unix_socket_path=str(servers.valkey.socket)) as client:
        client.flushall()


@pytest.mark.slow  # tests/worker/test_tasks.py has it with scripted children
def test_the_same_message_five_times_on_two_workers_is_one_attempt(chaos: Chaos, undisturbed: Reference) -> None:
    for worker in [chaos.start_worker(ready=False) for _ in range(2)]:
        worker.wait_until_ready()
    audit = chaos.create()
    for _ in range(5):
        assert wake(chaos.settings, "gpu")
    chaos.assert_settled([audit], like=undisturbed(SHORT))
    assert chaos.job(audit).attempt == 1


@pytest.mark.slow
def test_wake_ups_are_lost_and_the_broker_restarts_in_the_middle(chaos: Chaos, undisturbed: Reference) -> None:
    chaos.start_worker()
    # Before the commit: the worker looks, finds nothing, and drops the message.
    assert wake(chaos.settings, "gpu")
    early = chaos.create(LONG)
    chaos.wait_until_training(early)
    # After the commit: the message is gone with all else that the broker knew.
    late = chaos.create()
    assert wake(chaos.settings, "gpu")
    flush(chaos.servers)
    # And while the broker is away none can be sent.
    chaos.servers.kill(chaos.servers.valkey)
    last = chaos.create()
    assert not wake(chaos.settings, "gpu")
    chaos.servers.revive()
    chaos.assert_settled([early], like=undisturbed(LONG))
    chaos.assert_settled([late, last], like=undisturbed(SHORT))
    assert [chaos.job(audit).attempt for audit in (early, late, last)] == [1, 1, 1]
    assert len(chaos.published_once()) == 3


@pytest.mark.slow
def test_an_idle_worker_hears_again_after_the_broker_was_away(chaos: Chaos, undisturbed: Reference) -> None:
    chaos.start_worker()
    for stop in (chaos.servers.valkey.stop, lambda: chaos.servers.kill(chaos.servers.valkey)):
        stop()
        audit = chaos.create()
        chaos.servers.revive()
        chaos.assert_settled([audit], like=undisturbed(SHORT))
