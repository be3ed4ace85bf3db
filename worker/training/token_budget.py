"""How many tokens a pass may have, from what a dry run took and what is free; nothing here touches a device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.contract.failure import ErrorCode
from service.contract.protocol import NoticeEvent
from worker.training.errors import TrainingError

SHARE = 0.85
"""The share of the free memory that passes are planned with.

The rest is for what a dry run does not see: pieces of free memory that are too small, samples whose tokens all have
loss, what the recorder makes of gradients.
"""

LEAST_LENGTH = 8
"""The fewest tokens that training.max_length allows."""

GB = 1e9
"""Bytes of a gigabyte, as makers of GPUs count."""


@dataclass(frozen=True)
class PassCost:
    """What a forward and backward pass takes."""

    bytes_a_token: float
    """Padding counts."""
    gradients: int
    """Bytes that the pass's own gradients take, however many tokens it has."""

    def tokens(self, free: int, reserve: int = 0) -> int:
        """Return the most tokens of a pass, at least 1.

        Args:
            free: Bytes.
            reserve: Bytes of them that something else will take while the pass runs.
        """
        return max(1, int((SHARE * free - reserve - self.gradients) / self.bytes_a_token))


@dataclass(frozen=True)
class Single:
    """The longest sample of one kind of pass, which has to fit alone."""

    name: str
    """As a sentence begins."""
    tokens: int
    beside: int
    """Bytes that are held beside its pass and are not taken yet."""


class TokenBudget:
    """Gives the most tokens of a pass from the memory that is free at the time."""

    def __init__(self, cost: PassCost, free: Callable[[], int]) -> None:
        """Begin.

        Args:
            cost: What a pass takes.
            free: Reads how many bytes are free.
        """
        self.cost, self._free = cost, free

    def tokens(self, *, reserve: int = 0) -> int:
        """Return the most tokens of a pass from now on; reserve: bytes that are about to be taken beside it."""
        return self.cost.tokens(self._free(), reserve)

    def check(self, singles: Sequence[Single]) -> None:
        """Check that the longest samples fit alone, so that no run ends after hours because one does not.

        Raises:
            TrainingError: One does not.
        """
        free = self._free()
        for single in singles:
            needed = self.cost.bytes_a_token * single.tokens + self.cost.gradients
            if needed + single.beside > free:
                fitting = int((free - single.beside - self.cost.gradients) / self.cost.bytes_a_token)
                raise TrainingError(
                    ErrorCode.OUT_OF_MEMORY,
                    f"The GPU has {free / GB:.1f} GB free once the model is loaded. {single.name} has {single.tokens} "
                    f"tokens: a pass of it alone takes {needed / GB:.1f} GB, and the optimiser and the probes' "
                    f"gradients take {single.beside / GB:.1f} GB beside it.",
                    _what_to_change(fitting),
                )

    def notice(self, tokens: int) -> NoticeEvent:
        """Say what was planned."""
        free, token = self._free() / GB, self.cost.bytes_a_token / 1e6
        return NoticeEvent(
            code="passes_planned",
            message=f"A training pass has at most {tokens} tokens with padding, or one sample: {free:.1f} GB are free "
            f"on the GPU, and a token takes {token:.2f} MB.",
        )


def _what_to_change(fitting: int) -> str:
    fewer = (
        "Set training.gradient_checkpointing to true, where it is not, lower training.lora_r, take fewer "
        "training.target_modules or audit fewer probes at once."
    )
    if fitting < LEAST_LENGTH:
        return f"{fewer} Or give the worker a GPU with more memory."
    return (
        f"Set training.max_length to {fitting} or less; longer samples lose their end, which the summary counts. "
        f"Or: {fewer[0].lower()}{fewer[1:]} Or give the worker a GPU with more memory."
    )
