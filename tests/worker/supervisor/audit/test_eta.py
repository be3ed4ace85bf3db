"""How long the seeds to come will take, on a clock that the test turns."""

import pytest

from worker.supervisor.audit.eta import EtaEstimator


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_one_seed_has_the_eta_of_its_step() -> None:
    estimator = EtaEstimator(1, Clock())
    estimator.start()
    assert estimator.eta_seconds(None) is None
    assert estimator.eta_seconds(42) == 42


def test_the_first_seed_is_the_measure_of_the_others_before_it_has_ended() -> None:
    clock = Clock()
    estimator = EtaEstimator(3, clock)
    estimator.start()
    clock.now += 30
    assert estimator.eta_seconds(None) is None, "nothing is known yet"
    assert estimator.eta_seconds(70) == pytest.approx(70 + 2 * 100)


def test_what_earlier_seeds_took_is_the_measure_of_later_ones() -> None:
    clock = Clock()
    estimator = EtaEstimator(3, clock)
    for seconds in (90, 110):
        estimator.start()
        clock.now += seconds
        estimator.finish()
    estimator.start()
    assert estimator.eta_seconds(None) == pytest.approx(100)
    clock.now += 20
    assert estimator.eta_seconds(None) == pytest.approx(80)
    assert estimator.eta_seconds(75) == pytest.approx(75)
    clock.now += 500
    assert estimator.eta_seconds(None) == 0, "late, and never negative"


def test_with_a_step_finished_the_rest_counts_whole_steps() -> None:
    clock = Clock()
    estimator = EtaEstimator(3, clock)
    estimator.start()
    clock.now += 60
    estimator.finish()
    estimator.start()
    clock.now += 10
    assert estimator.eta_seconds(None) == pytest.approx(50 + 60)
    assert estimator.eta_seconds(40) == pytest.approx(40 + 60)


def test_beside_training_a_step_speaks_for_itself() -> None:
    estimator = EtaEstimator(1, Clock())
    estimator.start()
    estimator.finish()
    assert estimator.eta_seconds(5) == 5
    assert estimator.eta_seconds(None) is None


def test_an_attempt_with_nothing_to_train() -> None:
    assert EtaEstimator(0, Clock()).eta_seconds(None) is None
