"""The last part of a training step: which tokens make up the alignment of the samples that rank first."""

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from service.contract.protocol import Stage
from service.contract.results import SplitObstacle
from service.contract.spec import TrainingConfig
from worker.child.conversations import Conversations
from worker.child.events import Reporter
from worker.influence.capture.recorder import Recorder
from worker.influence.directions import Kind
from worker.results.first_ranking import chosen, first_ranking
from worker.results.recording import Recording
from worker.results.token_split import TokenSplit
from worker.training.encoded_samples import EncodedSamples
from worker.training.fault_kinds import causes, exhausted_memory
from worker.training.passes import Passes
from worker.training.token_places import Place, token_places
from worker.training.token_values import AT_ONCE, WHAT, Floats, NotDifferentiableError, token_values
from worker.training.tokenization import TokenizedSample


def split_tokens(
    model: Any,
    tokenizer: Any,
    recorder: Recorder,
    recording: Recording,
    samples: EncodedSamples,
    conversations: Conversations,
    config: TrainingConfig,
    reporter: Reporter,
    *,
    pad: int,
    device: torch.device,
) -> tuple[TokenSplit | None, SplitObstacle | None]:
    """Split the alignment of the samples that rank first by each probe over their tokens.

    A run that has come so far is not lost by it: where the model or the memory does not allow it, it is left out.

    Args:
        model: As the run has left it.
        tokenizer: The model's.
        recorder: With the directions of the run's last refresh.
        recording: What the run has recorded.
        samples: All rows as tokens.
        conversations: Of all rows.
        config: Says how long samples are, and how many fit into memory at once.
        reporter: Is told how far this is.
        pad: Id that pads.
        device: Of the model.

    Returns:
        The split, or why there is none.
    """
    reporter.stage(Stage.ATTRIBUTING)
    rows_of_probe = chosen(
        first_ranking(recording, len(samples), partial(list, conversations)),
        samples.lengths().tolist(),
        recording.facts.tokens,
    )
    total = sum(map(len, rows_of_probe))
    most = min(config.micro_batch_size or AT_ONCE, AT_ONCE)
    passes = Passes(WHAT, samples=most, device=device, tell=reporter.event)
    parts: list[tuple[int, int, list[Place | None], Floats]] = []
    for probe, rows in enumerate(rows_of_probe):
        column = recording.column(probe, Kind.UNWANTED)
        assert column is not None
        # Copies have one split.
        different = list(dict.fromkeys(samples[row] for row in rows.tolist()))
        try:
            values = token_values(
                model,
                recorder.unit_direction(column),
                different,
                pad=pad,
                device=device,
                passes=passes,
                on_sample=partial(_tell, reporter, len(parts), total),
            )
        except NotDifferentiableError:
            return None, SplitObstacle.NO_FORWARD_MODE
        except Exception as error:  # Whatever a model's operations raise: the run is whole without it.
            # The type alone: a message could quote the sample.
            print(type(error).__name__, file=sys.stderr)  # noqa: T201
            memory = any(exhausted_memory(cause) for cause in causes(error))
            return None, SplitObstacle.OUT_OF_MEMORY if memory else SplitObstacle.NO_FORWARD_MODE
        of_sample: Mapping[TokenizedSample, Floats] = dict(zip(different, values, strict=True))
        for row in rows.tolist():
            places = token_places(conversations[row], tokenizer, max_length=config.max_length, turns=config.audit_turns)
            parts.append((row, probe, places, of_sample[samples[row]]))
    reporter.progress(total, total, "samples")
    return TokenSplit.made(parts), None


def _tell(reporter: Reporter, before: int, total: int, done: int) -> None:
    reporter.progress(before + done, total, "samples")
