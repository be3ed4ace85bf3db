"""Charts are checked by what is drawn: the rectangles and lines of the SVG itself."""

import math
import re
import subprocess
import sys
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from scipy import integrate, stats

from service.contract.results import Histogram, NullFit, ProbeSummary
from service.web import charts
from service.web.charts import LossPoint, loss_svg, mu_interval_svg, null_density, z_histogram_svg
from service.web.drawing import PALETTES, SIZES, Scheme, Width

SVG = "{http://www.w3.org/2000/svg}"
MakeProbe = Callable[..., ProbeSummary]


def rectangles(svg: str, colour: str) -> list[tuple[float, float]]:
    """(width, height) of the drawn bars of that colour, from left to right."""
    found = []
    for path in ElementTree.fromstring(svg).iter(f"{SVG}path"):
        match = re.fullmatch(r"M([-\d.]+),([-\d.]+)h([-\d.]+)v([-\d.]+)h[-\d.]+Z", path.get("d", ""))
        if match and path.get("fill") == colour:
            x, _, width, height = map(float, match.groups())
            found.append((x, width, height))
    return [(width, height) for _, width, height in sorted(found)]


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_null_density_is_student_t() -> None:
    null = NullFit(location=0.3, scale=1.7, degrees_of_freedom=6.5)
    for z in (-9.0, -1.0, 0.3, 4.0, 30.0):
        assert null_density(null, z) == pytest.approx(stats.t.pdf(z, 6.5, loc=0.3, scale=1.7), rel=1e-12)
    assert integrate.quad(lambda z: null_density(null, z), -math.inf, math.inf)[0] == pytest.approx(1, abs=1e-8)


def test_bars_have_the_counts_as_heights_and_the_threshold_splits_its_bin(probe_of: MakeProbe) -> None:
    svg = z_histogram_svg(probe_of())
    colours = PALETTES["light"]
    bulk, flagged = rectangles(svg, colours.bulk), rectangles(svg, colours.flagged)
    assert len(bulk) == 6, "five whole bins and the left half of the one the threshold cuts"
    assert len(flagged) == 3
    unit = bulk[0][1] / math.sqrt(7)
    heights = [height for _, height in bulk + flagged]
    assert heights == pytest.approx([unit * math.sqrt(n) for n in (7, 45, 110, 115, 40, 8, 8, 10, 5)], rel=0.01)
    assert bulk[-1][0] == pytest.approx(bulk[0][0] / 2, rel=0.01)
    assert flagged[0][0] == pytest.approx(bulk[0][0] / 2, rel=0.01)
    assert "threshold 2.50" in texts(svg)


def test_the_null_curve_peaks_at_the_expected_count(probe_of: MakeProbe) -> None:
    svg = z_histogram_svg(probe_of())
    colours = PALETTES["light"]
    curve = next(
        path.get("d", "")
        for path in ElementTree.fromstring(svg).iter(f"{SVG}path")
        if path.get("stroke") == colours.null
    )
    heights = [float(y) for y in re.findall(r"[ML][-\d.]+,([-\d.]+)", curve)]
    base = SIZES["wide"][1]
    expected = 340 * 1 * stats.t.pdf(0, 15) / 0.9
    unit = rectangles(svg, colours.bulk)[0][1] / math.sqrt(7)
    assert base - min(heights) == pytest.approx(unit * math.sqrt(expected), rel=0.01)


def test_without_flags_there_is_no_threshold(probe_of: MakeProbe) -> None:
    svg = z_histogram_svg(probe_of(flagged=0, threshold_z=None))
    assert rectangles(svg, PALETTES["light"].flagged) == []
    assert not [text for text in texts(svg) if "threshold" in text]


def test_no_scores_at_all_still_draw(probe_of: MakeProbe) -> None:
    empty = Histogram(edges=(), counts=())
    ElementTree.fromstring(z_histogram_svg(probe_of(histogram=empty, flagged=0, threshold_z=None)))
    one = Histogram(edges=(1.0, 1.0), counts=(20,))
    ElementTree.fromstring(z_histogram_svg(probe_of(histogram=one, flagged=0, threshold_z=None)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_every_drawing_fits_its_place_and_needs_no_style(probe_of: MakeProbe, scheme: Scheme, width: Width) -> None:
    points = [LossPoint(step, 3 / step, 2.0 if step % 5 == 0 else None) for step in range(1, 30)]
    for svg in (
        z_histogram_svg(probe_of(), scheme=scheme, width=width),
        loss_svg(points, scheme=scheme, width=width),
    ):
        root = ElementTree.fromstring(svg)
        assert float(root.get("width", "0")) <= SIZES[width][0] + 10
        for node in root.iter():
            assert node.tag.removeprefix(SVG) not in ("script", "style", "foreignObject", "image", "a")
            assert not [name for name in node.attrib if name == "style" or name.startswith("on") or "href" in name]


def test_a_long_loss_curve_is_averaged_down() -> None:
    svg = loss_svg([LossPoint(step, 2.0 + step % 2, None) for step in range(1, 10_401)])
    line = max((path.get("d", "") for path in ElementTree.fromstring(svg).iter(f"{SVG}path")), key=len)
    heights = [float(y) for y in re.findall(r"[ML][-\d.]+,([-\d.]+)", line)]
    assert 100 < len(heights) <= charts.MAX_POINTS
    assert max(heights) - min(heights) < 1, "the mean of 2 and 3 everywhere"


def test_a_loss_that_is_not_a_number_is_left_out() -> None:
    svg = loss_svg([LossPoint(1, 2.0, None), LossPoint(2, math.nan, math.inf), LossPoint(3, 1.0, None)])
    assert "NaN" not in svg
    assert "Infinity" not in svg


def test_the_interval_is_drawn_to_scale() -> None:
    root = ElementTree.fromstring(str(mu_interval_svg(1.0, 0.5, 2.0, extent=2.0)))
    axis, whisker = root.findall("line")
    dot = root.find("circle")
    assert dot is not None
    zero = float(axis.get("x1", ""))
    right = float(whisker.get("x2", "")) - zero
    assert float(dot.get("cx", "")) - zero == pytest.approx(right / 2)
    assert float(whisker.get("x1", "")) - zero == pytest.approx(right / 4, abs=0.06)
    assert right <= zero, "stays inside"


def test_an_interval_that_is_not_known_has_no_whisker() -> None:
    assert "whisker" not in mu_interval_svg(1.0, None, None, extent=2.0)
    assert "whisker" in mu_interval_svg(-3.0, -9.0, 9.0, extent=0.0), "no extent is no reason to fail"


def test_text_cannot_reach_the_interval() -> None:
    with pytest.raises(ValueError, match="could not convert"):
        mu_interval_svg("<script>", None, None, extent=1.0)  # type: ignore[arg-type]


def test_charts_are_imported_only_when_one_is_drawn() -> None:
    code = "import sys, service.web.charts; print([m for m in ('altair', 'vl_convert') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
