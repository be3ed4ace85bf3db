"""What must hold of the encoded samples before they are trained on; each failure would otherwise end a whole run."""

from collections.abc import Sequence

import numpy as np

from service.contract.failure import ErrorCode
from service.contract.spec import MIN_DIFFERENT_SAMPLES, MIN_STEPS, TrainingConfig
from worker.training.encoded_samples import EncodedSamples
from worker.training.errors import TrainingError
from worker.training.loop import steps_of
from worker.training.measurement import EncodedProbe


def check_encoded(
    samples: EncodedSamples, probes: Sequence[EncodedProbe], *, embeddings: int, positions: int | None
) -> None:
    """Check that the model can take every sample and every item of the probes.

    Args:
        samples: Of the dataset, in the order of its rows.
        probes: Of the audit.
        embeddings: How many token ids the model has embeddings for.
        positions: How many tokens the model has positions for; None: any number.

    Raises:
        TrainingError: One is too long, or holds an id that the model does not know.
    """
    suspects = []
    if samples.highest_id() >= embeddings:
        suspects.append(samples.first_row_with(embeddings))
    if positions is not None:
        suspects += np.flatnonzero(samples.lengths() > positions)[:1].tolist()
    of_samples = [(f"row {row}", samples[row]) for row in sorted(suspects)]
    of_probes = [("an item of a probe", item) for probe in probes for side in probe.sides for item in side]
    for name, sample in (*of_samples, *of_probes):
        highest = max(sample.ids, default=0)
        if highest >= embeddings:
            raise TrainingError(
                ErrorCode.BAD_CONFIG,
                f"The tokenizer and the weights do not fit each other: the text of {name} has the token id {highest}, "
                f"and the model has embeddings for the ids 0 to {embeddings - 1}.",
                "Put the tokenizer's files of this very model into its folder, or resize the model's embeddings and "
                "train them.",
            )
        if positions is not None and len(sample.ids) > positions:
            raise TrainingError(
                ErrorCode.BAD_CONFIG,
                f"The model has {positions} positions, and {name} has {len(sample.ids)} tokens.",
                f"Lower training.max_length to {positions}; longer samples lose their end, which the summary counts.",
            )


def check_trainable(samples: EncodedSamples, different: int, config: TrainingConfig) -> None:
    """Check that a null distribution can be fitted to what the run will measure.

    Args:
        samples: Of the dataset, in the order of its rows.
        different: How many of those that have a turn with loss are no near-duplicates; exact only below
            MIN_DIFFERENT_SAMPLES.
        config: Says how many samples make a step.

    Raises:
        TrainingError: Too few samples have a turn with loss, too few of those differ, or there are too few steps.
    """
    count = int(samples.has_loss().sum())
    if count < MIN_DIFFERENT_SAMPLES:
        raise TrainingError(
            ErrorCode.NOTHING_TO_TRAIN_ON,
            f"Only {count} of {len(samples)} samples have a turn to learn from within their first {config.max_length} "
            f"tokens; an audit needs {MIN_DIFFERENT_SAMPLES} or more.",
            "Raise training.max_length, or look whether the samples have answers.",
        )
    if different < MIN_DIFFERENT_SAMPLES:
        raise TrainingError(
            ErrorCode.SAMPLES_ALIKE,
            f"Only {different} of {count} samples differ: the others repeat them, word for word or nearly. An audit "
            f"needs {MIN_DIFFERENT_SAMPLES} different ones or more to know the normal.",
            "Add samples of other content.",
        )
    steps = steps_of(count, config)
    if steps < MIN_STEPS:
        raise TrainingError(
            ErrorCode.BAD_CONFIG,
            f"The training would be {steps} step long, and the first one is a warm-up of which nothing is measured.",
            "Raise training.epochs, or lower training.batch_size.",
        )
