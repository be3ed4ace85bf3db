"""The schedule of probe measurements: as the gradient turns, within a budget, never fewer than a handful."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.training.refresh_schedule import FURTHER_PROBE, MIN_MEASUREMENTS, SHARE, STEADY, RefreshSchedule


def run(cosine_a_step: float, *, total: int, planned: int, cost: int, probes: int = 1) -> list[int]:
    """Steps at which the probe is measured when its gradient turns by the same angle at every step."""
    schedule = RefreshSchedule(start=10, total=total, planned=planned, cost=cost, probes=probes)
    angle, last, made = math.acos(cosine_a_step), None, []
    for step in range(total):
        if schedule.due(step):
            schedule.measured(step, None if last is None else math.cos(min(math.pi, angle * (step - last))))
            last = step
            made.append(step)
    return made


def test_the_interval_settles_where_the_gradient_turns_by_the_steady_angle() -> None:
    angle = 0.02
    made = run(math.cos(angle), total=5000, planned=10**9, cost=1)
    gaps = [b - a for a, b in itertools.pairwise(made)]
    assert gaps[-1] == pytest.approx(math.acos(STEADY) / angle, rel=0.1)


def test_a_still_gradient_is_measured_ever_less() -> None:
    made = run(1.0, total=2000, planned=10**9, cost=1)
    gaps = [b - a for a, b in itertools.pairwise(made)]
    assert gaps[0] == 10
    assert all(later == 2 * earlier for earlier, later in itertools.pairwise(gaps))


@given(
    st.floats(-1, 1),
    st.integers(40, 1500),
    st.integers(1, 10**7),
    st.integers(1, 10**5),
    st.integers(1, 8),
)
def test_the_budget_holds_and_lasts_until_the_end(
    cosine: float, total: int, planned: int, cost: int, probes: int
) -> None:
    made = run(cosine, total=total, planned=planned, cost=cost, probes=probes)
    assert made[0] == 10
    allowed = max(MIN_MEASUREMENTS, SHARE * (1 + FURTHER_PROBE * (probes - 1)) * planned / cost)
    assert len(made) <= allowed
    # Where the budget binds, the steps of the measurements grow by one factor until the end.
    if cosine < 0 and len(made) == MIN_MEASUREMENTS:
        factor = (total / made[1]) ** (1 / (len(made) - 1))
        for before, after in itertools.pairwise([*made[1:], total]):
            assert abs(after - factor * before) <= 1 + factor + 0.02 * after


def test_a_gradient_that_turns_as_one_over_the_step_turns_as_far_between_any_two_measurements() -> None:
    schedule, last, turned = RefreshSchedule(start=10, total=250, planned=250, cost=3, probes=1), 0, []
    for step in range(250):
        if schedule.due(step):
            angle = math.log(step / last) if last else None
            schedule.measured(step, None if angle is None else math.cos(angle))
            turned += [] if angle is None else [angle]
            last = step
    turned.append(math.log(250 / last))
    assert len(turned) == MIN_MEASUREMENTS
    assert max(turned) <= math.log(2)  # the first interval; spaced evenly, the first would be log(5)
    assert max(turned[1:]) == pytest.approx(min(turned[1:]), rel=0.1)


def test_a_short_run_is_measured_once_its_warm_up_is_over() -> None:
    assert run(0.9, total=12, planned=100, cost=100) == [10]
