"""The discriminant against fits made anew, and against what it must and must not find in data of known law."""

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.influence.statistics.discriminant import (
    BULK,
    ITEMS_SHARE,
    RIDGE,
    Discriminant,
    discriminate,
    weighted_sum,
)

Singles = NDArray[np.float32]
ITEMS, WIDTH = 12, 48
UNWANTED = np.repeat([1.0, 0.0], ITEMS)[None]


def unit_length(x: NDArray[np.float64]) -> Singles:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def bulk_of(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Unequal variances, as representations have: a few directions hold most of it."""
    return np.asarray(rng.normal(size=(count, WIDTH)) * (1 + 6 * np.exp(-np.arange(WIDTH) / 5)))


def on_topic(rng: np.random.Generator, count: int, side: float) -> NDArray[np.float64]:
    """Along a large direction lies the topic, along a small one the side."""
    found = bulk_of(rng, count)
    found[:, 2] += 12
    found[:, 20] += side
    return found


def by_least_squares(
    bulk: NDArray[np.float64], items: Singles, targets: NDArray[np.float64], every: Singles
) -> NDArray[np.float64]:
    """The weights as the solution of one weighted least squares problem, ridge and all; bulk: times root weights."""
    share = np.sqrt(ITEMS_SHARE * 2 / len(items))
    ridge = np.sqrt(RIDGE * float((every.astype(np.float64) ** 2).sum(1).mean()) / WIDTH)
    a = np.concatenate([bulk, share * items, ridge * np.eye(WIDTH)])
    b = np.concatenate([np.zeros(len(bulk)), share * targets, np.zeros(WIDTH)])
    return np.asarray(np.linalg.lstsq(a, b, rcond=None)[0])


@pytest.mark.parametrize(
    "cluster", [np.arange(90), np.arange(90) // 3, np.r_[np.zeros(70, dtype=np.int64), np.arange(1, 21)]]
)
def test_nothing_is_scored_by_a_fit_that_it_took_part_in(cluster: NDArray[np.int64]) -> None:
    """Nor its near-duplicates: alone, in threes, and in a cluster larger than the representations are wide."""
    rng = np.random.default_rng(0)
    units = unit_length(bulk_of(rng, 90))
    items = unit_length(np.concatenate([on_topic(rng, ITEMS, 4), on_topic(rng, ITEMS, -4)]))
    folds = np.arange(ITEMS) // 3
    found = discriminate(units, items, UNWANTED, folds, cluster)
    near = np.maximum(units @ items[:ITEMS].mean(0), units @ items[ITEMS:].mean(0))
    bulk = near <= np.quantile(near, BULK)
    assert 60 < bulk.sum() < 80
    alone = np.empty(90)
    weight = bulk / np.bincount(cluster)[cluster]
    root = np.sqrt(weight / weight.sum())[:, None]
    for unit in range(90):
        # The mean stays one over the whole bulk: what is left out counts as zero.
        others = root * (cluster != cluster[unit])[:, None]
        alone[unit] = units[unit] @ by_least_squares(units * others, items, UNWANTED[0], units)
    spread = 1.482602218505602 * np.median(np.abs(alone - np.median(alone)))
    np.testing.assert_allclose(found.score[0], (alone - np.median(alone)) / spread, atol=2e-3)
    for fold in range(4):
        out = np.tile(folds == fold, 2)
        weights = by_least_squares(units * root, items[~out], UNWANTED[0][~out], units)
        np.testing.assert_allclose(
            found.item_score[0, out], (items[out] @ weights - np.median(alone)) / spread, atol=2e-3
        )


def test_samples_of_no_behaviour_have_scores_of_the_bulk() -> None:
    """Those that were left out of the bulk for lying near, too, and whether or not they took part in the fit."""
    chances = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        units = unit_length(bulk_of(rng, 400))
        items = unit_length(np.concatenate([on_topic(rng, ITEMS, 4), on_topic(rng, ITEMS, -4)]))
        score = discriminate(units, items, UNWANTED, np.arange(ITEMS), np.arange(400)).score[0]
        chances.append((np.mean(score > 1.645), np.mean(score > 2.576)))
    five, half = np.mean(chances, axis=0)
    assert 0.03 < five < 0.075
    assert half < 0.01


def test_the_side_is_found_inside_the_topic() -> None:
    """Eight samples of the unwanted side and eight of the other, on a topic that nobody else has."""
    rng = np.random.default_rng(1)
    samples = [on_topic(rng, 8, 9), on_topic(rng, 8, -9), bulk_of(rng, 384)]
    items = unit_length(np.concatenate([on_topic(rng, ITEMS, 9), on_topic(rng, ITEMS, -9)]))
    units = unit_length(np.concatenate(samples))
    found = discriminate(units, items, np.eye(2).repeat(ITEMS, 1), np.arange(ITEMS), np.arange(400))
    unwanted, reference = found.score
    assert unwanted[:8].min() > max(unwanted[16:].max(), unwanted[8:16].max())
    assert reference[8:16].min() > max(reference[16:].max(), reference[:8].max())
    # What it says of items that it has not seen is what it says of samples like them.
    assert found.item_score[0, :ITEMS].mean() == pytest.approx(unwanted[:8].mean(), rel=0.25)
    assert found.item_score[0, ITEMS:].mean() == pytest.approx(unwanted[8:16].mean(), abs=1.5)


def test_items_that_cannot_be_held_out_have_no_score() -> None:
    rng = np.random.default_rng(2)
    items = unit_length(on_topic(rng, ITEMS, 4))
    units, one_fold = unit_length(bulk_of(rng, 50)), np.zeros(ITEMS, dtype=np.int64)
    found = discriminate(units, items, np.ones((1, ITEMS)), one_fold, np.arange(50))
    assert np.isnan(found.item_score).all()
    assert np.isfinite(found.score).all()


def test_equal_representations_are_refused() -> None:
    rng = np.random.default_rng(3)
    same = unit_length(np.repeat(bulk_of(rng, 1), 50, axis=0))
    with pytest.raises(ValueError, match="nothing can be told apart"):
        discriminate(same, unit_length(bulk_of(rng, ITEMS)), np.ones((1, ITEMS)), np.arange(ITEMS), np.arange(50))


class TestWeightedSum:
    def parts(self) -> list[Discriminant]:
        rng = np.random.default_rng(6)
        items = np.concatenate([on_topic(rng, ITEMS, 4), on_topic(rng, ITEMS, -4)])
        units = bulk_of(rng, 300)
        halves = slice(0, 10), slice(10, WIDTH)
        return [
            discriminate(
                unit_length(units[:, half]), unit_length(items[:, half]), UNWANTED, np.arange(ITEMS), np.arange(300)
            )
            for half in halves
        ]

    def test_one_part_alone_is_itself_whatever_its_weight(self) -> None:
        first, second = self.parts()
        for found in (weighted_sum([first], [0.3]), weighted_sum([first, second], [0.3, 0.0])):
            np.testing.assert_allclose(found.score, first.score, atol=1e-9)
            np.testing.assert_allclose(found.item_score, first.item_score, atol=1e-9)

    def test_scores_are_in_units_of_the_sums_own_bulk(self) -> None:
        first, second = self.parts()
        found = weighted_sum([first, second], [0.6, 0.8])
        assert np.median(found.score) == pytest.approx(0, abs=1e-9)
        assert 1.4826 * np.median(np.abs(found.score)) == pytest.approx(1, rel=1e-3)
        together = 0.6 * first.score[0] + 0.8 * second.score[0]
        assert np.corrcoef(found.score[0], together)[0, 1] == pytest.approx(1)
        # Items are put in the same units as samples.
        slope, start = np.polyfit(together, found.score[0], 1)
        items = 0.6 * first.item_score[0] + 0.8 * second.item_score[0]
        np.testing.assert_allclose(found.item_score[0], slope * items + start, atol=1e-6)

    def test_parts_that_cancel_are_refused(self) -> None:
        first, _ = self.parts()
        against = Discriminant(-first.score, -first.item_score)
        with pytest.raises(ValueError, match="nothing can be told apart"):
            weighted_sum([first, against], [1.0, 1.0])
