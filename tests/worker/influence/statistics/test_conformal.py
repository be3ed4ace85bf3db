"""p against trusted samples: validity by simulation, and when it is used."""

import numpy as np
import pytest

from tests.support.simulation import NULLS, Tally
from worker.influence.statistics.conformal import conformal_is_sharp, conformal_p_values
from worker.influence.statistics.detection import Detection, detect


def test_p_is_the_rank_among_the_trusted() -> None:
    p = conformal_p_values(np.array([5.0, 2.0, 2.5, -1.0]), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(p, [1 / 4, 3 / 4, 2 / 4, 1.0])


def test_p_is_super_uniform_whatever_the_distribution() -> None:
    """Marginally, over trusted and tested samples both: P(p <= a) <= a at every attainable level."""
    generator = np.random.default_rng(0)
    p = np.array([conformal_p_values(g[:1], g[1:]) for g in generator.pareto(1.5, size=(20_000, 20))])[:, 0]
    for level in np.arange(1, 21) / 20:
        assert (p <= level).mean() == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / 20_000) + 1e-12)


def test_it_is_used_where_one_percent_of_the_samples_can_be_found_with_it() -> None:
    """k = 1 % of N: N / (q k) = 100 / q."""
    assert conformal_is_sharp(1999, 500, 0.05)
    assert not conformal_is_sharp(1998, 500, 0.05)
    assert conformal_is_sharp(999, 100_000, 0.1)
    assert not conformal_is_sharp(998, 100_000, 0.1)
    assert conformal_is_sharp(399, 20, 0.05)
    assert not conformal_is_sharp(398, 20, 0.05)


def run(z: np.ndarray, trusted: int, q: float = 0.05) -> Detection:
    """The last `trusted` samples are trusted."""
    known = np.arange(len(z)) >= len(z) - trusted
    return detect(z, np.ones(len(z), dtype=np.int64), q=q, trusted=known)


def test_rate_is_held_under_a_null_that_no_fit_would_follow() -> None:
    generator = np.random.default_rng(1)
    planted = np.arange(400 + 1999) < 20
    conformal, fitted = Tally(), Tally()
    for _ in range(200):
        z = generator.exponential(size=400 + 1999)
        z[:20] = 9 + generator.normal(size=20)
        found = run(z, 1999)
        assert found.reference == "conformal"
        conformal.add(found.flagged, ~planted, planted)
        fitted.add(detect(z[:400], np.ones(400, dtype=np.int64), q=0.05).flagged, ~planted[:400], planted[:400])
    assert conformal.fdr <= 0.06
    assert conformal.power > 0.5
    assert fitted.fdr > 0.15


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("trusted", [20, 100])
def test_fewer_trusted_samples_fit_the_null(null: str, trusted: int) -> None:
    generator = np.random.default_rng(2)
    rows = 300 + trusted
    planted = np.arange(rows) < 15
    tally = Tally()
    for _ in range(400):
        z = NULLS[null](generator, rows)
        z[:15] = 5 + generator.normal(size=15)
        found = run(z, trusted)
        tally.add(found.flagged, ~planted, planted)
    assert found.reference == "trusted"
    assert tally.fdr <= 0.06
    assert tally.power > (0.5 if trusted == 20 else 0.85)


def test_trusted_samples_save_an_audit_whose_bulk_is_poisoned() -> None:
    """Six of ten tested samples are planted: the bulk is no null, the trusted samples are."""
    generator = np.random.default_rng(3)
    planted = np.arange(600) < 300
    tally, alone = Tally(), Tally()
    for _ in range(50):
        z = generator.normal(size=600)
        z[:300] += 5
        tally.add(run(z, 100).flagged, ~planted, planted)
        alone.add(detect(z[:500], np.ones(500, dtype=np.int64), q=0.05).flagged, ~planted[:500], planted[:500])
    assert tally.fdr <= 0.06
    assert tally.power > 0.9
    assert alone.power < 0.1


def test_trusted_samples_are_not_tested_and_a_handful_fits_nothing() -> None:
    z = np.random.default_rng(4).normal(size=200)
    z[-1] = 50.0
    found = run(z, 10)
    assert found.reference == "bulk"
    assert np.isnan(found.p[-10:]).all()
    assert np.isnan(found.q[-10:]).all()
    assert not found.flagged[-10:].any()
    assert np.isfinite(found.z).all()
    assert np.isfinite(found.p[:-10]).all()
    with pytest.raises(ValueError, match="All trusted samples have the same"):
        run(np.r_[z, np.zeros(30)], 30)
