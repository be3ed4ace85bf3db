"""The warnings of an audit's summary: what a user should know before relying on it."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from service.contract.notices import UNDESIRED_ANSWERS, UNTRAINED_COLUMNS, ZERO_WEIGHTS
from service.contract.results import Caution
from service.contract.spec import WARN_DATASET_ROWS, StepSpec
from worker.influence.statistics.calibration import misfits
from worker.results.baseline_comparison import BaselineComparison, suffices
from worker.results.scoring import Question, Scores
from worker.training.encoding import FIRST_ROWS, EncodingFacts, NotedRows

MANY_FLAGGED = 0.2
"""Above this share of flagged samples the bulk can hardly be called clean."""

_NOTICED = {
    UNTRAINED_COLUMNS: "have columns with system prompts, earlier turns or tools. They were neither trained on nor "
    "looked at: put them into the turns if your training reads them.",
    ZERO_WEIGHTS: "have answers that are marked as not to be learnt. They were trained on like all others: leave them "
    "out if your training does.",
    UNDESIRED_ANSWERS: "have a label that calls their answer a bad one. It was trained on as a good one: leave them "
    "out if your training does not learn from them.",
}
"""What the notices of a dataset mean for its audit."""


def cautions(
    spec: StepSpec,
    question: Question,
    scores: Scores,
    compared: Sequence[BaselineComparison],
    encoding: EncodingFacts,
    *,
    groups: int,
    described: int,
) -> Iterator[Caution]:
    """Yield the warnings of an audit's summary, in a fixed order.

    Args:
        spec: The specification of the step, with the probes.
        question: What was asked of the recordings.
        scores: The result of `score`.
        compared: The baselines compared with the result.
        encoding: What the first seed's run noted about samples while encoding them.
        groups: Number of groups of the samples.
        described: Number of groups that the summary describes.
    """
    flagged, observed = int(scores.flagged.sum()), int((scores.probes[0].detection.n > 0).sum())
    if question.rows < WARN_DATASET_ROWS:
        yield Caution(
            code="few_samples",
            message=f"Only {observed} samples were measured. Below {WARN_DATASET_ROWS} there are too few of them to "
            "learn what is ordinary, and the error rate may be off: audit more at once if you have them.",
        )
    if flagged > MANY_FLAGGED * observed:
        yield Caution(
            code="many_flagged",
            message=f"{flagged} of {observed} samples are flagged. The error rate holds only where most of the data is "
            "clean: read some of them, and if they are harmless, audit again with a probe that is more specific.",
        )
    yield from _encoding_cautions(spec, encoding)
    unscored = question.rows - observed - encoding.left_out.count
    if unscored > 0:
        turn = "answer" if spec.training.audit_turns == "assistant" else "turn"
        yield Caution(
            code="unscored_samples",
            message=f"{'1 sample has' if unscored == 1 else f'{unscored} samples have'} no {turn} within the limit of "
            f"{spec.training.max_length} tokens, so nothing of {'it' if unscored == 1 else 'them'} was trained on or "
            "scored. Raise training.max_length to audit more of the text.",
        )
    yield from _doubted(scores)
    yield from _divided(question, scores)
    for code, rows in spec.noticed.items():
        yield Caution(code=code, message=f"{rows} samples {_NOTICED[code]}")
    for probe, own in zip(spec.probes, scores.probes, strict=True):
        prefix = f"Probe {probe.name!r}: " if len(spec.probes) > 1 else ""
        placebo = own.placebo if len(own.placebo) else None
        for code, message in misfits(own.detection.z, own.detection.null, placebo=placebo, usable=own.ordinary):
            yield Caution(code=code, message=prefix + message)
    if groups > described:
        yield Caution(
            code="many_groups",
            message=f"There are {groups} groups; the summary describes the {described} largest. Each "
            "finding names its own all the same. Choose a group_column with fewer values to have all described.",
        )
    for name in suffices(compared):
        yield Caution(
            code="baseline_suffices",
            message=f"A simpler method, {name}, ranks nearly the same samples first. In this dataset it would have "
            "found them too, but it gives no error rates.",
        )


def _doubted(scores: Scores) -> Iterator[Caution]:
    rows = np.flatnonzero(np.any([probe.kinds.doubted for probe in scores.probes], axis=0))
    if len(rows):
        yield Caution(
            code="trusted_samples_doubted",
            message=f"{_rows(rows)} marked as known to be clean, but would be flagged otherwise. Samples marked so are "
            "never flagged: read these, and audit again without the mark on those that are not clean.",
        )


def _divided(question: Question, scores: Scores) -> Iterator[Caution]:
    tested = np.isfinite(scores.q)
    both = np.intersect1d(question.cluster[scores.flagged], question.cluster[tested & ~scores.flagged])
    rows = np.flatnonzero(scores.flagged & np.isin(question.cluster, both))
    if len(rows):
        yield Caution(
            code="near_duplicates_divided",
            message=f"{_rows(rows)} flagged, but not all of their near-duplicates. A small change can reverse what "
            "an answer says, and clean near-copies can be put beside a sample to hide it: compare them before "
            "you decide.",
        )


def _rows(rows: NDArray[np.int64]) -> str:
    """Return the subject and verb of a sentence, such as "3 samples (rows 4, 9, 12) are"."""
    noted = NotedRows(count=len(rows), first=tuple(map(int, rows[:FIRST_ROWS])))
    return f"{_samples(noted)} {'is' if len(rows) == 1 else 'are'}"


def _encoding_cautions(spec: StepSpec, encoding: EncodingFacts) -> Iterator[Caution]:
    if encoding.left_out.count:
        yield Caution(
            code="samples_left_out",
            message="Neither trained on nor scored, since they cannot be encoded for this model: "
            f"{_samples(encoding.left_out)}. The reason for the first: {encoding.reason}. To have them audited, change "
            "these rows, or use a model whose chat template takes them.",
        )
    if encoding.control_tokens.count:
        yield Caution(
            code="control_tokens",
            message=f"Control tokens of this model occur in the text of {_samples(encoding.control_tokens)}. The "
            "audit read them as text. Another trainer may read them as turns, with answers that this audit did not "
            "measure: read these rows before you train on them.",
        )
    if encoding.answers_cut.count:
        tokens = encoding.answer_tokens_cut
        answer = "answer " if spec.training.audit_turns == "assistant" else ""
        yield Caution(
            code="answers_cut",
            message=f"{tokens} {answer}{'token' if tokens == 1 else 'tokens'} of {_samples(encoding.answers_cut)} "
            f"{'lies' if tokens == 1 else 'lie'} beyond the limit of {spec.training.max_length} tokens a sample. What "
            "lies there was neither trained on nor measured, but exports contain it. Raise training.max_length to "
            "audit it.",
        )


def _samples(noted: NotedRows) -> str:
    """Return a count of samples with their rows, such as "3 samples (rows 4, 17, 30)"; of many, only the first rows."""
    rows = ", ".join(map(str, noted.first))
    if noted.count == 1:
        return f"1 sample (row {rows})"
    return f"{noted.count} samples ({'rows' if noted.count == len(noted.first) else 'the first are rows'} {rows})"
