"""Samples run in passes of bounded size: within a plan, and smaller from where memory runs out on."""

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from service.contract.failure import ErrorCode
from service.contract.protocol import NoticeEvent
from worker.training.batches import micro_batches
from worker.training.errors import TrainingError
from worker.training.fault_kinds import Memory, exhausted_memory

T = TypeVar("T")

OWNERS = {Memory.DEVICE: "The GPU's memory", Memory.HOST: "The machine's memory"}
"""Whose memory passes take, as a sentence begins."""


class Passes:
    """Runs samples in passes, and halves those for which memory does not suffice, down to one sample.

    How samples are split into passes changes no result, so a pass that ran out of memory is run again in parts. Such a
    limit holds for all later passes of this object.
    """

    def __init__(
        self,
        what: str,
        *,
        samples: int | None,
        device: torch.device,
        tell: Callable[[NoticeEvent], None] = lambda notice: None,
    ) -> None:
        """Begin with no limit of tokens.

        Args:
            what: Names the passes in a sentence, such as "a training pass".
            samples: The most samples of a pass; None: no limit.
            device: Where the passes run.
            tell: Is told when passes become smaller.
        """
        self._what, self._samples, self._device, self._tell = what, samples, device, tell
        self._memory = Memory.HOST if device.type == "cpu" else Memory.DEVICE
        self._tokens: int | None = None
        """The limit since memory ran out."""
        self._planned: int | None = None

    @property
    def tokens(self) -> int | None:
        """The most tokens, with padding, of a pass of several samples; None: no limit."""
        limits = [limit for limit in (self._tokens, self._planned) if limit is not None]
        return min(limits, default=None)

    def plan(self, tokens: int | None) -> None:
        """From now on a pass of several samples has at most so many tokens, with padding; None: no limit.

        A lower limit that memory has shown stays.
        """
        self._planned = tokens

    def run(
        self, lengths: Sequence[int], run_pass: Callable[[list[int]], T], name: Callable[[int], str]
    ) -> list[tuple[list[int], T]]:
        """Run all samples.

        Args:
            lengths: Tokens of each sample.
            run_pass: Runs the samples at these positions. It keeps nothing of a pass that it raises in.
            name: Names the sample at a position for a message, as a sentence begins.

        Returns:
            The positions of each pass and what it returned, in the order in which they ran.

        Raises:
            TrainingError: One sample alone does not fit into memory.
        """
        done: list[tuple[list[int], T]] = []
        waiting = self._parts(lengths, range(len(lengths)))
        too_large: list[int] = []
        while waiting:
            part = waiting[0]
            try:
                found = [run_pass(part)]
            except (RuntimeError, MemoryError, OSError) as error:
                # Smaller passes would not help where a GPU's machine is the one that has no memory left.
                if exhausted_memory(error) is not self._memory:
                    raise
                if len(part) == 1:
                    raise self._failure(lengths[part[0]], name(part[0])) from error
                found = []
            if found:
                done.append((part, found[0]))
                waiting = waiting[1:]
                if too_large:
                    self._tell(self._notice(lengths, too_large, part))
                    too_large = []
                continue
            # Not sooner: the error holds the frames of the pass, and these its tensors.
            _free(self._device)
            too_large = too_large or part
            self._tokens = _padded(lengths, part) // 2
            waiting = self._parts(lengths, [position for other in waiting for position in other])
        return done

    def _parts(self, lengths: Sequence[int], positions: Sequence[int]) -> list[list[int]]:
        own = [lengths[position] for position in positions]
        parts = micro_batches(own, self._samples, self._device, tokens=self.tokens)
        return [[positions[number] for number in part] for part in parts]

    def _notice(self, lengths: Sequence[int], before: Sequence[int], after: Sequence[int]) -> NoticeEvent:
        longest = max(lengths[position] for position in before)
        samples = "1 sample" if len(after) == 1 else f"{len(after)} samples"
        return NoticeEvent(
            level="warning",
            code="passes_halved",
            message=f"{OWNERS[self._memory]} ran out in {self._what} of {len(before)} samples of up to {longest} "
            f"tokens. From now on such a pass has at most {self._tokens} tokens with padding, or one sample; this one "
            f"was repeated with {samples}. The result is the same, and takes longer.",
        )

    def _failure(self, tokens: int, name: str) -> TrainingError:
        worker = "a GPU with more memory" if self._memory is Memory.DEVICE else "more memory"
        return TrainingError(
            ErrorCode.OUT_OF_MEMORY,
            f"{OWNERS[self._memory]} ran out in {self._what} of one sample. {name} has {tokens} tokens.",
            f"Set training.max_length below {tokens}, for instance to {tokens // 2}, which halves the memory for "
            "activations; longer samples lose their end, which the summary counts. Or set "
            f"training.gradient_checkpointing to true, where it is not. Or give the worker {worker}.",
        )


def _padded(lengths: Sequence[int], part: Sequence[int]) -> int:
    return len(part) * max(lengths[position] for position in part)


def _free(device: torch.device) -> None:
    """Give back what nothing refers to any more, and what the allocator keeps in pieces of the wrong size."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
