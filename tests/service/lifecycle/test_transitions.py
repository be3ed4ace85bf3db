"""The state machine against the rules that it is there to keep."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from service.lifecycle.transitions import HELD, TERMINAL, Act, State, next_state

ACTS = st.lists(st.sampled_from(list(Act)), max_size=40)


def walk(acts: list[Act]) -> list[State]:
    """Every state that the acts lead through; an act that is not allowed changes nothing."""
    states = [State.QUEUED]
    for act in acts:
        states.append(next_state(states[-1], act) or states[-1])
    return states


@given(ACTS)
def test_terminal_states_never_change(acts: list[Act]) -> None:
    states = walk(acts)
    for earlier, later in pairwise(states):
        if earlier in TERMINAL:
            assert later == earlier


@given(ACTS)
def test_success_and_failure_come_from_running_alone(acts: list[Act]) -> None:
    states = walk(acts)
    for earlier, later in pairwise(states):
        if later in {State.SUCCEEDED, State.FAILED} and earlier != later:
            assert earlier == State.RUNNING


@given(ACTS)
def test_after_a_request_to_cancel_nothing_is_published_and_nothing_runs_again(acts: list[Act]) -> None:
    state = State.QUEUED
    asked = False
    for act in acts:
        state_before, state = state, next_state(state, act) or state
        asked = asked or (act == Act.REQUEST_CANCEL and state_before not in TERMINAL)
        if asked:
            assert state in {State.CANCELLING, State.CANCELLED}


@given(ACTS)
def test_a_claim_takes_what_nobody_holds(acts: list[Act]) -> None:
    for state in walk(acts):
        assert (next_state(state, Act.CLAIM) is not None) == (state == State.QUEUED)


def test_from_every_state_an_end_is_one_or_two_acts_away() -> None:
    for state in State:
        followers = {next_state(state, act) for act in Act} - {None}
        if state in TERMINAL:
            assert not followers
        elif state in HELD:
            assert followers & TERMINAL
        else:
            assert State.CANCELLED in followers


def test_the_machine_has_these_transitions_and_no_other() -> None:
    allowed = {(state, act): next_state(state, act) for state in State for act in Act}
    assert {key: value for key, value in allowed.items() if value is not None} == {
        ("queued", "claim"): "running",
        ("queued", "request_cancel"): "cancelled",
        ("running", "succeed"): "succeeded",
        ("running", "fail"): "failed",
        ("running", "request_cancel"): "cancelling",
        ("running", "requeue"): "queued",
        ("cancelling", "confirm_cancel"): "cancelled",
        ("cancelling", "fail"): "cancelled",
        ("cancelling", "requeue"): "cancelled",
    }
