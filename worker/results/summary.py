"""Builds the Summary of an audit from its recordings and scores. Reads and writes no file."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from service.contract.results import (
    BaselineComparison,
    Calibration,
    Consistency,
    Drift,
    Gaussianity,
    GroupCurve,
    GroupSummary,
    Histogram,
    KindCounts,
    NullFit,
    Placebo,
    ProbeSummary,
    Sensitivity,
    SensitivityPoint,
    Summary,
    TokenSplit,
    ViewWeights,
)
from service.contract.spec import StepSpec
from worker.influence.directions import Kind
from worker.influence.statistics import calibration, groups, sensitivity
from worker.influence.statistics.detection import detect
from worker.influence.statistics.drift import predicted_drift
from worker.influence.statistics.mu import group_mu_with_interval
from worker.influence.statistics.seeds import consistency
from worker.influence.tradeoff.gaussianity import gaussianity, step_influence
from worker.results import baseline_comparison
from worker.results.baselines import tracin_of_seed
from worker.results.recording import Recording
from worker.results.scoring import ProbeScores, Question, Scores
from worker.results.warnings import cautions

Floats = NDArray[np.float64]

HISTOGRAM_BINS = 60
"""Bins of the histogram of Z."""
MAX_GROUPS = 100
"""Only the largest groups are described, up to this number: a column of ids would make a group of every row."""


def summarise(
    spec: StepSpec,
    recordings: Sequence[Recording],
    views: Sequence[ViewWeights],
    question: Question,
    scores: Scores,
    baselines: Mapping[str, Floats],
    group_of: Sequence[str | None],
) -> Summary:
    """Return the audit's Summary.

    Args:
        spec: The specification of the step, with the probes.
        recordings: One per seed, their alignment being that of all views.
        views: The weights of each probe's views.
        question: What was asked of the recordings.
        scores: The result of `score`.
        baselines: [rows] by name; NaN where a baseline has no value.
        group_of: [rows], each sample's group; None for samples without one.
    """
    first = recordings[0]
    named = _by_size(group_of)
    described = named[:MAX_GROUPS]
    z = scores.probes[0].detection.z if len(scores.probes) == 1 else -scores.headline.p
    compared = baseline_comparison.compare(z, scores.flagged, baselines)
    return Summary(
        rows=question.rows,
        rows_scored=int((scores.probes[0].detection.n > 0).sum()),
        rows_truncated=first.facts.rows_truncated,
        clusters=len(np.unique(question.cluster)),
        flagged=int(scores.flagged.sum()),
        q=question.q,
        probes=tuple(
            _probe(spec, first, question, own, number, weights)
            for number, (own, weights) in enumerate(zip(scores.probes, views, strict=True))
        ),
        seeds=spec.seeds,
        consistency=_consistency(recordings, scores.probes[0], question),
        gaussianity=_gaussianity(first, scores.probes[0]),
        baselines=tuple(BaselineComparison.model_validate(one, from_attributes=True) for one in compared),
        groups=_groups(first, scores, group_of, described),
        steps=first.facts.steps,
        tokens=first.facts.tokens,
        refreshes=first.facts.refreshes,
        train_loss_first=first.facts.train_loss_first,
        train_loss_last=first.facts.train_loss_last,
        warnings=tuple(
            cautions(
                spec, question, scores, compared, first.facts.encoding, groups=len(named), described=len(described)
            )
        ),
        token_split=_token_split(recordings),
        seconds=_seconds(recordings),
        device=first.facts.device,
        versions=first.facts.versions,
    )


def _token_split(recordings: Sequence[Recording]) -> TokenSplit | None:
    """Return what is known of the split over tokens; None if no run has one, as those of older versions do not."""
    splits = [recording.split for recording in recordings if recording.split is not None]
    obstacles = [recording.facts.split_obstacle for recording in recordings if recording.facts.split_obstacle]
    if not splits and not obstacles:
        return None
    return TokenSplit(
        samples=len({row for split in splits for row in split.row.tolist()}),
        obstacle=obstacles[0] if obstacles else None,
    )


def _probe(
    spec: StepSpec, run: Recording, question: Question, scores: ProbeScores, number: int, views: ViewWeights
) -> ProbeSummary:
    found, probe = scores.detection, spec.probes[number]
    target = _target(run, number)
    losses = run.probe_loss[:, target]
    return ProbeSummary(
        name=probe.name,
        items=len(probe.items),
        has_reference=scores.reference_column is not None,
        views=views,
        flagged=int(scores.flagged.sum()),
        threshold_z=float(found.z[scores.flagged].min()) if scores.flagged.any() else None,
        null=NullFit(
            family="conformal" if found.reference == "conformal" else "student_t",
            location=found.null.location,
            scale=found.null.scale,
            degrees_of_freedom=found.null.degrees_of_freedom,
        ),
        histogram=_histogram(found.z[np.isfinite(found.z)]),
        calibration=_calibration(calibration.calibrate(found.z, found.null)),
        placebo=_placebo(scores, question),
        kinds=_kind_counts(scores),
        sensitivity=_sensitivity(question, scores),
        loss_first=float(losses[0]),
        loss_last=float(losses[-1]),
        drift=_drift(run, scores, target),
    )


def _target(run: Recording, probe: int) -> int:
    column = run.column(probe, Kind.UNWANTED)
    assert column is not None
    return column


def _calibration(found: calibration.Calibration) -> Calibration:
    return Calibration.model_validate(found, from_attributes=True)


def _placebo(scores: ProbeScores, question: Question) -> Placebo | None:
    if not len(scores.placebo):
        return None
    found = scores.detection
    freedom = found.null.degrees_of_freedom
    # What the audit would have flagged with the placebo as its probe. Samples on the topic stand out there as well.
    flagged = []
    for z in scores.placebo:
        clean = np.where(scores.ordinary, z, np.nan)
        flagged.append(int(detect(clean, found.n, q=question.q, degrees_of_freedom=freedom).flagged.sum()))
    return Placebo(
        directions=len(scores.placebo),
        flagged_per_direction=float(np.mean(flagged)),
        calibration=_calibration(calibration.calibrate_placebos(scores.placebo, freedom, usable=scores.ordinary)),
    )


def _sensitivity(question: Question, scores: ProbeScores) -> Sensitivity | None:
    kinds = scores.kinds
    found = sensitivity.sensitivity(
        kinds.x,
        kinds.items,
        kinds.folds,
        kinds.mixture,
        q=question.q,
        rng=np.random.default_rng(0),
    )
    if not found.points:
        return None
    mu, probability = sensitivity.flag_curve(scores.mu, scores.flagged)
    return Sensitivity(
        tracers=found.tracers,
        clusters=found.clusters,
        points=tuple(SensitivityPoint.model_validate(point, from_attributes=True) for point in found.points),
        effect_mu=tuple(mu.tolist()),
        flagged_given_mu=tuple(probability.tolist()),
    )


def _kind_counts(scores: ProbeScores) -> KindCounts:
    kinds, flagged = scores.kinds.of_rows, scores.flagged
    counts = KindCounts(
        unwanted=float(np.nansum(kinds.unwanted)),
        fair=float(np.nansum(kinds.fair)),
        flagged_unwanted=float(np.nansum(kinds.unwanted[flagged])),
        flagged_fair=float(np.nansum(kinds.fair[flagged])),
    )
    without = {"fair": None, "flagged_fair": None}
    return counts if scores.reference_column is not None else counts.model_copy(update=without)


def _drift(run: Recording, scores: ProbeScores, target: int) -> Drift:
    found = predicted_drift(
        run.observations,
        run.steps,
        run.measured_at,
        run.probe_loss[:, target],
        momentum=run.facts.adam_momentum,
        direction=scores.column,
    )
    known = np.isfinite(found.predicted)
    return Drift(
        step=tuple(found.step[known].tolist()),
        predicted=tuple(found.predicted[known].tolist()),
        realised=tuple(found.realised[known].tolist()),
        slope=_number(found.slope),
        correlation=_number(found.correlation),
    )


def _consistency(recordings: Sequence[Recording], scores: ProbeScores, question: Question) -> Consistency | None:
    if len(recordings) == 1:
        return None
    tracin = np.array([tracin_of_seed(recording, question.rows, 0) for recording in recordings])
    found = consistency(scores.z_by_seed, scores.flagged_by_seed, tracin)
    return Consistency(
        seeds=len(recordings),
        spearman_z=found.spearman,
        jaccard_flagged=_number(found.jaccard),
        spearman_tracin=found.other_spearman,
        jaccard_tracin=_number(found.other_jaccard),
    )


def _gaussianity(run: Recording, scores: ProbeScores) -> Gaussianity | None:
    moved = run.steps.learning_rate > 0
    mus = step_influence(run.observations, run.steps, int(np.argmax(scores.mu)), direction=scores.column)[moved]
    if not mus.any():
        return None
    found = gaussianity(mus, run.steps.batch_size[moved] / int((scores.detection.n > 0).sum()))
    return Gaussianity(mu_clt=found.limit.mu, gamma=found.limit.gamma, exact_gap=found.gap)


def _groups(
    run: Recording, scores: Scores, names: Sequence[str | None], described: Sequence[str]
) -> dict[str, GroupSummary]:
    """Summarise the described groups toward the first probe.

    mu and its interval are of the first seed's run, flags and curve of all seeds.
    """
    probe = scores.probes[0]
    labels = np.array([name if name is not None else "" for name in names], dtype=object)
    declared = np.array([name is not None for name in names])
    result = {}
    for name in sorted(described):
        members = declared & (labels == name)
        total = group_mu_with_interval(
            run.observations, run.steps, members, momentum=run.facts.adam_momentum, direction=probe.column
        )
        result[name] = GroupSummary(
            rows=int(members.sum()),
            flagged=int(scores.flagged[members].sum()),
            mu=_number(total.mu),
            mu_low=_number(total.low),
            mu_high=_number(total.high),
            curve=_curve(probe.detection.z, members),
        )
    return result


def _by_size(names: Sequence[str | None]) -> list[str]:
    """Return the names of the groups, largest first; equal sizes in the order of code points."""
    counts = Counter(name for name in names if name is not None)
    return sorted(counts, key=lambda name: (-counts[name], name))


def _curve(z: Floats, members: NDArray[np.bool_]) -> GroupCurve | None:
    """Return the trade-off curve of a group; None if too few of its rows, or of the others, were observed."""
    try:
        found = groups.group_curve(z, members)
        paper = groups.group_curve(z, members, estimator="threshold_max")
    except ValueError:
        return None
    return GroupCurve(
        alpha=tuple(found.alpha.tolist()),
        beta=tuple(found.beta.tolist()),
        mu_fit=_number(found.mu_fit),
        mu_mean_difference=_number(found.mu),
        mu_lower_bound=_number(found.lower_bound),
        mu_threshold_max=_number(paper.mu),
        asymmetry=_number(found.asymmetry),
    )


def _histogram(z: Floats) -> Histogram:
    counts, edges = np.histogram(z, bins=HISTOGRAM_BINS)
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def _seconds(recordings: Sequence[Recording]) -> dict[str, float]:
    total: dict[str, float] = {}
    for recording in recordings:
        for stage, seconds in recording.facts.seconds.items():
            total[stage] = total.get(stage, 0.0) + seconds
    return total


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
