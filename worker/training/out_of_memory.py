"""Out of memory: which smaller setting would have fitted."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from service.contract.failure import ErrorCode
from service.contract.spec import TrainingConfig
from worker.training.batches import micro_batches
from worker.training.errors import TrainingError, says_out_of_memory


def smaller(lengths: Sequence[int], limit: int | None, device: torch.device) -> str:
    """What to set so that activations take half of what they took, as a sentence.

    lengths: tokens of each sample of the step; limit: training.micro_batch_size. Activations grow with the padded
    tokens of the largest part that runs at once.
    """
    parts = micro_batches(lengths, limit, device)
    largest = max(parts, key=lambda part: _padded(lengths, part))
    half = _padded(lengths, largest) / 2
    for fewer in range(min(limit or len(lengths), len(lengths)) - 1, 0, -1):
        if max(_padded(lengths, part) for part in micro_batches(lengths, fewer, device)) <= half:
            return (
                f"Set training.micro_batch_size to {fewer}: {len(largest)} samples of up to {max(lengths)} tokens at "
                "once were too many, and this halves the memory for activations at least; it changes no result."
            )
    return (
        f"Set training.max_length to {max(lengths) // 2}: one sample of {max(lengths)} tokens was too long, and this "
        "halves the memory for activations; longer samples lose their end, which the summary counts."
    )


def smaller_weights(config: TrainingConfig) -> str:
    """What to do where the model itself did not fit, as a sentence."""
    if config.dtype == "float32":
        return "Set training.dtype to bfloat16, which halves the memory for the model's weights."
    return "Take a smaller model, or a worker with more memory."


@contextmanager
def out_of_memory_told(hint: Callable[[], str]) -> Iterator[None]:
    """Raises TrainingError with the hint where the block runs out of memory."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not says_out_of_memory(error):
            raise
        raise TrainingError(ErrorCode.OUT_OF_MEMORY, "The device ran out of memory.", hint()) from error


def _padded(lengths: Sequence[int], part: Sequence[int]) -> int:
    return len(part) * max(lengths[position] for position in part)
