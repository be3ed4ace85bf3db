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
    FencingToken,
    JobSnapshot,
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
from tests.support.examples import examples

START = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = timedelta(seconds=90)
CANCEL = timedelta(seconds=15)
BACKOFF = timedelta(seconds=15)
OWNERS = st.sampled_from(["a", "b", "c"])


class JobMachine(RuleBasedStateMachine):
    """One audit: its jobs one after the other, and workers that believe whatever they were last told.

    A worker never forgets a hold: old ones are tried again and again, as zombies do.
    """

    tokens = Bundle("holds")

    @initialize()
    def create(self) -> None:
        self.now = START
        self.jobs = [JobSnapshot(next_attempt_at=START)]
        self.published: list[FencingToken] = []
        self.attempts: list[int] = []
        self.ended: dict[int, JobSnapshot] = {}
        # Kept beside, to check the rules against: who was promised the job, until when, and whether it was cancelled.
        self.latest: FencingToken | None = None
        self.until = START
        self.cancel_asked = False

    @property
    def snapshot(self) -> JobSnapshot:
        return self.jobs[-1]

    def holders(self) -> set[FencingToken]:
        """Every hold there ever was that is good now."""
        return {token for _, token in self.all_tokens if is_held(self.snapshot, token, self.now)}

    @property
    def all_tokens(self) -> list[tuple[int, FencingToken]]:
        return self.__dict__.setdefault("_all_holds", [])

    def become(self, snapshot: JobSnapshot | None, by: FencingToken | None = None) -> bool:
        """`by`: the worker that did it, which must have been the one that was promised the job, and in time."""
        if snapshot is not None:
            self.jobs[-1] = snapshot
            if by is not None:
                assert by == self.latest
                assert self.now < self.until
        return snapshot is not None

    # ------------------------------------------------------------ what happens

    @rule(seconds=st.sampled_from([0, 1, 14, 15, 30, 89, 90, 600]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(target=tokens, owner=OWNERS)
    def a_worker_claims(self, owner: str) -> FencingToken | MultipleResults[FencingToken]:
        before = self.snapshot
        claimed = self.become(claim(before, owner=owner, now=self.now, lease=LEASE))
        assert claimed == (before.state is State.QUEUED and before.next_attempt_at <= self.now)
        if not claimed:
            return multiple()
        token = FencingToken(self.snapshot.attempt, owner)
        self.until = self.now + LEASE
        self.latest = token
        self.all_tokens.append((len(self.jobs), token))
        self.attempts.append(token.attempt)
        return token

    @rule(token=tokens)
    def a_worker_renews(self, token: FencingToken) -> None:
        before = self.snapshot
        if self.become(renew(before, token, now=self.now, lease=LEASE), by=token):
            assert self.snapshot.state is before.state
            if before.state is State.RUNNING:
                assert self.snapshot.lease_expires_at == self.now + LEASE
                self.until = self.now + LEASE
            else:
                assert self.snapshot == before, "a cancel that is under way is not put off"

    @rule(token=tokens)
    def a_worker_publishes(self, token: FencingToken) -> None:
        if self.become(succeed(self.snapshot, token, now=self.now), by=token):
            assert not self.cancel_asked
            self.published.append(token)

    @rule(token=tokens, retry=st.booleans())
    def a_worker_fails(self, token: FencingToken, retry: bool) -> None:
        before = self.snapshot
        if self.become(fail(before, token, now=self.now, retry=retry, backoff=BACKOFF), by=token):
            assert self.snapshot.failures == before.failures + 1
            if not retry:
                assert self.snapshot.state in TERMINAL

    @rule(token=tokens)
    def a_worker_confirms_a_cancel(self, token: FencingToken) -> None:
        before = self.snapshot
        if self.become(confirm_cancel(before, token, now=self.now), by=token):
            assert before.state is State.CANCELLING

    @rule(token=tokens)
    def a_worker_shuts_down(self, token: FencingToken) -> None:
        failures = self.snapshot.failures
        if self.become(release(self.snapshot, token, now=self.now), by=token):
            assert self.snapshot.failures == failures

    @rule()
    def a_user_cancels(self) -> None:
        before = self.snapshot
        if self.become(request_cancel(before, now=self.now, within=CANCEL)):
            assert self.snapshot.state in {State.CANCELLING, State.CANCELLED}
            self.cancel_asked = True
            self.until = min(self.until, self.now + CANCEL)
            if self.snapshot.lease_expires_at is not None:
                assert self.snapshot.lease_expires_at <= self.now + CANCEL
        else:
            assert before.state in TERMINAL | {State.CANCELLING}

    @rule()
    def the_reconciler_looks(self) -> None:
        before = self.snapshot
        if self.become(expire(before, now=self.now, backoff=BACKOFF)):
            assert self.until <= self.now
            assert self.snapshot.failures == before.failures + 1

    @rule()
    def the_laptop_starts_again(self) -> None:
        failures = self.snapshot.failures
        if self.become(give_back(self.snapshot)):
            assert self.snapshot.failures == failures

    @precondition(lambda self: self.snapshot.state in TERMINAL)
    @rule()
    def a_user_retries(self) -> None:
        again = follow_up(self.snapshot, now=self.now)
        assert (again is None) == (self.snapshot.state is State.SUCCEEDED)
        if again is not None:
            assert (again.state, again.failures, again.attempt) == (State.QUEUED, 0, self.snapshot.attempt)
            self.jobs.append(again)
            self.cancel_asked = False

    # ------------------------------------------------------------ what always holds

    @invariant()
    def who_asked_for_a_cancel_gets_one(self) -> None:
        if self.cancel_asked:
            assert self.snapshot.state in {State.CANCELLING, State.CANCELLED}

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
            assert self.snapshot.state is State.SUCCEEDED
            assert self.published == [FencingToken(self.snapshot.attempt, self.snapshot.owner or "")]

    @invariant()
    def terminal_states_never_change(self) -> None:
        for number, snapshot in enumerate(self.jobs):
            if snapshot.state in TERMINAL:
                assert self.ended.setdefault(number, snapshot) == snapshot
            else:
                assert number not in self.ended

    @invariant()
    def a_lease_is_what_a_held_job_has(self) -> None:
        for snapshot in self.jobs:
            assert (snapshot.lease_expires_at is not None) == (snapshot.state in HELD)

    @invariant()
    def failures_are_capped(self) -> None:
        assert all(snapshot.failures <= MAX_FAILURES for snapshot in self.jobs)
        assert all(snapshot.failures < MAX_FAILURES or snapshot.state in TERMINAL for snapshot in self.jobs)

    @invariant()
    def an_end_is_always_in_reach(self) -> None:
        """Left alone by every worker it has had, a job is queued or ended once its lease has run out."""
        if self.snapshot.state in HELD:
            later = expire(self.snapshot, now=self.now + LEASE, backoff=BACKOFF)
            assert later is not None
            assert later.state not in HELD


JobMachine.TestCase.settings = settings(examples(150), stateful_step_count=40)
TestJobMachine = JobMachine.TestCase


def running() -> JobSnapshot:
    snapshot = claim(JobSnapshot(next_attempt_at=START), owner="a", now=START, lease=LEASE)
    assert snapshot is not None
    return snapshot


TOKEN = FencingToken(1, "a")


def test_a_lease_that_has_run_out_is_lost_even_if_nobody_took_over() -> None:
    late = START + LEASE
    for act in (
        renew(running(), TOKEN, now=late, lease=LEASE),
        succeed(running(), TOKEN, now=late),
        fail(running(), TOKEN, now=late, retry=True, backoff=BACKOFF),
        release(running(), TOKEN, now=late),
    ):
        assert act is None
    assert succeed(running(), TOKEN, now=late - timedelta(microseconds=1)) is not None


@pytest.mark.parametrize("stranger", [FencingToken(1, "b"), FencingToken(2, "a"), FencingToken(0, "a")])
def test_a_stranger_does_nothing(stranger: FencingToken) -> None:
    assert succeed(running(), stranger, now=START) is None
    assert renew(running(), stranger, now=START, lease=LEASE) is None


def test_the_wait_grows_and_the_third_failure_is_the_last() -> None:
    snapshot = running()
    waits = []
    while snapshot.state is State.RUNNING:
        assert snapshot.lease_expires_at is not None
        at = snapshot.lease_expires_at
        failed = expire(snapshot, now=at, backoff=BACKOFF)
        assert failed is not None
        if failed.state is State.FAILED:
            break
        waits.append((failed.next_attempt_at - at).total_seconds())
        claimed = claim(failed, owner="a", now=failed.next_attempt_at, lease=LEASE)
        assert claimed is not None
        snapshot = claimed
    assert waits == [15, 60]
    assert (failed.failures, failed.attempt) == (3, 3)


def test_after_a_cancel_was_asked_for_it_ends_as_cancelled_whatever_its_worker_does() -> None:
    snapshot = request_cancel(running(), now=START, within=CANCEL)
    assert snapshot is not None
    assert succeed(snapshot, TOKEN, now=START) is None
    ends = [
        confirm_cancel(snapshot, TOKEN, now=START),
        fail(snapshot, TOKEN, now=START, retry=True, backoff=BACKOFF),
        release(snapshot, TOKEN, now=START),
        expire(snapshot, now=START + CANCEL, backoff=BACKOFF),
        give_back(snapshot),
    ]
    assert [end.state for end in ends if end] == [State.CANCELLED] * 5
