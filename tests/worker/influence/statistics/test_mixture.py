"""The mixture of kinds against samples whose kinds are known."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, t

from worker.influence.statistics.mixture import Kinds, false_share, fit_mixture

UNWANTED, FAIR = np.array([5.5, 2.0]), np.array([2.0, 5.0])
SPREAD = np.diag([1.5, 1.8])


def kinds(
    generator: np.random.Generator, *, bulk: int = 430, unwanted: int = 24, fair: int = 24, shift: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Statistics [samples, 2] of a data set, and each sample's kind: 0 bulk, 1 fair, 2 unwanted.

    shift: how much nearer the unwanted samples lie to the bulk than the probe's answers.
    """
    tail = generator.standard_t(13, (bulk, 2))
    near = UNWANTED - np.array([shift, 0])
    parts = [
        tail,
        generator.multivariate_normal(FAIR, SPREAD, fair),
        generator.multivariate_normal(near, SPREAD, unwanted),
    ]
    return np.concatenate(parts), np.repeat([0, 1, 2], [bulk, fair, unwanted])


def known(x: np.ndarray, shift: float) -> np.ndarray:
    """Probability of the unwanted kind for one who knows shares and places of all of them."""
    near = UNWANTED - np.array([shift, 0])
    density = np.array(
        [
            430 * t.pdf(x, 13).prod(1),
            24 * multivariate_normal.pdf(x, FAIR, SPREAD),
            24 * multivariate_normal.pdf(x, near, SPREAD),
        ]
    )
    return np.asarray(density[2] / density.sum(0))


def answers(generator: np.random.Generator, items: int = 12) -> tuple[np.ndarray, np.ndarray]:
    return generator.multivariate_normal(UNWANTED, SPREAD, items), generator.multivariate_normal(FAIR, SPREAD, items)


def fit(x: np.ndarray, unwanted: np.ndarray, reference: np.ndarray | None) -> Kinds:
    return fit_mixture(x, unwanted, reference, degrees_of_freedom=13).kinds(x)


def flags(found: Kinds, q: float = 0.05) -> np.ndarray:
    return np.asarray(false_share(1 - found.unwanted) <= q)


class TestFitMixture:
    def test_every_kind_is_counted(self) -> None:
        found = []
        for seed in range(40):
            generator = np.random.default_rng(seed)
            x, _ = kinds(generator)
            mixture = fit(x, *answers(generator))
            found.append((mixture.unwanted.sum(), mixture.fair.sum()))
        assert np.mean(found, axis=0) == pytest.approx((24, 24), abs=2)

    @pytest.mark.parametrize("shift", [0.0, 1.0])
    def test_flags_are_false_as_often_as_they_say(self, shift: float) -> None:
        """Fair answers count as false; poison may be worded otherwise than the probe."""
        shares, power, attainable = [], [], []
        for seed in range(60):
            generator = np.random.default_rng(seed)
            x, kind = kinds(generator, shift=shift)
            flagged = flags(fit(x, *answers(generator)))
            shares.append((kind[flagged] != 2).mean() if flagged.any() else 0)
            power.append(flagged[kind == 2].mean())
            attainable.append((false_share(1 - known(x, shift)) <= 0.05)[kind == 2].mean())
        assert np.mean(shares) <= 0.06
        assert np.mean(power) > np.mean(attainable) - 0.1

    def test_samples_that_are_weaker_than_the_answers_on_both_sides_stay_apart(self) -> None:
        """As in conversations that say other things as well: the fair kind does not take the unwanted ones along."""
        found, false = [], 0
        for seed in range(40):
            generator = np.random.default_rng(seed)
            x, _ = kinds(generator, unwanted=0, fair=0)
            weak = [
                generator.multivariate_normal(0.65 * UNWANTED, 0.5 * SPREAD, 12),
                generator.multivariate_normal(0.65 * FAIR, 0.5 * SPREAD, 24),
            ]
            flagged = flags(fit(np.concatenate([x, *weak]), *answers(generator)))
            found.append(flagged[len(x) : len(x) + 12].mean())
            false += int(flagged[: len(x)].sum() + flagged[len(x) + 12 :].sum())
        assert np.mean(found) > 0.2
        assert false <= 0.05 * (false + 12 * np.sum(found)) + 6

    def test_probabilities_are_frequencies(self) -> None:
        """Of the samples that are unwanted with probability p, a share p is."""
        said, true = [], []
        for seed in range(60):
            generator = np.random.default_rng(seed)
            x, kind = kinds(generator)
            mixture = fit(x, *answers(generator))
            said.append(mixture.unwanted)
            true.append(kind == 2)
        p, is_unwanted = np.concatenate(said), np.concatenate(true)
        for low, high in ((0.1, 0.4), (0.4, 0.6), (0.6, 0.9)):
            inside = (p > low) & (p < high)
            assert is_unwanted[inside].mean() == pytest.approx(p[inside].mean(), abs=0.12)

    def test_where_there_is_none_none_is_found(self) -> None:
        for seed in range(20):
            generator = np.random.default_rng(seed)
            x, _ = kinds(generator, unwanted=0, fair=0)
            mixture = fit(x, *answers(generator))
            assert mixture.unwanted.sum() < 4
            assert flags(mixture).sum() <= 1

    def test_fair_answers_alone_are_not_taken_for_unwanted_ones(self) -> None:
        for seed in range(20):
            generator = np.random.default_rng(seed)
            x, _ = kinds(generator, unwanted=0, fair=48)
            assert flags(fit(x, *answers(generator))).sum() <= 2

    def test_many_unwanted_samples_are_not_taken_for_fair_ones_where_there_are_none(self) -> None:
        generator = np.random.default_rng(0)
        x, kind = kinds(generator, bulk=14_000, unwanted=6_000, fair=0)
        mixture = fit(x, *answers(generator))
        assert mixture.fair.sum() < 0.05 * 6_000
        assert flags(mixture)[kind == 2].mean() > 0.85

    def test_without_references_there_is_no_fair_kind(self) -> None:
        generator = np.random.default_rng(0)
        x, kind = kinds(generator)
        mixture = fit(x[:, :1], answers(generator)[0][:, :1], None)
        assert not mixture.fair.any()
        assert flags(mixture)[kind == 2].mean() > 0.8

    def test_samples_beyond_the_probes_answers_are_as_sure(self) -> None:
        generator = np.random.default_rng(0)
        x, _ = kinds(generator)
        x[-1] = 8 * UNWANTED
        x[-30] = 8 * FAIR
        mixture = fit(x, *answers(generator))
        assert mixture.unwanted[-1] > 0.99
        assert mixture.fair[-30] > 0.99

    def test_without_an_item_that_can_be_held_out_the_typical_place_stands(self) -> None:
        generator = np.random.default_rng(0)
        x, kind = kinds(generator)
        nothing = np.empty((0, 2))
        flagged = flags(fit(x, nothing, nothing))
        assert flagged[kind == 2].mean() > 0.7
        assert (kind[flagged] != 2).mean() < 0.15

    @pytest.mark.parametrize("factor", [1.0, -1.0])
    def test_sides_that_rank_the_samples_alike_leave_the_bulk_its_width(self, factor: float) -> None:
        """As where the references say what the unwanted answers say."""
        generator = np.random.default_rng(0)
        x, kind = kinds(generator)
        x[:, 1] = factor * x[:, 0]
        mixture = fit(x, *answers(generator))
        assert np.isfinite(mixture.unwanted).all()
        assert mixture.bulk[kind == 0].mean() > 0.9


class TestFalseShare:
    def test_by_hand(self) -> None:
        found = false_share(np.array([0.3, 0.0, np.nan, 0.9]))
        np.testing.assert_allclose(found, [0.15, 0.0, np.nan, 0.4])
