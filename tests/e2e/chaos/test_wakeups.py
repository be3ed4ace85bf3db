"""Wake-ups that come too often, too early, too late or never: the row is the job."""

import pytest

from service.lifecycle.wakeup import wake
from tests.e2e.chaos.conftest import Reference
from tests.e2e.chaos.stack import SHORT, Chaos, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_the_same_message_five_times_on_two_workers_is_one_attempt(chaos: Chaos, undisturbed: Reference) -> None:
    for worker in [chaos.start_worker(ready=False) for _ in range(2)]:
        worker.wait_until_ready()
    audit = chaos.create()
    for _ in range(5):
        assert wake(chaos.settings, "gpu")
    chaos.assert_settled([audit], like=undisturbed(SHORT))
    assert chaos.job(audit).attempt == 1
