"""The main charts as SVG, drawn on the server from numbers alone: no text of a sample reaches this module.

The large charts are served as images of their own (`<img>`), so that a page never waits for the drawing engine,
the browser picks the drawing that fits its width and colour scheme, and nothing inside a picture can run. The small
interval of a table row is markup inside the page, coloured by the stylesheet.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from markupsafe import Markup

from service.contract import results
from service.web.drawing import PALETTES, Scheme, Width, series_colour, to_svg

MAX_POINTS = 400
"""A longer loss curve is averaged down to this many points: more do not fit on a screen."""

CURVE_POINTS = 240
"""Points of a drawn curve: enough that it looks smooth."""


class LossPoint(NamedTuple):
    """The losses at one optimiser step; `probe_loss` is None where the probe was not measured."""

    step: float
    loss: float
    probe_loss: float | None


def null_density(null: results.NullFit, z: float) -> float:
    """Compute the density of the fitted null, a scaled and shifted Student's t.

    Args:
        null: The fitted null.
        z: Where.
    """
    nu = null.degrees_of_freedom
    t = (z - null.location) / null.scale
    log_norm = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi) - math.log(null.scale)
    return math.exp(log_norm - (nu + 1) / 2 * math.log1p(t * t / nu))


def z_histogram_svg(probe: results.ProbeSummary, *, scheme: Scheme = "light", width: Width = "wide") -> str:
    """Draw the histogram of z with the counts expected under the null, and the threshold.

    Counts are on a square-root scale: one flagged sample stays visible beside a bulk of thousands. A bin that the
    threshold cuts is coloured on both sides of it, since the histogram does not know which of its samples are above.

    Args:
        probe: What the summary says of the probe.
        scheme: The colour scheme.
        width: How wide the picture is shown.

    Returns:
        An SVG document.
    """
    import altair as alt

    colours = PALETTES[scheme]
    edges, counts = probe.histogram.edges, probe.histogram.counts
    threshold = probe.threshold_z
    bars: list[dict[str, float | str]] = []
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        cuts = [low, threshold, high] if threshold is not None and low < threshold < high else [low, high]
        for start, end in pairwise(cuts):
            above = threshold is not None and start >= threshold
            bars.append({"start": start, "end": end, "count": count, "kind": "at or above" if above else "below"})

    x_title = "Z: how far a sample pushes the model toward the behaviour"
    if width == "narrow":
        x_title = "Z (push toward the behaviour)"
    x = alt.X("start:Q", title=x_title, scale=alt.Scale(zero=False, nice=False))
    y = alt.Y("count:Q", title="Samples (square-root scale)", scale=alt.Scale(type="sqrt"))
    layers = [
        alt.Chart(alt.Data(values=bars))
        .mark_rect(stroke=None)
        .encode(
            x=x,
            x2="end:Q",
            y=y,
            y2=alt.datum(0),
            color=alt.Color(
                "kind:N",
                legend=None,
                scale=alt.Scale(domain=["below", "at or above"], range=[colours.bulk, colours.flagged]),
            ),
        )
    ]
    if counts:
        first, last = edges[0], edges[-1]
        bin_width = (last - first) / len(counts)
        grid = [first + (last - first) * i / (CURVE_POINTS - 1) for i in range(CURVE_POINTS)]
        curve = [{"z": z, "expected": sum(counts) * bin_width * null_density(probe.null, z)} for z in grid]
        layers.append(
            alt.Chart(alt.Data(values=curve))
            .mark_line(color=colours.null, strokeWidth=2)
            .encode(x=alt.X("z:Q"), y=alt.Y("expected:Q"))
        )
    if threshold is not None:
        layers.append(
            alt.Chart(alt.Data(values=[{"z": threshold}]))
            .mark_rule(color=colours.flagged, strokeDash=[5, 4], strokeWidth=1.5)
            .encode(x="z:Q")
        )
        right = threshold > edges[0] + (edges[-1] - edges[0]) * (0.8 if width == "wide" else 0.6)
        layers.append(
            alt.Chart(alt.Data(values=[{"z": threshold, "label": f"threshold {threshold:.2f}"}]))
            .mark_text(
                align="right" if right else "left",
                baseline="top",
                dx=-6 if right else 6,
                dy=2,
                color=colours.flagged,
                fontSize=12,
                fontWeight="bold",
            )
            .encode(x="z:Q", y=alt.value(0), text="label:N")
        )
    return to_svg(alt.layer(*layers), scheme, width)


def loss_svg(points: Sequence[LossPoint], *, scheme: Scheme = "light", width: Width = "wide") -> str:
    """Draw the training loss by step, and the probe loss where it was measured.

    Args:
        points: The losses in the order of their steps; more than MAX_POINTS are averaged.
        scheme: The colour scheme.
        width: How wide the picture is shown.

    Returns:
        An SVG document.
    """
    import altair as alt

    colours = PALETTES[scheme]
    train = _thin([(point.step, point.loss) for point in points if math.isfinite(point.loss)])
    probe = _thin(
        [
            (point.step, point.probe_loss)
            for point in points
            if point.probe_loss is not None and math.isfinite(point.probe_loss)
        ]
    )
    x = alt.X("step:Q", title="Optimiser step", axis=alt.Axis(tickMinStep=1, format="d"))
    y = alt.Y("loss:Q", title="Mean loss (nats a token)", scale=alt.Scale(zero=True))
    colour = series_colour("curve", {"training loss": colours.bulk, "probe loss": colours.null}, "stroke")
    layers = []
    for name, values, dots in (("training loss", train, False), ("probe loss", probe, len(probe) <= 60)):
        rows = [{"step": step, "loss": loss, "curve": name} for step, loss in values]
        layers.append(
            alt.Chart(alt.Data(values=rows))
            .mark_line(strokeWidth=2, point={"size": 22, "filled": True} if dots or len(values) == 1 else False)
            .encode(x=x, y=y, color=colour)
        )
    return to_svg(alt.layer(*layers), scheme, width)


def mu_interval_svg(mu: float, low: float | None, high: float | None, extent: float) -> Markup:
    """Draw mu as a dot with its interval as a whisker around a line at zero, for one table row.

    Colours come from the stylesheet's classes. Only numbers are filled in, so this is the one place where markup is
    declared safe.

    Args:
        mu: The sample's mu.
        low: The lower end of its interval; None without one.
        high: The upper end.
        extent: The largest absolute value drawn on the page, so that all rows of a page share a scale.
    """
    extent = extent if math.isfinite(extent) and extent > 0 else 1.0

    def place(value: float) -> str:
        inside = max(-1.0, min(1.0, float(value) / extent))
        return f"{60 + inside * 55:.1f}"

    interval = Markup()
    if low is not None and high is not None:
        interval = Markup('<line class="whisker" x1="{}" x2="{}" y1="9" y2="9"/>').format(place(low), place(high))
    return Markup(
        '<svg class="interval" viewBox="0 0 120 18" width="120" height="18" aria-hidden="true" focusable="false">'
        '<line class="axis" x1="60" x2="60" y1="1" y2="17"/>{}<circle class="dot" cx="{}" cy="9" r="3.5"/></svg>'
    ).format(interval, place(mu))


def interval_extent(rows: Sequence[results.ScoreRow]) -> float:
    """Return the largest absolute mu or interval end among the rows; 1 if there is none."""
    ends = [abs(value) for row in rows for value in (row.mu, row.mu_low, row.mu_high) if value is not None]
    return max(ends, default=1.0)


def _thin(values: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Average neighbouring points, so that at most MAX_POINTS remain."""
    size = math.ceil(len(values) / MAX_POINTS)
    if size <= 1:
        return values
    groups = [values[start : start + size] for start in range(0, len(values), size)]
    return [(sum(s for s, _ in group) / len(group), sum(v for _, v in group) / len(group)) for group in groups]
