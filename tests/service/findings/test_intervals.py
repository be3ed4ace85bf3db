"""The exact interval agrees with SciPy's beta distribution, which the service itself may not import."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc
from scipy.stats import beta, binomtest

from service.findings.intervals import beta_cdf, clopper_pearson


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize(
    ("successes", "trials"),
    [(0, 1), (1, 1), (0, 10), (10, 10), (1, 10), (5, 10), (9, 10), (50, 100), (99, 100), (3, 5000), (49_000, 50_000)],
)
def test_scipy_finds_the_same(successes: int, trials: int, confidence: float) -> None:
    found = clopper_pearson(successes, trials, confidence)
    expected = binomtest(successes, trials).proportion_ci(confidence, method="exact")
    assert found == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-12)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_whatever_the_counts(counts: tuple[int, int]) -> None:
    successes, trials = counts
    low, high = clopper_pearson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    if successes:
        assert low == pytest.approx(beta.ppf(0.025, successes, trials - successes + 1), rel=1e-8)
    if successes < trials:
        assert high == pytest.approx(beta.ppf(0.975, successes + 1, trials - successes), rel=1e-8)


@given(st.floats(0, 1), st.floats(0.5, 2000), st.floats(0.5, 2000))
def test_the_beta_distribution(x: float, a: float, b: float) -> None:
    assert beta_cdf(x, a, b) == pytest.approx(betainc(a, b, x), rel=1e-8, abs=1e-12)


def test_nothing_seen() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "trials", "confidence"), [(2, 1, 0.9), (-1, 1, 0.9), (0, 1, 0), (0, 1, 1)])
def test_counts_that_cannot_be(successes: int, trials: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="successes"):
        clopper_pearson(successes, trials, confidence)
