"""The plan of directions: means, held-out means, placebos that hold nothing of what the items have in common."""

import numpy as np
import pytest

from worker.influence.directions import Kind, ProbeShape, plan

WITH_REFERENCE = ProbeShape(np.array([0, 0, 1, 2]), has_reference=True)
WITHOUT = ProbeShape(np.array([5, 5, 5]), has_reference=False)


def test_one_probe_has_targets_then_held_out_then_placebos() -> None:
    directions = plan([WITH_REFERENCE], seed=0)
    kinds = [Kind.UNWANTED, Kind.REFERENCE] + [Kind.HELD_OUT] * 6 + [Kind.PLACEBO] * 20
    assert directions.kind.tolist() == kinds
    assert directions.targets == 2
    means = directions.coefficients[0]
    assert means[0].tolist() == [0.25] * 4 + [0] * 4
    assert means[1].tolist() == [0] * 4 + [0.25] * 4
    assert directions.columns(0, Kind.PLACEBO).tolist() == list(range(8, 28))


def test_a_held_out_direction_has_no_share_of_its_fold() -> None:
    directions = plan([WITH_REFERENCE], seed=0)
    assert directions.held_out[0].tolist() == [[2, 2, 3, 4], [5, 5, 6, 7]]
    for side, columns in enumerate(directions.held_out[0]):
        for item, column in enumerate(columns):
            own, other = directions.coefficients[0][column].reshape(2, 4)[[side, 1 - side]]
            assert own.sum() == pytest.approx(1)
            assert not own[WITH_REFERENCE.folds == WITH_REFERENCE.folds[item]].any()
            assert not other.any()


def test_placebos_are_orthogonal_to_both_means_and_differ() -> None:
    directions = plan([WITH_REFERENCE], seed=0)
    placebos = directions.coefficients[0][directions.columns(0, Kind.PLACEBO)]
    np.testing.assert_allclose(placebos[:, :4].sum(1), 0, atol=1e-12)
    np.testing.assert_allclose(placebos[:, 4:].sum(1), 0, atol=1e-12)
    assert np.abs(placebos).sum(1).min() > 0
    assert len(np.unique(placebos.round(6), axis=0)) > 10


def test_targets_of_several_probes_come_first_and_placebos_are_shared_out() -> None:
    directions = plan([WITHOUT, WITH_REFERENCE, WITHOUT], seed=0)
    assert directions.kind[:4].tolist() == [Kind.UNWANTED, Kind.UNWANTED, Kind.REFERENCE, Kind.UNWANTED]
    assert directions.probe[:4].tolist() == [0, 1, 1, 2]
    assert directions.targets == 4
    for number, shape in enumerate((WITHOUT, WITH_REFERENCE, WITHOUT)):
        own = directions.of_probe(number)
        assert directions.coefficients[number].shape == (len(own), shape.gradients)
        assert len(directions.columns(number, Kind.PLACEBO)) == 7
        position = own.tolist().index(directions.columns(number, Kind.UNWANTED)[0])
        expected = [1 / shape.items] * shape.items + [0] * (shape.gradients - shape.items)
        assert directions.coefficients[number][position].tolist() == expected


def test_one_fold_cannot_be_held_out_and_one_item_has_no_placebo() -> None:
    assert plan([WITHOUT], seed=0).held_out[0].tolist() == [[-1, -1, -1]]
    alone = plan([ProbeShape(np.array([0]), has_reference=True)], seed=0)
    assert alone.kind.tolist() == [Kind.UNWANTED, Kind.REFERENCE]


def test_signs_come_from_the_seed() -> None:
    first, again, other = (plan([WITH_REFERENCE], seed=seed).coefficients[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("probes", [[], [ProbeShape(np.array([], dtype=np.int64), has_reference=False)]])
def test_no_probe_or_an_empty_one_is_refused(probes: list[ProbeShape]) -> None:
    with pytest.raises(ValueError, match="at least one probe"):
        plan(probes, seed=0)
