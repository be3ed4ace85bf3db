"""The report of a finished audit: one HTML file for the person who decides; it needs nothing else and runs nothing.

It is made of the published summary and of at most FINDINGS samples, each cut to a length: so it costs the same for an
audit of any size. A saved file has no service to ask, so the charts are in the file itself.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from markupsafe import Markup
from sqlalchemy import func, select
from sqlalchemy.orm import Session, defer

from service.audits.queries import find_audit, find_published, render_audit_summary
from service.audits.results.queries import find_summary, leading_groups, metric_points
from service.audits.schemas import AuditSummary
from service.contract.results import GroupSummary, ScoreRow, Summary
from service.findings.precision import audit_precision
from service.findings.queries import flagged_scores, page_texts, render_finding
from service.findings.schemas import AuditPrecision, Finding
from service.findings.verdicts.queries import find_verdicts
from service.http.conditional.etags import weak_tag
from service.principal import Principal
from service.scoping import get_scoped, scoped
from service.store.tables import Audit, Dataset, Model, Probe
from service.text import wording
from service.web import charts, evidence_charts
from service.web.charts import LossPoint
from service.web.templating import HERE, render_text

FINDINGS = 20
"""Flagged samples that are shown, the most suspicious ones."""

TURNS = 6
"""Turns of a sample that are shown."""

TURN_CHARACTERS = 1200
"""Characters of a turn that are shown."""

GROUPS = 30
"""Groups that a report lists."""

GROUP_CURVES = 6
"""Groups whose trade-off curves a report draws."""


@dataclass(frozen=True)
class Report:
    """Everything that a report says, read from the database."""

    audit: AuditSummary
    summary: Summary
    """The audit's summary without its groups."""
    dataset: Dataset
    model: Model
    probes: list[Probe]
    findings: list[Finding]
    precision: AuditPrecision
    group_count: int
    groups: dict[str, GroupSummary]
    losses: list[LossPoint]
    attempt: int
    at: datetime

    @property
    def tag(self) -> str:
        """Return the report's entity tag: only the verdicts on a published result change."""
        said = [finding.verdict and finding.verdict.model_dump(mode="json") for finding in self.findings]
        return weak_tag(self.audit.id, self.attempt, said, self.precision.model_dump(mode="json"))

    @property
    def filename(self) -> str:
        """Return the file's name."""
        return f"finetooth-report-{self.audit.id}.html"


def read_report(session: Session, principal: Principal, audit_id: str) -> Report:
    """Read everything that a report says, in one snapshot of the database.

    Args:
        session: A transaction that has asked nothing yet.
        principal: Who is asking.
        audit_id: Which audit.

    Raises:
        NotFoundError: `audit_not_found`.
        ConflictError: `audit_not_finished`.
    """
    session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
    published = find_published(session, principal, audit_id)
    found = find_audit(session, principal, audit_id, options=[defer(Audit.summary)])
    row, audit = found[0], render_audit_summary(found)
    summary = find_summary(session, row)
    scores = flagged_scores(session, published, FINDINGS)
    keep, texts = page_texts(session, published, [score.row for score in scores])
    verdicts = find_verdicts(session, published, [score.row for score in scores])
    probes = {
        probe.id: probe for probe in session.scalars(scoped(Probe, principal).where(Probe.id.in_(audit.probe_ids)))
    }
    group_count, groups = leading_groups(session, row, GROUPS)
    return Report(
        audit=audit,
        summary=summary,
        dataset=get_scoped(session, Dataset, principal, audit.dataset_id, kind="dataset"),
        model=get_scoped(session, Model, principal, audit.model_id, kind="model"),
        probes=[probes[probe_id] for probe_id in audit.probe_ids],
        findings=[render_finding(one, texts.get(one.row), verdicts.get(one.row)) for one in scores[:keep]],
        precision=audit_precision(session, published),
        group_count=group_count,
        groups=groups,
        losses=[LossPoint(one.step, one.loss, one.probe_loss) for one in metric_points(session, row, summary.seeds[0])],
        attempt=published.attempt,
        at=session.scalars(select(func.now())).one(),
    )


def render_report(report: Report) -> str:
    """Render the file. Drawing its charts takes some tenths of a second each."""
    summary = report.summary
    curves = [(name, group, group.curve) for name, group in report.groups.items() if group.curve is not None]
    curves = curves[:GROUP_CURVES]
    context: Mapping[str, Any] = {
        "report": report,
        "audit": report.audit,
        "summary": summary,
        "css": Markup(_css()),  # noqa: S704  # a file of our own
        "policy": POLICY_IN_FILE.format(_css_hash()),
        "pictures": [_probe_pictures(report, number) for number in range(len(summary.probes))],
        "curves": [(name, group, _drawn(evidence_charts.tradeoff_svg(curve))) for name, group, curve in curves],
        "loss": _drawn(charts.loss_svg(report.losses)) if len(report.losses) > 1 else None,
        "extent": charts.interval_extent([_score(finding) for finding in report.findings]),
        "claims": wording.claims(summary),
        "training": wording.settings(report.audit.training),
        "reviewed": any(one.reviewed for one in report.precision.data),
        "turns": TURNS,
        "turn_characters": TURN_CHARACTERS,
    }
    return render_text("report.html", context)


POLICY_IN_FILE = "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'"
"""The policy in the file itself, for a browser that opens it from a disk: its own stylesheet, and nothing else."""


def content_security_policy() -> str:
    """Return the policy as a header, which can say more: no frame may show the report, and its origin is opaque."""
    return f"{POLICY_IN_FILE.format(_css_hash())}; frame-ancestors 'none'; sandbox"


def _probe_pictures(report: Report, number: int) -> dict[str, Markup]:
    probe = report.summary.probes[number]
    found = {
        "histogram": _drawn(charts.z_histogram_svg(probe)),
        "calibration": _drawn(evidence_charts.calibration_svg(probe)),
        "sensitivity": Markup(),
        "drift": Markup(),
    }
    if probe.sensitivity is not None and probe.sensitivity.points:
        found["sensitivity"] = _drawn(evidence_charts.sensitivity_svg(probe.sensitivity))
    if probe.drift.step:
        found["drift"] = _drawn(evidence_charts.drift_svg(probe.drift))
    return found


def _drawn(svg: str) -> Markup:
    """Return a chart as markup of the file: it was drawn from numbers alone, so it contains no text of a user."""
    return Markup(svg)  # noqa: S704


def _score(finding: Finding) -> ScoreRow:
    return ScoreRow(**{name: getattr(finding, name) for name in ScoreRow.model_fields})


@lru_cache
def _css() -> str:
    """Return the stylesheet, as it is written between its tags."""
    return (HERE / "templates" / "report.css").read_text()


@lru_cache
def _css_hash() -> str:
    """Return the hash by which a Content-Security-Policy allows the inline stylesheet."""
    return base64.b64encode(hashlib.sha256(_css().encode()).digest()).decode()
