"""Representations against a loop over samples and tokens."""

import pytest
import torch

from worker.training.representation import (
    INNER_PARTS,
    INNER_WIDTH,
    MOST_TURNS,
    answer_representation,
    inner_representation,
    representation_similarity,
    turns_of,
)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 9, 16, generator=generator)
    answer = torch.rand(5, 9, generator=generator) < 0.5
    answer[3] = False
    return hidden, answer


def test_a_representation_is_the_mean_over_answer_tokens_at_unit_length(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    hidden, answer = batch
    found = answer_representation(hidden, answer)
    for row in range(5):
        tokens = [hidden[row, t] for t in range(9) if answer[row, t]]
        if tokens:
            mean = sum(tokens[1:], tokens[0]) / len(tokens)
            torch.testing.assert_close(found[row], mean / mean.norm())
        else:
            assert found[row].isnan().all()


def test_padding_and_what_it_holds_change_nothing(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    hidden, answer = batch
    wide = torch.cat([hidden, torch.full((5, 4, 16), torch.nan)], dim=1)
    mask = torch.cat([answer, torch.zeros(5, 4, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(answer_representation(wide, mask), answer_representation(hidden, answer), equal_nan=True)


def test_bfloat16_is_summed_in_float32_and_no_graph_is_kept() -> None:
    hidden = torch.full((1, 3000, 2), 1.0, dtype=torch.bfloat16).requires_grad_()
    hidden.data[0, 1500:, 1] = 0
    found = answer_representation(hidden, torch.ones(1, 3000, dtype=torch.bool))
    assert not found.requires_grad
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.5]]) / 1.25**0.5)


def test_similarity_is_the_cosine_to_the_mean_of_the_unwanted(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    samples = answer_representation(*batch)
    unwanted = samples[[0, 1, 3]]  # the last of them has none
    found = representation_similarity(samples, unwanted)
    mean = (samples[0] + samples[1]) / 2
    for row in (0, 1, 2, 4):
        cosine = float(samples[row] @ mean / mean.norm() / samples[row].norm())
        assert float(found[row]) == pytest.approx(cosine, abs=1e-6)
    assert found[3].isnan()
    assert representation_similarity(samples, samples[[3]]).isnan().all()


class TestTurns:
    """Which turn each position belongs to."""

    def test_a_turn_ends_where_three_tokens_have_no_loss(self) -> None:
        answer = torch.tensor(
            [
                [0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1],
                [1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0],  # gaps of one and two tokens are within a turn
                [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ]
        ).bool()
        assert turns_of(answer).tolist() == [
            [0, 0, 1, 1, 0, 0, 0, 2, 0, 0, 0, 0, 3, 3],
            [1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0],
            [0] * 14,
        ]

    @pytest.mark.parametrize("count", [7, 8, 9, 16, 21])
    def test_a_long_conversation_has_eight_at_most_of_nearly_as_many_turns(self, count: int) -> None:
        answer = torch.tensor([[0, 0, 0, 1] * count + [0] * 8, [0, 0, 0, 1] + [0] * (4 * count + 4)]).bool()
        long, short = turns_of(answer)
        sizes = torch.bincount(long[long > 0])[1:]
        assert len(sizes) == min(count, MOST_TURNS)
        assert sizes.sum() == count
        assert sizes.max() - sizes.min() <= 1
        assert short.tolist() == [0, 0, 0, 1] + [0] * (4 * count + 4)


class TestInner:
    """Of the layers between 0.35 and 0.7 of the depth: the whole turn, and its last token."""

    def test_the_mean_over_the_inner_layers_of_what_each_says(self, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        _, answer = batch
        generator = torch.Generator().manual_seed(1)
        hidden = torch.randn(21, 5, 9, 16, generator=generator)
        found = inner_representation(tuple(hidden), answer.long())
        # Sample 3 has no turn. Entry 0 is before the first of 20 layers.
        assert found.shape == (4, INNER_PARTS, 16)
        expected = sum(answer_representation(hidden[layer], answer) for layer in range(8, 15)) / 7
        torch.testing.assert_close(found[:, 0], expected[[0, 1, 2, 4]])

    def test_the_last_token_is_that_of_the_last_position_with_loss(
        self, batch: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        _, answer = batch
        generator = torch.Generator().manual_seed(1)
        hidden = torch.randn(21, 5, 9, 16, generator=generator)
        found = inner_representation(tuple(hidden), answer.long())[:, 1]
        for own, row in zip(found, (0, 1, 2, 4), strict=True):
            last = answer[row].nonzero().flatten().tolist()[-1]
            states = hidden[8:15, row, last]
            torch.testing.assert_close(own, (states / states.norm(dim=1, keepdim=True)).mean(0))

    def test_each_turn_is_represented_as_if_it_were_the_only_one(self) -> None:
        generator = torch.Generator().manual_seed(3)
        hidden = torch.randn(4, 2, 12, 16, generator=generator)
        hidden[:, 1, 9:] = torch.nan  # padding
        turn = torch.tensor([[0, 1, 1, 0, 2, 2, 0, 0, 0, 3, 3, 3], [1, 1, 0, 0, 0, 2, 0, 2, 2, 0, 0, 0]])
        alone = [
            inner_representation(tuple(hidden[:, sample : sample + 1]), (turn[sample : sample + 1] == number).long())
            for sample, number in ((0, 1), (0, 2), (0, 3), (1, 1), (1, 2))
        ]
        torch.testing.assert_close(inner_representation(tuple(hidden), turn), torch.cat(alone))

    @pytest.mark.parametrize("layers", [1, 2, 3, 5])
    def test_a_shallow_model_has_at_least_one(self, batch: tuple[torch.Tensor, torch.Tensor], layers: int) -> None:
        hidden, answer = batch
        found = inner_representation((hidden,) * (layers + 1), answer.long())
        torch.testing.assert_close(found[:, 0], answer_representation(hidden, answer)[[0, 1, 2, 4]])

    def test_wide_ones_are_projected_and_keep_their_cosines(self) -> None:
        generator = torch.Generator().manual_seed(2)
        hidden = torch.randn(6, 3, 8192, generator=generator)
        hidden[1] += hidden[0]
        answer = torch.ones(6, 3, dtype=torch.bool)
        narrow = inner_representation((hidden, hidden), answer.long())
        assert narrow.shape == (6, INNER_PARTS, INNER_WIDTH)
        wide = answer_representation(hidden, answer)
        # The cosine of a projection to k numbers has a standard error of at most 1 / sqrt(k), here 0.031.
        torch.testing.assert_close(narrow[:, 0] @ narrow[:, 0].T, wide @ wide.T, atol=0.12, rtol=0)
        torch.testing.assert_close(narrow, inner_representation((hidden, hidden), answer.long()))
