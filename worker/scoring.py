"""From what a run recorded to the answer of an audit: one ScoreRow a sample, and the Summary's statistics."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.contract import WARN_DATASET_ROWS, Caution, GroupSummary, Histogram, NullFit, ScoreRow
from worker.influence.detection import Detection, detect, statistic
from worker.influence.effect import effect, group_effect
from worker.influence.observations import Observations, Steps

MOMENTUM = 0.9
HISTOGRAM_BINS = 60
MANY_FLAGGED = 0.2
"""Share of flagged samples above which the bulk can hardly be called clean."""


@dataclass(frozen=True)
class Scores:
    """What scoring adds to a run."""

    rows: list[ScoreRow]
    """By rank."""
    null: NullFit
    histogram: Histogram
    threshold_z: float | None
    groups: dict[str, GroupSummary]
    cautions: tuple[Caution, ...]


def score(observations: Observations, steps: Steps, *, rows: int, q: float, groups: Sequence[str | None]) -> Scores:
    """Scores every sample of a dataset of `rows` samples; groups names each one's group, None for none.

    Direction 0 is the unwanted answers, direction 1, where recorded, the reference answers.
    """
    z, n = statistic(observations, steps, rows=rows)
    detection = detect(z, n, q=q)
    reference = np.full(rows, np.nan)
    if observations.effect.shape[1] > 1:
        reference, _ = statistic(observations, steps, rows=rows, direction=1)
    influence = effect(observations, steps, rows=rows, momentum=MOMENTUM)

    order = np.lexsort((np.arange(rows), np.where(np.isfinite(z), -z, np.inf)))
    ranked = [
        ScoreRow(
            row=int(row),
            rank=rank,
            n=int(n[row]),
            mu=float(influence.mu[row]),
            mu_low=_number(influence.low[row]),
            mu_high=_number(influence.high[row]),
            z=_number(z[row]),
            z_reference=_number(reference[row]),
            p=_number(detection.p[row]),
            q=_number(detection.q[row]),
            flagged=bool(detection.flagged[row]),
            group=groups[row],
        )
        for rank, row in enumerate(order, start=1)
    ]
    return Scores(
        rows=ranked,
        null=NullFit(
            location=detection.null.location,
            scale=detection.null.scale,
            degrees_of_freedom=detection.null.degrees_of_freedom,
        ),
        histogram=_histogram(z[np.isfinite(z)]),
        threshold_z=float(z[detection.flagged].min()) if detection.flagged.any() else None,
        groups=_groups(groups, influence.mu, detection),
        cautions=tuple(_cautions(rows, detection)),
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _histogram(z: NDArray[np.float64]) -> Histogram:
    counts, edges = np.histogram(z, bins=HISTOGRAM_BINS)
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def _groups(names: Sequence[str | None], mu: NDArray[np.float64], detection: Detection) -> dict[str, GroupSummary]:
    labels = np.array([name if name is not None else "" for name in names], dtype=object)
    declared = np.array([name is not None for name in names])
    result = {}
    for name in sorted({name for name in names if name is not None}):
        members = declared & (labels == name)
        result[name] = GroupSummary(
            rows=int(members.sum()),
            flagged=int(detection.flagged[members].sum()),
            mu=_number(group_effect(mu, members)),
        )
    return result


def _cautions(rows: int, detection: Detection) -> list[Caution]:
    cautions = []
    flagged, observed = int(detection.flagged.sum()), int(np.isfinite(detection.z).sum())
    if rows < WARN_DATASET_ROWS:
        cautions.append(
            Caution(
                code="few_samples",
                message=f"The null was fitted to {observed} samples; below {WARN_DATASET_ROWS} its tail is uncertain "
                "and the error rate may be off.",
            )
        )
    if flagged > MANY_FLAGGED * observed:
        cautions.append(
            Caution(
                code="many_flagged",
                message=f"{flagged} of {observed} samples are flagged. The null is fitted to the bulk of the data, "
                "which must be clean for the error rate to hold.",
            )
        )
    if observed < rows:
        cautions.append(
            Caution(
                code="unscored_samples",
                message=f"{rows - observed} samples have no answer within the first tokens that training keeps and "
                "were neither trained on nor scored.",
            )
        )
    return cautions
