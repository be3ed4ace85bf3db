"""Small charts that show how far a result can be trusted: SVG documents drawn from numbers alone."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

from service.contract import results
from service.findings.schemas import Observation
from service.web.drawing import PALETTES, Scheme, series_colour, to_svg

CURVE_POINTS = 101
"""Points of a drawn curve: one for each hundredth."""

MAX_QQ_POINTS = 400
"""The most points of a Q-Q plot: more do not fit on a screen."""


def calibration_svg(probe: results.ProbeSummary, *, scheme: Scheme = "light") -> str:
    """Draw a QQ plot: the quantiles expected under the null against those of the samples and the placebos.

    Args:
        probe: What the summary says of the probe.
        scheme: The colour scheme.

    Returns:
        An SVG document.
    """
    import altair as alt

    colours = PALETTES[scheme]
    series = [("samples", probe.calibration)]
    if probe.placebo is not None:
        series.append(("placebo", probe.placebo.calibration))
    points = [
        {"expected": expected, "observed": observed, "of": name}
        for name, calibration in series
        for expected, observed in _thin(zip(calibration.qq_expected, calibration.qq_observed, strict=True))
    ]
    ends = [expected for _, calibration in series for expected in calibration.qq_expected]
    diagonal = [{"expected": end, "observed": end} for end in (min(ends, default=0.0), max(ends, default=1.0))]
    x = alt.X("expected:Q", title="expected under the null (its scales)", scale=alt.Scale(zero=False))
    y = alt.Y("observed:Q", title="observed", scale=alt.Scale(zero=False))
    colour = series_colour("of", {"samples": colours.bulk, "placebo": colours.null}, "circle")
    layers = [
        alt.Chart(alt.Data(values=diagonal)).mark_line(color=colours.muted, strokeDash=[4, 4]).encode(x=x, y=y),
        alt.Chart(alt.Data(values=points)).mark_point(filled=True, size=18, opacity=1).encode(x=x, y=y, color=colour),
    ]
    return to_svg(alt.layer(*layers), scheme, "small")


def sensitivity_svg(sensitivity: results.Sensitivity, *, scheme: Scheme = "light") -> str:
    """Draw the share of the hidden tracers that the audit would have found, by strength, with 95 % intervals.

    Audits from before strengths were distinguished have tracers of full strength alone; the share is then drawn by how
    many were hidden.

    Args:
        sensitivity: What the summary says of the tracers.
        scheme: The colour scheme.

    Returns:
        An SVG document.
    """
    import altair as alt

    colours = PALETTES[scheme]
    rows = [point.model_dump() for point in sensitivity.points]
    if len({point.strength for point in sensitivity.points}) > 1:
        axis = alt.Axis(format="%", tickCount=5)
        x = alt.X("strength:Q", title="strength", scale=alt.Scale(domain=[0, 1]), axis=axis)
    else:
        x = alt.X("inserted:Q", title="hidden tracers", axis=alt.Axis(tickMinStep=1, format="d"))
    y = alt.Y("flagged:Q", title="share found", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    base = alt.Chart(alt.Data(values=rows)).encode(x=x)
    layers = [
        base.mark_rule(color=colours.bulk, strokeWidth=3).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_line(color=colours.null, strokeWidth=2).encode(y=y),
        base.mark_point(color=colours.null, filled=True, size=45, opacity=1).encode(y=y),
    ]
    return to_svg(alt.layer(*layers), scheme, "small")


def drift_svg(drift: results.Drift, *, scheme: Scheme = "light") -> str:
    """Draw the change of the probe loss between its measurements, as predicted from the recorded effects and as it was.

    Args:
        drift: What the summary says of the probe.
        scheme: The colour scheme.

    Returns:
        An SVG document.
    """
    import altair as alt

    colours = PALETTES[scheme]
    rows = [
        {"step": step, "change": value, "of": name}
        for name, values in (("predicted", drift.predicted), ("realised", drift.realised))
        for step, value in zip(drift.step, values, strict=True)
    ]
    colour = series_colour("of", {"predicted": colours.bulk, "realised": colours.null}, "stroke")
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=2, point={"size": 22, "filled": True} if len(drift.step) <= 60 else False)
        .encode(
            x=alt.X("step:Q", title="optimiser step", axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("change:Q", title="change of the probe loss"),
            color=colour,
        )
    )
    return to_svg(alt.layer(chart), scheme, "small")


def tradeoff_svg(curve: results.GroupCurve, *, scheme: Scheme = "light") -> str:
    """Draw a group's empirical trade-off curve, the Gaussian one fitted to it, and the line of no influence.

    Args:
        curve: The group's curve.
        scheme: The colour scheme.

    Returns:
        An SVG document.
    """
    import altair as alt

    colours = PALETTES[scheme]
    rows = [
        {"alpha": alpha, "beta": beta, "of": "measured"} for alpha, beta in zip(curve.alpha, curve.beta, strict=True)
    ]
    if curve.mu_fit is not None:
        grid = [i / (CURVE_POINTS - 1) for i in range(CURVE_POINTS)]
        rows += [
            {"alpha": alpha, "beta": gaussian_tradeoff(curve.mu_fit, alpha), "of": "Gaussian fit"} for alpha in grid
        ]
    none = [{"alpha": 0.0, "beta": 1.0}, {"alpha": 1.0, "beta": 0.0}]
    x = alt.X("alpha:Q", title="false alarms", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    y = alt.Y("beta:Q", title="misses", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    colour = series_colour("of", {"measured": colours.flagged, "Gaussian fit": colours.null}, "stroke")
    layers = [
        alt.Chart(alt.Data(values=none)).mark_line(color=colours.muted, strokeDash=[4, 4]).encode(x=x, y=y),
        alt.Chart(alt.Data(values=rows)).mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, order="alpha:Q"),
    ]
    return to_svg(alt.layer(*layers), scheme, "small")


def gaussian_tradeoff(mu: float, alpha: float) -> float:
    """Compute the Gaussian trade-off function (Dong, Roth and Su): G_mu(alpha) = Phi(Phi^-1(1 - alpha) - mu).

    Args:
        mu: The separation; a negative one gives values above 1 - alpha.
        alpha: The rate of false alarms, 0 to 1.

    Returns:
        The rate of misses, 0 to 1.
    """
    if alpha <= 0:
        return 1.0
    if alpha >= 1:
        return 0.0
    normal = NormalDist()
    return normal.cdf(normal.inv_cdf(1 - alpha) - mu)


def trace_svg(trace: Sequence[Observation], *, scheme: Scheme = "light") -> str:
    """Draw each observation's share of a sample's mu, at the optimiser step at which it was drawn.

    Args:
        trace: The sample's observations.
        scheme: The colour scheme.

    Returns:
        An SVG document.
    """
    import altair as alt

    colours = PALETTES[scheme]
    rows = [{"step": one.step, "mu": one.mu} for one in trace if one.mu is not None and math.isfinite(one.mu)]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("step:Q", title="optimiser step", axis=alt.Axis(tickMinStep=1, format="d"))
    )
    y = alt.Y("mu:Q", title="share of mu")
    zero = alt.Chart(alt.Data(values=[{"mu": 0}])).mark_rule(color=colours.muted).encode(y=y)
    layers = [
        zero,
        base.mark_rule(color=colours.bulk, strokeWidth=2).encode(y=y, y2=alt.datum(0)),
        base.mark_point(color=colours.null, filled=True, size=50, opacity=1).encode(y=y),
    ]
    return to_svg(alt.layer(*layers), scheme, "small")


def _thin(points: Any) -> list[tuple[float, float]]:
    """Keep at most MAX_QQ_POINTS points, the ends among them: more do not fit, and the ends are what one looks for."""
    every = list(points)
    if len(every) <= MAX_QQ_POINTS:
        return every
    last = len(every) - 1
    return [every[round(i * last / (MAX_QQ_POINTS - 1))] for i in range(MAX_QQ_POINTS)]
