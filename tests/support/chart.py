"""The Helm chart as Helm's own code renders it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "finetooth"
SETS = sorted(path.stem for path in (CHART / "ci").glob("*.yaml"))

Manifest = dict[str, Any]


def values_of(name: str) -> dict[str, Any]:
    """One of the chart's sets of values."""
    found: dict[str, Any] = yaml.safe_load((CHART / "ci" / f"{name}.yaml").read_text())
    return found


def rendered(values: dict[str, Any]) -> list[Manifest]:
    """All objects of a release `ft` in the namespace `audits`. The values are checked against the chart's schema."""
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name="ft", namespace="audits")
    return [
        manifest
        for name, text in sorted(files.items())
        if name.endswith(".yaml")
        for manifest in yaml.safe_load_all(text)
        if manifest is not None
    ]


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Name of the owner and specification of each kind of pod."""
    for manifest in manifests:
        if manifest["kind"] in ("Deployment", "Job"):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]
