"""The numbers of an audit as sentences and short labels."""

import math
from datetime import UTC, datetime

from service.contract import results
from service.contract.protocol import Stage
from service.contract.spec import COMBINE, TrainingConfig

STAGES: dict[Stage, str] = {
    Stage.PREPARING: "Preparing",
    Stage.LOADING: "Loading the model",
    Stage.TOKENIZING: "Tokenizing",
    Stage.TRAINING: "Training and measuring",
    Stage.ATTRIBUTING: "Computing influence of tokens",
    Stage.SCORING: "Scoring",
    Stage.PUBLISHING: "Publishing",
}
"""What a running audit does, by stage."""

SIDES: dict[results.Side, str] = {
    results.Side.TOWARD: "Toward: it leans to the unwanted answers more than to the reference answers.",
    results.Side.AGAINST: "Against: it leans to the reference answers, so it teaches the good behaviour.",
    results.Side.BOTH: "Both: it is on the probe's topic; which side it takes is open.",
}
"""What the side of a sample means."""

UNSET = {"micro_batch_size": "whole batch", "learning_rate": "by the model's width"}
"""The meaning of a training setting that has no value."""


def whole(value: int) -> str:
    """Return a number with separators of thousands, such as 12,345."""
    return f"{value:,}"


def counted(value: int, noun: str) -> str:
    """Return a number with its noun, such as 1 sample or 21 samples.

    Args:
        value: The number.
        noun: The singular; the plural adds an s.
    """
    return f"{whole(value)} {noun}" if value == 1 else f"{whole(value)} {noun}s"


def decimal(value: float | None, places: int = 2) -> str:
    """Return a number with a true minus sign; a dash for None.

    Args:
        value: The number.
        places: Decimals to show.
    """
    if value is None:
        return "–"
    shown = f"{abs(value):,.{places}f}"
    return f"−{shown}" if value < 0 and float(shown.replace(",", "")) != 0 else shown


def effect_places(value: float | None) -> int:
    """Return the decimals to show of a mu: two, or as many as its first digit needs, up to six."""
    if value is None or abs(value) >= 0.005 or abs(value) < 5e-7:
        return 2
    return min(-math.floor(math.log10(abs(value))), 6)


def effect(value: float | None) -> str:
    """Return a mu with enough decimals that a small one is not shown as 0."""
    return decimal(value, effect_places(value))


def data_size(size: float) -> str:
    """Return a number of bytes with a unit, such as 1.2 MB."""
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = 0
    while size >= 1000 and power < len(units) - 1:
        size, power = size / 1000, power + 1
    return f"{size:.1f} {units[power]}" if power and size < 100 else f"{size:.0f} {units[power]}"


def percent(share: float) -> str:
    """Return a share as a percentage, such as 81 %."""
    return f"{share * 100:.0f} %"


def probability(value: float | None) -> str:
    """Return a p or q with two significant digits, small ones as a power of ten; a dash for None."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if value >= 0.001:
        return f"{value:.2g}" if value < 0.995 else f"{value:.2f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def duration(seconds: float | None) -> str:
    """Return a duration, such as 3 min 20 s or 2 h 5 min; a dash for None."""
    if seconds is None:
        return "–"
    whole_seconds = round(seconds)
    if whole_seconds < 60:
        return f"{whole_seconds} s"
    minutes, rest = divmod(whole_seconds, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes < 10 and rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def remaining(seconds: float | None) -> str:
    """Return the remaining time of a running audit, no more exact than an estimate can be."""
    if seconds is None:
        return "no estimate yet"
    if seconds < 10:
        return "a few seconds left"
    if seconds < 90:
        return f"about {round(seconds / 10) * 10} s left"
    if seconds < 5400:
        return f"about {round(seconds / 60)} min left"
    return f"about {seconds / 3600:.1f} h left"


def shown_stage(stage: Stage | None, step: str | None) -> Stage | None:
    """Return the stage of an audit as a whole: the preparation of the last step counts as scoring.

    Args:
        stage: The stage of the step; None if unknown.
        step: The key of the step; None if none is running.
    """
    if step == COMBINE and stage in (Stage.PREPARING, Stage.LOADING):
        return Stage.SCORING
    return stage


def seed_words(number: int, seeds: int) -> str:
    """Return which of several training runs is running; empty if there is only one.

    Args:
        number: The step's number among the audit's steps, from 1; the last one combines the seeds.
        seeds: The number of seeds.
    """
    if seeds == 1:
        return ""
    return f"seed {number} of {seeds}" if number <= seeds else f"all {seeds} seeds together"


def announcement(status: str, stage: Stage | None) -> str:
    """Return what a screen reader announces when it changes: without numbers, so that it changes seldom.

    Args:
        status: The status of the audit.
        stage: Its stage; None if it is not running.
    """
    return STAGES[stage] if status == "running" and stage is not None else f"The audit is {status}."


def settings(training: TrainingConfig) -> dict[str, str]:
    """Return the training settings as text, by name."""
    shown = {}
    for name, value in training:
        if value is None:
            shown[name] = UNSET.get(name, "none")
        elif isinstance(value, bool):
            shown[name] = "yes" if value else "no"
        elif isinstance(value, tuple):
            shown[name] = ", ".join(value)
        else:
            shown[name] = f"{value:g}" if isinstance(value, float) else str(value)
    return shown


def moment(value: datetime) -> str:
    """Return a time to the minute, such as 2026-11-23 19:32 UTC."""
    return f"{value:%Y-%m-%d %H:%M} UTC"


def exact_moment(value: datetime) -> str:
    """Return a time to the second in UTC, such as 2026-11-23 19:32:05 UTC."""
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def ago(value: datetime, now: datetime) -> str:
    """Return how far a time is from now, such as 3 minutes ago; the date beyond 30 days. app.js uses the same words.

    Args:
        value: The time; may lie in the future.
        now: The present time.
    """
    seconds = (now - value).total_seconds()
    minutes = round(abs(seconds) / 60)
    if minutes == 0:
        return "just now" if seconds >= 0 else "in a moment"
    hours, days = round(minutes / 60), round(minutes / 1440)
    if minutes < 60:
        words = counted(minutes, "minute")
    elif hours < 24:
        words = counted(hours, "hour")
    elif days <= 30:
        words = counted(days, "day")
    else:
        return f"{value.astimezone(UTC):%Y-%m-%d}"
    return f"{words} ago" if seconds > 0 else f"in {words}"


def clock(value: datetime) -> str:
    """Return a time of day, such as 19:32:05, for lists in which the day is known."""
    return f"{value:%H:%M:%S}"


def verdict(summary: results.Summary) -> str:
    """Return the result of an audit in one sentence with its error rate."""
    samples = counted(summary.rows_scored, "sample")
    if summary.flagged == 0:
        return f"Finetooth flags none of {samples}: at q = {summary.q:g} no sample stands out from the rest."
    expected = summary.q * summary.flagged
    if expected < 0.5:
        errors = "fewer than one of them is expected to be a false alarm"
    elif round(expected) == 1:
        errors = "about 1 of them is expected to be a false alarm"
    else:
        errors = f"about {whole(round(expected))} of them are expected to be false alarms"
    if summary.flagged == 1:
        errors = f"at most {summary.q * 100:g} % of such flags are expected to be false alarms"
    return f"Finetooth flags {whole(summary.flagged)} of {samples}; at q = {summary.q:g} {errors}."


def claims(summary: results.Summary) -> list[str]:
    """Return sentences on what the flags claim and where the threshold lies, for the decision about them."""
    claimed = (
        f"What q = {summary.q:g} claims: of the samples that such audits flag, at most {summary.q * 100:g} % are false "
        "alarms on average. It is a rate over many audits and no promise for this one, and it holds only as far as "
        "the model of ordinary samples fits."
    )
    said = [claimed]
    if len(summary.probes) == 1:
        threshold = summary.probes[0].threshold_z
        if threshold is not None:
            said.append(
                f"Every flagged sample has a Z of at least {decimal(threshold)}. Z says how far a sample's training "
                "gradient and its representation lean to the unwanted answers, beside all other samples of the run."
            )
        if summary.probes[0].has_reference:
            said.append("Samples that may as well be good answers on the topic are not flagged, whatever their Z.")
    return said


def histogram_words(probe: results.ProbeSummary, scored: int) -> str:
    """Return a text alternative of the histogram of Z.

    Args:
        probe: The probe's part of the summary.
        scored: Number of samples with a Z.
    """
    null = probe.null
    shown = (
        f"Histogram of Z for {counted(scored, 'sample')} with the fitted null, a Student t density "
        f"centred at {decimal(null.location)} with scale {decimal(null.scale)}"
    )
    if probe.threshold_z is None:
        return f"{shown}. No sample is flagged, so there is no threshold."
    flagged = counted(probe.flagged, "sample")
    return f"{shown}. {flagged} flagged; the threshold is Z = {decimal(probe.threshold_z)}."


def finding_words(score: results.ScoreRow, summary: results.Summary) -> list[tuple[str, str]]:
    """Return one sample's numbers explained, as (label, sentence) in reading order.

    Args:
        score: The sample's scores.
        summary: The summary of the audit.
    """
    probe = summary.probes[score.strongest_probe - 1]
    words = [("Flag", _flag_words(score, summary))]
    if score.z is not None:
        spread = (score.z - probe.null.location) / probe.null.scale
        side = "above" if spread >= 0 else "below"
        words.append(
            (
                "Z",
                f"{decimal(score.z)}: how far its training gradient and its representation together lean to the "
                f"unwanted answers, {decimal(abs(spread), 1)} times the usual spread {side} the middle of all samples.",
            )
        )
    if score.p is not None:
        where = "estimated from all samples of the run"
        if probe.null.family == "conformal":
            where = "its rank among the samples that are known to be clean"
        words.append(
            (
                "p",
                f"{probability(score.p)} is how often an ordinary sample of this dataset would reach such a Z by "
                f"chance ({where}).",
            )
        )
    if score.q is not None:
        words.append(
            (
                "q",
                f"{probability(score.q)} is the smallest false discovery rate at which this sample is flagged; good "
                "answers on the topic count as false where the probe has references.",
            )
        )
    words.append(("mu", _mu_words(score)))
    if score.z_reference is not None and score.z is not None:
        words.append(("Reference", _reference_words(score.z, score.z_reference)))
    if score.z_gradient is not None and score.z_representation is not None:
        words.append(("Views", _view_words(score.z_gradient, score.z_representation)))
    if score.side is not None:
        words.append(("Side", SIDES[score.side]))
    if score.probability_unwanted is not None:
        words.append(("Kind", _kind_words(score.probability_unwanted, score.probability_fair)))
    seen = "once" if score.n == 1 else f"{whole(score.n)} times"
    words.append(
        (
            "Observed",
            f"{seen[0].upper()}{seen[1:]} after warm-up."
            if score.n
            else "Never after warm-up, so it has no Z and no interval.",
        )
    )
    if score.tokens_left_out:
        words.append(
            (
                "Cut",
                f"Not measured: {counted(score.tokens_left_out, 'token')} behind the audit's token limit. Nothing here "
                "speaks of that text; an audit with a larger training.max_length would.",
            )
        )
    return words


def _flag_words(score: results.ScoreRow, summary: results.Summary) -> str:
    if score.z is None:
        return "Not scored: the run never observed this sample."
    if score.q is None:
        return "Not tested: it is one of the samples known to be clean."
    ranked = f"rank {whole(score.rank)} of {whole(summary.rows)}"
    if score.flagged:
        return f"Flagged, {ranked}: its q is at most the audit's target of {summary.q:g}."
    if score.side == results.Side.AGAINST:
        return f"Not flagged, {ranked}: it stands out from the rest, but leans to the good answers of the probe."
    return f"Not flagged, {ranked}: its q is above the audit's target of {summary.q:g}."


def _mu_words(score: results.ScoreRow) -> str:
    if score.mu_low is None or score.mu_high is None:
        return f"{effect(score.mu)}, without an interval: that needs samples that were seen more than once."
    ends = f"95 % interval {effect(score.mu_low)} to {effect(score.mu_high)}"
    if score.mu_low > 0:
        meaning = "training on it makes the unwanted answers more likely"
    elif score.mu_high < 0:
        meaning = "training on it makes the unwanted answers less likely"
    else:
        meaning = "the interval holds zero, so the direction of its effect is not certain"
    return f"{effect(score.mu)} ({ends}): {meaning}. A conservative figure, of this run only."


STANDS_OUT = 2.0
"""A view is said to stand out from this many standard deviations of the bulk."""


def _view_words(gradient: float, representation: float) -> str:
    by = {"gradients": gradient, "representations": representation}
    out = [f"{name} ({decimal(z, 1)})" for name, z in by.items() if z >= STANDS_OUT]
    rest = [f"{name} ({decimal(z, 1)})" for name, z in by.items() if z < STANDS_OUT]
    if not rest:
        return f"It stands out by {' and by '.join(out)}, in standard deviations of all samples."
    if not out:
        return f"It stands out neither by {' nor by '.join(rest)}, in standard deviations of all samples."
    return f"It stands out by {out[0]}, and not by {rest[0]}, in standard deviations of all samples."


def _kind_words(unwanted: float, fair: float | None) -> str:
    if fair is None:
        return f"{_percent(unwanted)} that it is of the unwanted kind; the rest is the bulk's."
    return (
        f"{_percent(unwanted)} that it is of the unwanted kind, {_percent(fair).lower()} that it is a fair answer on "
        "the topic; the rest is the bulk's."
    )


def _percent(share: float) -> str:
    """Return a probability as a percentage, but never 0 or 100, since neither is certain."""
    if share < 0.01:
        return "Less than 1 %"
    return "More than 99 %" if share > 0.99 else percent(share)


def _reference_words(z: float, z_reference: float) -> str:
    toward = f"Toward the reference answers its Z is {decimal(z_reference)}"
    if z_reference > z:
        return f"{toward}, more than toward the unwanted ones: read it as a possible false alarm."
    return f"{toward}, less than toward the unwanted ones."
