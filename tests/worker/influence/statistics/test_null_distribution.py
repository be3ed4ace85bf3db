"""The null's centre, scale and tail against optimisers and distributions that are known."""

import numpy as np
import pytest
from numpy.random import Generator
from scipy.optimize import minimize
from scipy.stats import norm, t

from worker.influence.statistics.null_distribution import (
    MAD,
    SCALE_EFFICIENCY,
    TAIL_DEGREES_OF_FREEDOM,
    TRUNCATION,
    Null,
    fit_location_and_scale,
    fit_null,
    tail_degrees_of_freedom,
)


def truncated_likelihood(z: np.ndarray, location: float, scale: float) -> float:
    """Minus the log likelihood, term by term."""
    centre = np.median(z)
    half = TRUNCATION * MAD * np.median(np.abs(z - centre))
    inside = z[np.abs(z - centre) <= half]
    mass = norm.cdf(centre + half, location, scale) - norm.cdf(centre - half, location, scale)
    return float(-norm.logpdf(inside, location, scale).sum() + len(inside) * np.log(mass))


@pytest.mark.parametrize("rows", [30, 200, 1000])
def test_fit_is_the_maximum_of_the_truncated_likelihood(rows: int) -> None:
    generator = np.random.default_rng(rows)
    for _ in range(10):
        z = 3.0 + 2.0 * generator.standard_t(6, size=rows)
        found = fit_null(z)
        robust = MAD * np.median(np.abs(z - np.median(z)))
        best = minimize(
            lambda x, z=z: truncated_likelihood(z, x[0], x[1]),
            x0=[np.median(z), robust],
            bounds=[(np.median(z) - robust, np.median(z) + robust), (0.7 * robust, 1.5 * robust)],
            method="L-BFGS-B",
        )
        assert truncated_likelihood(z, found.location, found.scale) <= best.fun + 1e-6
        assert 0.7 * robust * (1 - 1e-9) <= found.scale <= 1.5 * robust * (1 + 1e-9)


def test_many_fits_at_once_are_the_single_fits() -> None:
    z = np.random.default_rng(1).standard_t(5, size=(40, 60))
    location, scale = fit_location_and_scale(z)
    single = [fit_null(values) for values in z]
    np.testing.assert_allclose(location, [null.location for null in single], atol=1e-9)
    np.testing.assert_allclose(scale, [null.scale for null in single], atol=1e-9)


@pytest.mark.parametrize(("poison", "wider"), [(0.0, 1.04), (0.1, 1.12), (0.3, 1.35)])
def test_null_is_found_under_contamination(poison: float, wider: float) -> None:
    """Much poison moves the fitted null outward, which costs power and never an error rate."""
    generator = np.random.default_rng(4)
    clean, planted = round(4000 * (1 - poison)), round(4000 * poison)
    null = fit_null(np.r_[2.0 + 3.0 * generator.normal(size=clean), 2.0 + 3.0 * (5 + generator.normal(size=planted))])
    assert 2.0 - 0.15 <= null.location <= 2.0 + 3.0 * wider - 3.0 + 0.3
    assert 0.96 * 3.0 <= null.scale <= wider * 3.0


def test_too_few_or_equal_values_are_an_error() -> None:
    with pytest.raises(ValueError, match="takes 10 or more"):
        fit_null(np.arange(9.0))
    with pytest.raises(ValueError, match="More than half"):
        fit_null(np.r_[np.zeros(30), 1.0, 2.0])


def test_p_is_the_tail_of_the_fitted_student_t() -> None:
    null = Null(0.5, 2.0, 15.0)
    assert null.sf(np.array([4.5]))[0] == pytest.approx(t.sf(2.0, 15))
    assert null.isf(float(t.sf(2.0, 15))) == pytest.approx(4.5)
    grid = np.linspace(-60, 60, 200_001)
    assert np.trapezoid(null.pdf(grid), grid) == pytest.approx(1.0, abs=1e-6)


def placebos(generator: Generator, rows: int, degrees_of_freedom: float, directions: int = 20) -> np.ndarray:
    """[directions, rows]: each row has 12 item signals and a spread of its own; directions are centred random signs."""
    items = generator.normal(size=(12, rows))
    signs = generator.choice([-1.0, 1.0], size=(directions, 12))
    signs[signs.std(1) == 0, 0] *= -1
    centred = signs - signs.mean(1, keepdims=True)
    spread = np.sqrt(degrees_of_freedom / generator.chisquare(degrees_of_freedom, size=rows))
    return centred / np.linalg.norm(centred, axis=1, keepdims=True) @ items * spread


def test_heavy_placebo_tails_lower_the_degrees_of_freedom_and_light_ones_keep_the_default() -> None:
    generator = np.random.default_rng(2)
    heavy = [tail_degrees_of_freedom(placebos(generator, 500, 5.0)) for _ in range(20)]
    light = [tail_degrees_of_freedom(placebos(generator, 500, 1e9)) for _ in range(20)]
    assert max(heavy) <= 8.0
    assert min(heavy) >= 5.0
    assert light == [TAIL_DEGREES_OF_FREEDOM] * 20


def test_one_skewed_side_is_seen_although_signs_are_random() -> None:
    generator = np.random.default_rng(3)
    tail = generator.exponential(size=(20, 500)) * generator.choice([-1.0, 1.0], size=(20, 1))
    assert tail_degrees_of_freedom(tail) == pytest.approx(5.0)


def test_poison_that_stands_out_in_placebos_is_left_out_with_the_flagged_rows() -> None:
    generator = np.random.default_rng(4)
    z = placebos(generator, 500, 1e9)
    z[:, :25] += 4 * generator.normal(size=(20, 1))
    clean = np.arange(500) >= 25
    assert tail_degrees_of_freedom(z) < TAIL_DEGREES_OF_FREEDOM
    assert tail_degrees_of_freedom(z, usable=clean) == TAIL_DEGREES_OF_FREEDOM


def test_little_or_nothing_measured_keeps_the_default() -> None:
    few = fit_null(np.random.default_rng(0).normal(size=50)).degrees_of_freedom
    assert tail_degrees_of_freedom(np.zeros((3, 50))) == few
    assert tail_degrees_of_freedom(np.empty((0, 50))) == few
    assert tail_degrees_of_freedom(np.full((3, 50), np.nan)) <= few
    assert tail_degrees_of_freedom(np.random.default_rng(5).normal(size=(2, 50))) == few


def test_few_rows_make_the_tail_heavier() -> None:
    generator = np.random.default_rng(6)
    found = [fit_null(generator.normal(size=rows)).degrees_of_freedom for rows in (20, 50, 200, 500, 5000)]
    assert found == sorted(found)
    assert found[0] < 3.0
    assert found[3:] == [TAIL_DEGREES_OF_FREEDOM] * 2


def test_scale_varies_as_that_of_a_known_number_of_gaussian_values() -> None:
    _, scale = fit_location_and_scale(np.random.default_rng(7).normal(size=(4000, 200)))
    assert 1 / (2 * np.log(scale).var() * 200) == pytest.approx(SCALE_EFFICIENCY, rel=0.1)
