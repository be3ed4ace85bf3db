"""Sentences about how far a result can be trusted, and how it compares with simpler methods."""

from service.contract import results
from service.text.wording import counted, decimal, percent, whole

SHOWN_TAIL = 0.01
"""The p-value whose tail count a page mentions: where samples are still many."""
SHOWN_TRACERS = 5
"""The number of hidden tracers whose share found a page mentions, where an audit tried several."""
WEAKER = 0.75
"""The strength of the weaker tracers that a page mentions beside full ones."""

FINDS_THEM_TOO = 0.9
"""A page mentions a simpler method that has at least this share of the flagged samples in its own top."""

BASELINES = {
    "bm25": ("Words shared with the unwanted answers (BM25)", "comparing words with the unwanted answers"),
    "repeated_output": ("Repeated outputs", "counting repeated outputs"),
    "ngram_count": ("Repeated phrases", "counting repeated phrases"),
    "length": ("Length", "sorting by length"),
    "loss": ("Training loss", "sorting by training loss"),
    "gradient_norm": ("Gradient norm", "sorting by gradient norm"),
    "representation_similarity": ("Similarity of representations", "comparing representations"),
    "tracin": ("TracIn", "TracIn"),
}
"""For each simpler method its label in a table, and what somebody does who uses it."""


SHOWN = {
    "calibration": "Quantiles of the samples and of the placebo directions against those of the null. On the broken "
    "line they agree.",
    "sensitivity": "Share of hidden tracers found with its 95 % interval, by how strong they were.",
    "drift": "Change of the probe loss between its measurements, predicted and realised.",
}
"""Text alternatives of the small pictures."""


def shown_tail(calibration: results.Calibration) -> results.TailCount | None:
    """Return the tail count that a page mentions, the one nearest to p = 0.01; None if there is none."""
    return min(calibration.tails, key=lambda tail: abs(tail.p - SHOWN_TAIL), default=None)


def bulk_words(calibration: results.Calibration) -> str:
    """Return a sentence on how many samples lie in the null's tail."""
    tail = shown_tail(calibration)
    if tail is None:
        return "How many samples have a small p was not counted."
    return (
        f"{whole(tail.observed)} of {counted(calibration.samples, 'sample')} have p ≤ {tail.p:g}; chance alone would "
        f"give {whole(tail.low)} to {whole(tail.high)}. The surplus is what the audit looks for."
    )


def placebo_words(placebo: results.Placebo | None) -> str:
    """Return sentences on what the audit finds in directions that mean nothing."""
    if placebo is None:
        return "Not checked against placebo directions: the probe has too few items to make them."
    tail = shown_tail(placebo.calibration)
    flagged = f"A placebo direction flags {decimal(placebo.flagged_per_direction)} samples on average."
    if tail is None:
        return flagged
    fits = "as it should be" if tail.low <= tail.observed <= tail.high else "which does not fit: read p and q with care"
    return (
        f"With {counted(placebo.directions, 'placebo direction')} (which mean nothing), {whole(tail.observed)} of "
        f"{whole(placebo.calibration.samples)} results had p ≤ {tail.p:g}, where {whole(tail.low)} to "
        f"{whole(tail.high)} are expected: {fits}. {flagged}"
    )


def sensitivity_words(sensitivity: results.Sensitivity | None) -> str:
    """Return a sentence on how many hidden tracers the audit would have found."""
    if sensitivity is None or not sensitivity.points:
        return (
            "What this audit could have found is not known: the probe's items share their sentences, so that none can "
            "be held out and hidden among the samples."
        )
    whole_ones = [point for point in sensitivity.points if point.strength == 1]
    point = min(whole_ones, key=lambda one: abs(one.inserted - SHOWN_TRACERS))
    answers = "an answer" if point.inserted == 1 else "answers"
    found = (
        f"Of {counted(point.inserted, 'tracer')} ({answers} of the probe hidden among the samples) the audit would "
        f"have found {percent(point.flagged)} ({interval(point.low, point.high)})"
    )
    weaker = [one for one in sensitivity.points if one.strength == WEAKER]
    if not weaker:
        return f"{found}."
    return f"{found}, and {percent(weaker[0].flagged)} of tracers at {percent(WEAKER)} of their strength."


def kind_words(probe: results.ProbeSummary) -> str | None:
    """Return sentences on how many samples of each kind there are and how many of them are flagged; None if unknown."""
    kinds = probe.kinds
    if kinds is None:
        return None
    missed = kinds.unwanted - kinds.flagged_unwanted
    fair = "" if kinds.fair is None else f", and {about(kinds.fair)} fair answers on its topic"
    there = f"About {about(kinds.unwanted)} samples are of the unwanted kind{fair}."
    if not probe.flagged:
        return there
    rest = max(probe.flagged - kinds.flagged_unwanted - (kinds.flagged_fair or 0), 0)
    fair = "" if kinds.flagged_fair is None else f", {about(kinds.flagged_fair)} are fair"
    return (
        f"{there} Of the {whole(probe.flagged)} flagged samples about {about(kinds.flagged_unwanted)} are of the "
        f"unwanted kind{fair} and {about(rest)} are neither; about {about(missed)} of the unwanted kind are not "
        "flagged."
    )


def about(expected: float) -> str:
    """Return an expected number: whole from ten on, with one decimal below."""
    return whole(round(expected)) if expected >= 9.95 else f"{expected:.1f}".removesuffix(".0")


def interval(low: float, high: float) -> str:
    """Return two shares as a range of percents, such as 62 to 93 %.

    Args:
        low: The lower share, in [0, 1].
        high: The upper share, in [0, 1].
    """
    return f"{low * 100:.0f} to {high * 100:.0f} %"


def drift_words(drift: results.Drift) -> str:
    """Return a sentence on whether the recorded effects add up to the change of the probe loss."""
    if drift.slope is None or drift.correlation is None:
        return "The probe loss was measured too seldom to compare its change with what the recorded effects predict."
    return (
        f"Over {counted(len(drift.step), 'interval')} between its measurements the probe loss moved "
        f"{decimal(drift.slope)} times as far as the recorded effects predict; the two correlate at "
        f"{decimal(drift.correlation)}."
    )


def probe_words(probe: results.ProbeSummary, summary: results.Summary) -> str:
    """Return a sentence on the flags of one of several probes.

    Args:
        probe: The probe's part of the summary.
        summary: The summary of the audit.
    """
    samples = counted(summary.rows_scored, "sample")
    if probe.flagged == 0:
        return f"On its own this probe flags none of {samples}."
    return f"On its own this probe flags {whole(probe.flagged)} of {samples}, from Z = {decimal(probe.threshold_z)} on."


def consistency_words(consistency: results.Consistency) -> str:
    """Return sentences on how far the seeds agree."""
    words = (
        f"The rankings of {consistency.seeds} runs with different seeds have a mean rank correlation of "
        f"{decimal(consistency.spearman_z)} (TracIn: {decimal(consistency.spearman_tracin)})."
    )
    if consistency.jaccard_flagged is None:
        return f"{words} No seed flags any sample on its own."
    words += f" On average two seeds share {percent(consistency.jaccard_flagged)} of the samples that either flags"
    if consistency.jaccard_tracin is None:
        return f"{words}."
    return f"{words} (TracIn: {percent(consistency.jaccard_tracin)})."


def no_split_words(split: results.TokenSplit | None, *, kept: bool) -> str:
    """Return a sentence on why a page does not show which words carry the influence of a sample.

    Args:
        split: The summary's account of the split; None for audits from before there was one.
        kept: Whether the sample is one whose details are kept, so that it could have been split.
    """
    if not kept:
        return "Which words carry the influence is only worked out for the samples that rank first."
    if split is None:
        return (
            "This audit is from before Finetooth worked out which words carry the influence. Run it again to see them."
        )
    if split.obstacle is results.SplitObstacle.OUT_OF_MEMORY:
        return (
            "Which words carry the influence is not known: the memory did not suffice to work it out, "
            "not even one sample at a time. Run the audit again with a lower training.max_length, or with more memory."
        )
    if split.obstacle is results.SplitObstacle.NO_FORWARD_MODE:
        return (
            "Which words carry the influence is not known: this model has an operation that cannot be differentiated "
            "forward."
        )
    return (
        f"Which words carry the influence was worked out for the {counted(split.samples, 'sample')} that each training "
        "run itself ranked first. This sample is not among them."
    )


def signed_percent(share: float) -> str:
    """Return a share as a percentage with its sign, such as +12.3 %, with a true minus sign."""
    sign = "−" if round(share, 3) < 0 else "+" if round(share, 3) > 0 else ""
    return f"{sign}{abs(share) * 100:.1f} %"


def baseline_words(comparison: results.BaselineComparison) -> str:
    """Return a remark on a simpler method that finds the flagged samples too; empty if it does not."""
    if comparison.top_overlap is None or comparison.top_overlap < FINDS_THEM_TOO:
        return ""
    _, doing = BASELINES.get(comparison.name, ("", comparison.name))
    return f"{doing} finds these too"


def baseline_label(name: str) -> str:
    """Return the label of a simpler method in a table."""
    return BASELINES[name][0] if name in BASELINES else name


def gaussianity_words(gaussianity: results.Gaussianity) -> str:
    """Return a sentence on how close the trade-off curve is to the Gaussian one of mu."""
    if gaussianity.gamma >= 0.5:
        bound = "the bound on its distance from a Gaussian curve says nothing (gamma at or above 0.5)"
    else:
        bound = f"it is within gamma = {gaussianity.gamma:.2g} of a Gaussian curve"
    exact = (
        "" if gaussianity.exact_gap is None else f"; composed exactly, the largest gap is {gaussianity.exact_gap:.2g}"
    )
    return (
        f"For the sample with the largest mu the steps compose to a trade-off curve of mu "
        f"{decimal(gaussianity.mu_clt)}: {bound}{exact}."
    )


def group_words(name: str, group: results.GroupSummary) -> str:
    """Return a text alternative of a group's trade-off curve.

    Args:
        name: The name of the group.
        group: The group's part of the summary.
    """
    curve = group.curve
    if curve is None:
        return f"Group {name}: {counted(group.rows, 'sample')}, too few for a curve."
    shown = f"Trade-off curve of group {name}, {counted(group.rows, 'sample')}"
    if curve.mu_fit is not None:
        shown += f"; the Gaussian curve fitted to it has mu {decimal(curve.mu_fit)}"
    if curve.mu_lower_bound is not None:
        shown += f", at least {decimal(curve.mu_lower_bound)} at 95 %"
    return f"{shown}."
