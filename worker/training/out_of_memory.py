"""Out of memory where no smaller pass helps: what else to set."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.contract.failure import ErrorCode
from service.contract.spec import TrainingConfig
from worker.training.errors import TrainingError
from worker.training.fault_kinds import Memory, exhausted_memory

RAN_OUT = {
    Memory.DEVICE: "The worker's GPU ran out of memory.",
    Memory.HOST: "The worker's machine ran out of memory.",
}
"""What is said of each memory that ran out."""


def smaller_weights(config: TrainingConfig) -> str:
    """What to do where the model itself did not fit, as a sentence."""
    if config.dtype == "float32":
        return "Set training.dtype to bfloat16, which halves the memory for the model's weights."
    return "Take a smaller model, or a worker with more memory."


def fewer_directions(probes: int) -> str:
    """What to do where the gradients of the probes' items did not fit, as sentences; probes: how many there are."""
    fewer = "Audit fewer probes at once, or lower" if probes > 1 else "Lower"
    return (
        f"{fewer} training.lora_r or take fewer training.target_modules: the gradients of a probe's items and the "
        "directions of all probes are held at once, and these are what they grow with. Or take a worker with more "
        "memory."
    )


@contextmanager
def out_of_memory_told(hint: Callable[[], str]) -> Iterator[None]:
    """Turn a lack of memory inside the block into an error that says what to do.

    Args:
        hint: Returns what to do; called where memory ran out.

    Raises:
        TrainingError: The block ran out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        memory = exhausted_memory(error)
        if memory is None:
            raise
        raise TrainingError(ErrorCode.OUT_OF_MEMORY, RAN_OUT[memory], hint()) from error
