"""The schedule of probe measurements: as the gradient turns, within a budget, never fewer than a handful."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.training.refresh import FURTHER_PROBE, MIN_MEASUREMENTS, SHARE, STEADY, RefreshSchedule


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
    # Where the budget binds, it is spread: the last measurement is not long before the end.
    if cosine < 0 and len(made) == MIN_MEASUREMENTS:
        assert total - made[-1] <= 2 * (total - 10) / MIN_MEASUREMENTS + 2


def test_a_short_run_is_measured_once_its_warm_up_is_over() -> None:
    assert run(0.9, total=12, planned=100, cost=100) == [10]
