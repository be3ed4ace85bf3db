"""Small charts are checked by what is drawn."""

from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest
from scipy import stats

from service.contract.results import Drift, Sensitivity
from service.findings.schemas import Observation
from service.web.drawing import PALETTES, SIZES
from service.web.evidence_charts import (
    MAX_QQ_POINTS,
    calibration_svg,
    drift_svg,
    gaussian_tradeoff,
    sensitivity_svg,
    trace_svg,
    tradeoff_svg,
)
from tests.support.summaries import make_calibration, make_group, make_probe_summary

SVG = "{http://www.w3.org/2000/svg}"


def observation(step: int, mu: float | None) -> Observation:
    return Observation(probe_no=1, seed=0, step=step, effect=None, alignment=None, mu=mu)


DRAWINGS: list[tuple[Callable[..., str], Any]] = [
    (calibration_svg, make_probe_summary()),
    (calibration_svg, make_probe_summary(placebo=None, calibration=make_calibration(qq_expected=(), qq_observed=()))),
    (sensitivity_svg, make_probe_summary().sensitivity),
    (sensitivity_svg, Sensitivity(tracers=0, clusters=0, points=())),
    (drift_svg, make_probe_summary().drift),
    (drift_svg, Drift(step=(), predicted=(), realised=(), slope=None, correlation=None)),
    (tradeoff_svg, make_group().curve),
    (tradeoff_svg, make_group().curve.model_copy(update={"mu_fit": None, "alpha": (), "beta": ()})),
    (trace_svg, [observation(3, 0.2), observation(40, -0.1), observation(50, None)]),
]


@pytest.mark.parametrize(("draw", "what"), DRAWINGS)
def test_it_fits_its_place_and_needs_no_style(draw: Callable[..., str], what: Any) -> None:
    drawn = set()
    for scheme in ("light", "dark"):
        svg = draw(what, scheme=scheme)
        drawn.add(svg)
        assert "NaN" not in svg
        root = ElementTree.fromstring(svg)
        assert float(root.get("width", "0")) <= SIZES["small"][0] + 10
        for node in root.iter():
            assert node.tag.removeprefix(SVG) not in ("script", "style", "foreignObject", "image", "a")
            assert not [name for name in node.attrib if name == "style" or name.startswith("on") or "href" in name]
    assert len(drawn) == 2


def marks(svg: str, colour: str) -> int:
    """Filled points of that colour."""
    found = ElementTree.fromstring(svg).iter(f"{SVG}path")
    return sum(path.get("fill") == colour and "A" in path.get("d", "") for path in found)


def test_a_qq_plot_has_a_point_for_each_quantile_but_never_too_many() -> None:
    colours = PALETTES["light"]
    svg = calibration_svg(make_probe_summary())
    assert (marks(svg, colours.bulk), marks(svg, colours.null)) == (5 + 1, 5 + 1), "and one in the legend"
    many = tuple(float(i) for i in range(3 * MAX_QQ_POINTS))
    svg = calibration_svg(make_probe_summary(calibration=make_calibration(qq_expected=many, qq_observed=many)))
    assert marks(svg, colours.bulk) == MAX_QQ_POINTS + 1


def test_every_observation_is_a_point() -> None:
    svg = trace_svg([observation(3, 0.2), observation(40, -0.1), observation(50, None)])
    assert marks(svg, PALETTES["light"].null) == 2


@pytest.mark.parametrize("mu", [-1.3, 0.0, 0.7, 4.0])
def test_the_gaussian_curve(mu: float) -> None:
    for alpha in (0.001, 0.1, 0.5, 0.9):
        expected = stats.norm.cdf(stats.norm.isf(alpha) - mu)
        assert gaussian_tradeoff(mu, alpha) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert (gaussian_tradeoff(mu, 0.0), gaussian_tradeoff(mu, 1.0)) == (1.0, 0.0)
