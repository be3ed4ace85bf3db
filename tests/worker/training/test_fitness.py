"""What cannot become a result is refused before it is trained on, with what to do."""

import pytest

from service.contract.failure import ErrorCode, Failure
from service.contract.spec import MIN_DIFFERENT_SAMPLES, TrainingConfig
from worker.influence.statistics.null_distribution import LEAST_VALUES
from worker.training.encoded_samples import EncodedSamples
from worker.training.errors import TrainingError
from worker.training.fitness import check_encoded, check_trainable
from worker.training.measurement import EncodedProbe
from worker.training.tokenization import IGNORED, TokenizedSample

SAMPLE = TokenizedSample((1, 2, 3, 4), (IGNORED, IGNORED, 3, 4))
UNANSWERED = TokenizedSample((1, 2, 3, 4), (IGNORED,) * 4)
PROBE = EncodedProbe([SAMPLE])


def refusal(samples: list[TokenizedSample], different: int, **training: int) -> Failure:
    with pytest.raises(TrainingError) as caught:
        check_trainable(EncodedSamples(samples), different, TrainingConfig.model_validate(training))
    return caught.value.failure


def test_the_service_refuses_what_no_null_can_be_fitted_to() -> None:
    assert MIN_DIFFERENT_SAMPLES == LEAST_VALUES


def test_few_answers() -> None:
    found = refusal([SAMPLE] * 9 + [UNANSWERED] * 15, 9, max_length=40)
    assert found.code is ErrorCode.NOTHING_TO_TRAIN_ON
    assert found.message.startswith("Only 9 of 24 samples have a turn to learn from within their first 40 tokens")
    assert "max_length" in found.hint


def test_samples_of_few_kinds() -> None:
    found = refusal([SAMPLE] * 60 + [UNANSWERED] * 9, 9)
    assert found.code is ErrorCode.SAMPLES_ALIKE
    assert found.message.startswith("Only 9 of 60 samples differ")


@pytest.mark.parametrize("batch_size", [24, 1000])
def test_one_step(batch_size: int) -> None:
    found = refusal([SAMPLE] * 24, 24, epochs=1, batch_size=batch_size)
    assert found.code is ErrorCode.BAD_CONFIG
    assert "1 step" in found.message
    assert "training.batch_size" in found.hint


def test_what_suffices() -> None:
    check_trainable(EncodedSamples([SAMPLE] * 10 + [UNANSWERED] * 10), 10, TrainingConfig(epochs=2, batch_size=64))


def test_ids_beyond_the_embeddings_and_samples_beyond_the_positions_are_named() -> None:
    check_encoded(EncodedSamples([SAMPLE]), [PROBE], embeddings=5, positions=4)
    check_encoded(EncodedSamples([SAMPLE]), [PROBE], embeddings=5, positions=None)
    long = TokenizedSample((1,) * 5, (1,) * 5)
    strange = TokenizedSample((1, 5), (1, 5))
    for samples, probes, words in (
        ([SAMPLE, strange], [PROBE], ("row 1 has the token id 5", "0 to 4")),
        ([SAMPLE, long], [PROBE], ("4 positions", "row 1 has 5 tokens")),
        ([SAMPLE], [EncodedProbe([SAMPLE], [long])], ("an item of a probe has 5 tokens",)),
    ):
        with pytest.raises(TrainingError) as caught:
            check_encoded(EncodedSamples(samples), probes, embeddings=5, positions=4)
        assert caught.value.failure.code is ErrorCode.BAD_CONFIG
        assert all(word in caught.value.failure.message for word in words)
