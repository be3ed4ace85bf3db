"""The look of every chart: palettes, sizes, and the way from an Altair chart to an SVG document."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

Scheme = Literal["light", "dark"]
Width = Literal["wide", "narrow"]
Size = Literal["wide", "narrow", "small"]

VEGA_LITE = "6.4"
"""Version of the Vega-Lite compiler inside vl-convert; named, so that an upgrade cannot change a picture unseen."""


@dataclass(frozen=True)
class Palette:
    """The colours of one scheme; the same as the stylesheet's."""

    ink: str
    muted: str
    grid: str
    bulk: str
    flagged: str
    null: str


PALETTES: dict[Scheme, Palette] = {
    "light": Palette(ink="#1b2430", muted="#566273", grid="#e3e7ec", bulk="#9fb0c3", flagged="#c2410c", null="#1d5fa8"),
    "dark": Palette(ink="#e6eaf0", muted="#9aa7b8", grid="#2a3441", bulk="#5b6f86", flagged="#fb8b4c", null="#7cb7f2"),
}

SIZES: dict[Size, tuple[int, int]] = {"wide": (980, 300), "narrow": (300, 220), "small": (360, 220)}
"""Width and height in pixels; `small` pictures are shown beside each other and fit a telephone too."""

MARGINS: dict[Size, int] = {"wide": 64, "narrow": 64, "small": 80}
"""The pixels of the width that axis labels and padding take at most."""


def series_colour(field: str, colours: Mapping[str, str], symbol: Literal["circle", "stroke"]) -> Any:
    """Build the colour encoding of several series, with a legend above the chart.

    Args:
        field: The field that names a row's series.
        colours: The colour of each series, in the order of the legend.
        symbol: The legend's symbol.
    """
    import altair as alt

    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return alt.Color(f"{field}:N", scale=scale, legend=alt.Legend(title=None, orient="top", symbolType=symbol))


def to_svg(chart: Any, scheme: Scheme, size: Size) -> str:
    """Draw an Altair chart in the dashboard's style.

    Args:
        chart: The chart.
        scheme: The colour scheme.
        size: The size in SIZES.

    Returns:
        An SVG document.
    """
    colours = PALETTES[scheme]
    wide, high = SIZES[size]
    font = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
    finished = (
        chart.properties(width=wide - MARGINS[size], height=high, background="transparent", autosize="pad", padding=4)
        .configure(font=font)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=colours.muted,
            titleColor=colours.muted,
            titleFontWeight="normal",
            titlePadding=8,
            labelFontSize=12,
            titleFontSize=12,
            gridColor=colours.grid,
            domainColor=colours.muted,
            tickColor=colours.grid,
        )
        .configure_axisX(grid=False, tickCount=8 if size == "wide" else 5)
        .configure_axisY(tickCount=5, domain=False)
        .configure_legend(labelColor=colours.ink, labelFontSize=12, symbolStrokeWidth=3, symbolSize=220)
    )
    return _draw(json.dumps(finished.to_dict(), sort_keys=True))


@lru_cache(maxsize=256)
def _draw(spec: str) -> str:
    import vl_convert

    svg: str = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
    return svg
