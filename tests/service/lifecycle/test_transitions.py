"""The life of a job against the rules that it is there to keep, whatever happens in whatever order."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from service.lifecycle.transitions import (
    HELD,
    MAX_FAILURES,
    TERMINAL,
    Hold,
    Life,
    State,
    claim,
    confirm_cancel,
    expire,
    fail,
    follow_up,
    give_back,
    is_held,
    release,
    renew,
    request_cancel,
    succeed,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = timedelta(seconds=90)
CANCEL = timedelta(seconds=15)
BACKOFF = timedelta(seconds=15)
OWNERS = st.sampled_from(["a", "b", "c"])


class JobMachine(RuleBasedStateMachine):
    """One audit: its jobs one after the other, and workers that believe whatever they were last told.

    A worker never forgets a hold: old ones are tried again and again, as zombies do.
    """

    holds = Bundle("holds")

    @initialize()
    def create(self) -> None:
        self.now = START
        self.jobs = [Life(next_attempt_at=START)]
        self.published: list[Hold] = []
        self.attempts: list[int] = []
        self.ended: dict[int, Life] = {}
        # Kept beside, to check the rules against: who was promised the job, until when, and whether it was cancelled.
        self.latest: Hold | None = None
        self.until = START
        self.cancel_asked = False

    @property
    def life(self) -> Life:
        return self.jobs[-1]

    def holders(self) -> set[Hold]:
        """Every hold there ever was that is good now."""
        return {hold for _, hold in self.all_holds if is_held(self.life, hold, self.now)}

    @property
    def all_holds(self) -> list[tuple[int, Hold]]:
        return self.__dict__.setdefault("_all_holds", [])

    def become(self, life: Life | None, by: Hold | None = None) -> bool:
        """`by`: the worker that did it, which must have been the one that was promised the job, and in time."""
        if life is not None:
            self.jobs[-1] = life
            if by is not None:
                assert by == self.latest
                assert self.now < self.until
        return life is not None

    # ------------------------------------------------------------ what happens

    @rule(seconds=st.sampled_from([0, 1, 14, 15, 30, 89, 90, 600]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(target=holds, owner=OWNERS)
    def a_worker_claims(self, owner: str) -> Hold | MultipleResults[Hold]:
        before = self.life
        claimed = self.become(claim(before, owner=owner, now=self.now, lease=LEASE))
        assert claimed == (before.state is State.QUEUED and before.next_attempt_at <= self.now)
        if not claimed:
            return multiple()
        hold = Hold(self.life.attempt, owner)
        self.until = self.now + LEASE
        self.latest = hold
        self.all_holds.append((len(self.jobs), hold))
        self.attempts.append(hold.attempt)
        return hold

    @rule(hold=holds)
    def a_worker_renews(self, hold: Hold) -> None:
        before = self.life
        if self.become(renew(before, hold, now=self.now, lease=LEASE), by=hold):
            assert self.life.state is before.state
            if before.state is State.RUNNING:
                assert self.life.lease_expires_at == self.now + LEASE
                self.until = self.now + LEASE
            else:
                assert self.life == before, "a cancel that is under way is not put off"

    @rule(hold=holds)
    def a_worker_publishes(self, hold: Hold) -> None:
        if self.become(succeed(self.life, hold, now=self.now), by=hold):
            assert not self.cancel_asked
            self.published.append(hold)

    @rule(hold=holds, retry=st.booleans())
    def a_worker_fails(self, hold: Hold, retry: bool) -> None:
        before = self.life
        if self.become(fail(before, hold, now=self.now, retry=retry, backoff=BACKOFF), by=hold):
            assert self.life.failures == before.failures + 1
            if not retry:
                assert self.life.state in TERMINAL

    @rule(hold=holds)
    def a_worker_confirms_a_cancel(self, hold: Hold) -> None:
        before = self.life
        if self.become(confirm_cancel(before, hold, now=self.now), by=hold):
            assert before.state is State.CANCELLING

    @rule(hold=holds)
    def a_worker_shuts_down(self, hold: Hold) -> None:
        failures = self.life.failures
        if self.become(release(self.life, hold, now=self.now), by=hold):
            assert self.life.failures == failures

    @rule()
    def a_user_cancels(self) -> None:
        before = self.life
        if self.become(request_cancel(before, now=self.now, within=CANCEL)):
            assert self.life.state in {State.CANCELLING, State.CANCELLED}
            self.cancel_asked = True
            self.until = min(self.until, self.now + CANCEL)
            if self.life.lease_expires_at is not None:
                assert self.life.lease_expires_at <= self.now + CANCEL
        else:
            assert before.state in TERMINAL | {State.CANCELLING}

    @rule()
    def the_reconciler_looks(self) -> None:
        before = self.life
        if self.become(expire(before, now=self.now, backoff=BACKOFF)):
            assert self.until <= self.now
            assert self.life.failures == before.failures + 1

    @rule()
    def the_laptop_starts_again(self) -> None:
        failures = self.life.failures
        if self.become(give_back(self.life)):
            assert self.life.failures == failures

    @precondition(lambda self: self.life.state in TERMINAL)
    @rule()
    def a_user_retries(self) -> None:
        again = follow_up(self.life, now=self.now)
        assert (again is None) == (self.life.state is State.SUCCEEDED)
        if again is not None:
            assert (again.state, again.failures, again.attempt) == (State.QUEUED, 0, self.life.attempt)
            self.jobs.append(again)
            self.cancel_asked = False

    # ------------------------------------------------------------ what always holds

    @invariant()
    def who_asked_for_a_cancel_gets_one(self) -> None:
        if self.cancel_asked:
            assert self.life.state in {State.CANCELLING, State.CANCELLED}

    @invariant()
    def nobody_shares_a_job(self) -> None:
        assert len(self.holders()) <= 1

    @invariant()
    def attempts_are_never_given_twice(self) -> None:
        assert self.attempts == sorted(set(self.attempts))

    @invariant()
    def it_is_published_once_at_most_and_by_the_last_attempt(self) -> None:
        assert len(self.published) <= 1
        if self.published:
            assert self.life.state is State.SUCCEEDED
            assert self.published == [Hold(self.life.attempt, self.life.owner or "")]

    @invariant()
    def terminal_states_never_change(self) -> None:
        for number, life in enumerate(self.jobs):
            if life.state in TERMINAL:
                assert self.ended.setdefault(number, life) == life
            else:
                assert number not in self.ended

    @invariant()
    def a_lease_is_what_a_held_job_has(self) -> None:
        for life in self.jobs:
            assert (life.lease_expires_at is not None) == (life.state in HELD)

    @invariant()
    def failures_are_capped(self) -> None:
        assert all(life.failures <= MAX_FAILURES for life in self.jobs)
        assert all(life.failures < MAX_FAILURES or life.state in TERMINAL for life in self.jobs)

    @invariant()
    def an_end_is_always_in_reach(self) -> None:
        """Left alone by every worker it has had, a job is queued or ended once its lease has run out."""
        if self.life.state in HELD:
            later = expire(self.life, now=self.now + LEASE, backoff=BACKOFF)
            assert later is not None
            assert later.state not in HELD


JobMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestJobMachine = JobMachine.TestCase


def running() -> Life:
    life = claim(Life(next_attempt_at=START), owner="a", now=START, lease=LEASE)
    assert life is not None
    return life


HOLD = Hold(1, "a")


def test_a_lease_that_has_run_out_is_lost_even_if_nobody_took_over() -> None:
    late = START + LEASE
    for act in (
        renew(running(), HOLD, now=late, lease=LEASE),
        succeed(running(), HOLD, now=late),
        fail(running(), HOLD, now=late, retry=True, backoff=BACKOFF),
        release(running(), HOLD, now=late),
    ):
        assert act is None
    assert succeed(running(), HOLD, now=late - timedelta(microseconds=1)) is not None


@pytest.mark.parametrize("stranger", [Hold(1, "b"), Hold(2, "a"), Hold(0, "a")])
def test_a_stranger_does_nothing(stranger: Hold) -> None:
    assert succeed(running(), stranger, now=START) is None
    assert renew(running(), stranger, now=START, lease=LEASE) is None


def test_the_wait_grows_and_the_third_failure_is_the_last() -> None:
    life = running()
    waits = []
    while life.state is State.RUNNING:
        assert life.lease_expires_at is not None
        at = life.lease_expires_at
        failed = expire(life, now=at, backoff=BACKOFF)
        assert failed is not None
        if failed.state is State.FAILED:
            break
        waits.append((failed.next_attempt_at - at).total_seconds())
        claimed = claim(failed, owner="a", now=failed.next_attempt_at, lease=LEASE)
        assert claimed is not None
        life = claimed
    assert waits == [15, 60]
    assert (failed.failures, failed.attempt) == (3, 3)


def test_after_a_cancel_was_asked_for_it_ends_as_cancelled_whatever_its_worker_does() -> None:
    life = request_cancel(running(), now=START, within=CANCEL)
    assert life is not None
    assert succeed(life, HOLD, now=START) is None
    ends = [
        confirm_cancel(life, HOLD, now=START),
        fail(life, HOLD, now=START, retry=True, backoff=BACKOFF),
        release(life, HOLD, now=START),
        expire(life, now=START + CANCEL, backoff=BACKOFF),
        give_back(life),
    ]
    assert [end.state for end in ends if end] == [State.CANCELLED] * 5
