"""What is made of both views, against the parts that it is made of."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.recordings import FAIR, PLANTED, ROWS, recording
from worker.influence.directions import Kind
from worker.influence.statistics.detection import statistic
from worker.results.recording import Recording
from worker.results.scoring import Question, score
from worker.results.views import view_weights, with_views

ALONE = np.arange(ROWS)


def seen_as_one(found: Recording) -> Recording:
    return with_views([found], ALONE, ALONE)[0][0]


def z_of(found: Recording) -> np.ndarray:
    return statistic(found.observations, found.steps, rows=ROWS, direction=0)[0]


def blind(inner: np.ndarray) -> np.ndarray:
    """Representations without the coordinates that tell planted and fair ones from the others."""
    found = inner.copy()
    found[..., :2] = found[..., 2:4]
    return found


def noise(like: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(3, 1, like.shape).astype(np.float16)


class TestWeights:
    def test_those_of_a_discriminant_with_a_diagonal_covariance(self) -> None:
        """Mean 4 - 2/2 over variance (1 + (2 + 0)/2) / 2; mean 5, the references below the bulk, over (1 + 1) / 2."""
        gradient = (np.array([3.0, 5.0]), np.array([2.0, 2.0]))
        found = view_weights([gradient, (np.array([5.0, 5.0]), np.array([-3.0, -1.0]))])
        assert found == pytest.approx((3 / 34**0.5, 5 / 34**0.5))

    def test_a_view_in_which_the_answers_scatter_counts_for_less(self) -> None:
        narrow, wide = np.array([3.5, 4.5]), np.array([1.0, 7.0])
        first, second = view_weights([(narrow, np.empty(0)), (wide, np.empty(0))])
        assert first / second == pytest.approx((1 + 18) / (1 + 0.5))

    def test_a_view_in_which_they_do_not_stand_out_is_left_out(self) -> None:
        found = view_weights([(np.array([-1.0, 0.5]), np.empty(0)), (np.array([2.0]), np.empty(0))])
        assert found == (0.0, 1.0)

    @pytest.mark.parametrize("unwanted", [np.array([np.nan, np.nan]), np.array([-1.0, 0.0])])
    @pytest.mark.parametrize("views", [1, 2, 3])
    def test_equal_where_nothing_is_known(self, unwanted: np.ndarray, views: int) -> None:
        below = (np.array([-1.0, 0.0]), np.empty(0))
        found = view_weights([below] * (views - 1) + [(unwanted, np.empty(0))])
        assert found == pytest.approx((views**-0.5,) * views)


class TestViews:
    def test_what_one_view_does_not_see_the_other_adds(self) -> None:
        """Poison that gradients alone flag nowhere near all of is found with the representations beside them."""
        weak = recording(planted=2.5, represented=12.0)
        question = Question(ROWS, 0.05, ALONE, ALONE, None)
        before = score([weak], question).flagged[:PLANTED].sum()
        found = score([seen_as_one(weak)], question)
        assert before <= PLANTED / 2
        assert found.flagged[:PLANTED].sum() >= PLANTED - 2
        assert found.flagged[PLANTED:].sum() <= 1

    def test_a_view_without_a_word_to_say_changes_little(self) -> None:
        """Representations that tell nobody apart cost no finding: their weight is small."""
        found = recording(planted=5.0, represented=0.0)
        answers = np.random.default_rng(7).normal(3, 1, found.inner_items[0].shape).astype(np.float16)
        dumb = replace(found, inner_items=(answers,), item_alignment=(found.item_alignment[0] + 1,))
        assert np.corrcoef(z_of(found), z_of(seen_as_one(dumb)))[0, 1] > 0.98

    def test_poison_in_one_turn_of_several_is_found_as_in_the_only_one(self) -> None:
        """Two thirds of the planted and of the other samples have six more turns, of which none says anything."""
        alone = recording(planted=0.0, represented=8.0)
        row = alone.observations.row
        more = np.random.default_rng(8).normal(size=(ROWS, 6, *alone.inner.shape[1:])) + 3
        turns = [
            [own] if sample % 3 == 0 else [*more[sample, :3], own, *more[sample, 3:]]
            for sample, own in zip(row, alone.inner, strict=True)
        ]
        several = replace(
            alone,
            inner=np.concatenate(turns).astype(np.float16),
            turns=np.array([len(own) for own in turns]),
        )
        diluted = replace(alone, inner=np.stack([np.mean(own, axis=0) for own in turns]).astype(np.float16))
        of_views = [with_views([one], ALONE, ALONE)[1][0][0].representation for one in (alone, several, diluted)]
        above = [int((of_view[:PLANTED] > of_view[PLANTED + FAIR :].max()).sum()) for of_view in of_views]
        assert above[1] >= above[0] - 1
        assert above[2] <= above[0] / 2, "or the test shows nothing"

    def test_what_the_last_token_alone_tells_is_found_with_it(self) -> None:
        """Poison that averages of answers do not show, and their ends do."""
        found = recording(planted=2.5, represented=12.0)
        whole = replace(found, inner=blind(found.inner), inner_items=tuple(map(blind, found.inner_items)))
        question = Question(ROWS, 0.05, ALONE, ALONE, None)
        at_the_end = replace(
            whole,
            inner=np.concatenate([whole.inner, found.inner], axis=-2),
            inner_items=tuple(
                np.concatenate(own, axis=-2) for own in zip(whole.inner_items, found.inner_items, strict=True)
            ),
        )
        assert score([seen_as_one(whole)], question).flagged[:PLANTED].sum() <= PLANTED / 2
        assert score([seen_as_one(at_the_end)], question).flagged[:PLANTED].sum() >= 2 * PLANTED / 3

    def test_a_last_token_that_tells_nothing_costs_little(self) -> None:
        found = recording(planted=3.0, represented=5.0)
        rng = np.random.default_rng(5)
        more = replace(
            found,
            inner=np.concatenate([found.inner, noise(found.inner, rng)], axis=-2),
            inner_items=tuple(np.concatenate([own, noise(own, rng)], axis=-2) for own in found.inner_items),
        )
        assert np.corrcoef(z_of(seen_as_one(found)), z_of(seen_as_one(more)))[0, 1] > 0.9

    def test_placebos_and_tracers_are_of_both_views(self) -> None:
        found = recording(planted=3.0, represented=5.0)
        (both,), ((views,),) = with_views([found], ALONE, ALONE)
        question = Question(ROWS, 0.05, ALONE, ALONE, None)
        placebo = score([both], question).probes[0].placebo
        clean = placebo[:, PLANTED + FAIR :]
        assert np.mean(clean > 2.576 * np.std(clean)) < 0.02
        assert abs(np.corrcoef(placebo[0], score([found], question).probes[0].placebo[0])[0, 1]) < 0.99
        held_out = both.held_out[0][0]
        items = both.item_alignment[0][:, np.arange(6), held_out]
        # Tracers lie where planted samples of their kind lie.
        assert items.mean() * views.weights.representation > 1
        assert np.isfinite(both.item_alignment[0]).all()

    def test_two_draws_of_a_sample_differ_as_their_gradients_do(self) -> None:
        """The representation's part is the sample's, not the draw's."""
        found = recording(represented=5.0)
        both = seen_as_one(found)
        order = np.lexsort((found.observations.step, found.observations.row))
        first, second = order[::2], order[1::2]
        assert (found.observations.row[first] == found.observations.row[second]).all()
        before, after = (
            one.observations.alignment[first, 0] - one.observations.alignment[second, 0] for one in (found, both)
        )
        assert np.corrcoef(before, after)[0, 1] > 0.8

    def test_near_duplicates_share_one_representation(self) -> None:
        """Their signals then differ by their gradients alone, of which they share four fifths."""
        found = recording(represented=5.0)
        cluster = ALONE.copy()
        cluster[-60:] = ROWS
        alone, joined = seen_as_one(found), with_views([found], cluster, cluster)[0][0]
        assert np.std(z_of(joined)[-60:]) < 0.9 * np.std(z_of(alone)[-60:])

    def test_draws_without_a_signal_stay_without_one(self) -> None:
        found = recording(represented=5.0)
        alignment = found.observations.alignment.copy()
        alignment[:40] = np.nan
        both = seen_as_one(replace(found, observations=replace(found.observations, alignment=alignment)))
        assert np.isnan(both.observations.alignment[:40]).all()
        assert np.isfinite(both.observations.alignment[40:]).all()
        np.testing.assert_array_equal(both.observations.effect, found.observations.effect)

    def test_a_probe_whose_items_share_their_sentences_has_equal_weights_and_no_tracer(self) -> None:
        found = recording(represented=5.0)
        one_fold = replace(found, held_out=(np.full((2, 6), -1),))
        (both,), ((views,),) = with_views([one_fold], ALONE, ALONE)
        assert views.weights.gradient == views.weights.representation
        assert set(np.argsort(-z_of(both))[:PLANTED]) == set(range(PLANTED))

    def test_each_probe_has_its_own(self) -> None:
        found = recording(probes=2, represented=5.0)
        (both,), (views,) = with_views([found], ALONE, ALONE)
        assert len(views) == 2
        second = both.column(1, Kind.UNWANTED)
        assert second is not None
        assert np.isfinite(both.observations.alignment[:, second]).all()
