"""/v1/audits/{id}/histogram and its like: the answer of a finished audit part by part, as charts and tables need it.

Every number is one that the worker has published; nothing is estimated here.
"""

from typing import Annotated

from fastapi import Depends, Query
from sqlalchemy.orm import Session, defer

from service.audits.queries import find_succeeded
from service.audits.results.queries import (
    find_facts,
    find_group_curve,
    find_probe,
    group_cursor,
    list_groups,
    metric_points,
)
from service.audits.results.schemas import (
    AuditCalibration,
    AuditGroup,
    AuditHistogram,
    AuditMetrics,
    SensitivityCurve,
    TradeoffCurve,
)
from service.contract.protocol import Stage
from service.contract.results import Summary
from service.contract.spec import MAX_PROBES
from service.http.auth.authentication import RequireScope
from service.http.conditional.etags import NOT_MODIFIED, Conditions, ConditionsDep, strong_tag
from service.http.dependencies import SessionDep
from service.http.fields import NO_NUL, PathId, Storable
from service.http.pagination import Page, PageDep
from service.http.routing import declared_problems, resource_router
from service.principal import Principal
from service.store.tables import Audit

router = resource_router("audits")
Reader = Annotated[Principal, Depends(RequireScope())]
ProbeNumber = Annotated[int, Query(ge=1, le=MAX_PROBES, description="Which of the audit's probes: 1, 2, ...")]
GroupName = Annotated[
    str | None,
    Query(
        max_length=10_000,
        description="A group's name: its trade-off curve instead.",
        json_schema_extra=NO_NUL,
    ),
    Storable,
]
OF_AUDIT = declared_problems("audit_not_finished") | NOT_MODIFIED
"""What routes of an audit's results may answer beside them."""

OF_PROBE = declared_problems("audit_not_finished", "audit_probe_not_found") | NOT_MODIFIED
"""The same for routes of one of its probes."""


@router.get("/{audit_id}/summary", operation_id="get_audit_summary", responses=OF_AUDIT)
def summary(audit_id: PathId, principal: Reader, session: SessionDep, conditions: ConditionsDep) -> Summary:
    """The answer in numbers, of an audit that has succeeded."""
    return Summary.model_validate(_find(session, principal, audit_id, conditions).summary)


@router.get("/{audit_id}/histogram", operation_id="get_audit_histogram", responses=OF_PROBE)
def histogram(
    audit_id: PathId, principal: Reader, session: SessionDep, conditions: ConditionsDep, probe: ProbeNumber = 1
) -> AuditHistogram:
    """A probe's scores: how many samples lie in each bin of z, the null and the threshold."""
    audit = _find(session, principal, audit_id, conditions, probe)
    found = find_probe(session, audit, probe)
    return AuditHistogram(
        audit_id=audit.id,
        probe=probe,
        name=found.name,
        rows_scored=find_facts(session, audit)["rows_scored"],
        flagged=found.flagged,
        threshold_z=found.threshold_z,
        null=found.null,
        histogram=found.histogram,
    )


@router.get(
    "/{audit_id}/curve",
    operation_id="get_audit_curve",
    responses=declared_problems("audit_not_finished", "audit_probe_not_found", "audit_group_not_found") | NOT_MODIFIED,
)
def curve(
    audit_id: PathId,
    principal: Reader,
    session: SessionDep,
    conditions: ConditionsDep,
    probe: ProbeNumber = 1,
    group: GroupName = None,
) -> SensitivityCurve | TradeoffCurve:
    """What the audit would have found for a probe, by the number of hidden tracers and by mu.

    With `group` the trade-off curve of that group, which is toward the first probe whatever `probe` says.
    """
    audit = _find(session, principal, audit_id, conditions, probe, group)
    if group is not None:
        return TradeoffCurve(audit_id=audit.id, group=group, curve=find_group_curve(session, audit, group))
    found = find_probe(session, audit, probe)
    return SensitivityCurve(audit_id=audit.id, probe=probe, name=found.name, sensitivity=found.sensitivity)


@router.get("/{audit_id}/calibration", operation_id="get_audit_calibration", responses=OF_PROBE)
def calibration(
    audit_id: PathId, principal: Reader, session: SessionDep, conditions: ConditionsDep, probe: ProbeNumber = 1
) -> AuditCalibration:
    """How well a probe's null fits: tail counts and QQ points of the samples, and of placebo directions."""
    audit = _find(session, principal, audit_id, conditions, probe)
    found = find_probe(session, audit, probe)
    return AuditCalibration(
        audit_id=audit.id,
        probe=probe,
        name=found.name,
        null=found.null,
        calibration=found.calibration,
        placebo=found.placebo,
    )


@router.get("/{audit_id}/groups", operation_id="list_audit_groups", responses=OF_AUDIT)
def groups(
    audit_id: PathId, principal: Reader, session: SessionDep, conditions: ConditionsDep, page: PageDep
) -> Page[AuditGroup]:
    """The groups by name, without their curves; none where the audit was asked for without a `group_column`."""
    audit = _find(session, principal, audit_id, conditions, page.after, page.limit)
    found = list_groups(session, audit, after=page.after, limit=page.limit + 1)
    return page.page(found, key=group_cursor, render=lambda group: group)


@router.get("/{audit_id}/metrics", operation_id="get_audit_metrics", responses=OF_PROBE)
def metrics(
    audit_id: PathId, principal: Reader, session: SessionDep, conditions: ConditionsDep, probe: ProbeNumber = 1
) -> AuditMetrics:
    """What training measured: losses, a probe's drift, time of each stage, tokens, speed, and the loss curve."""
    audit = _find(session, principal, audit_id, conditions, probe)
    found, facts = find_probe(session, audit, probe), find_facts(session, audit)
    seconds, seeds = facts["seconds"].get(Stage.TRAINING, 0.0), facts["seeds"]
    trained_on = facts.pop("rows_scored") * audit.training["epochs"] * len(seeds)
    return AuditMetrics(
        audit_id=audit.id,
        probe=probe,
        name=found.name,
        probe_loss_first=found.loss_first,
        probe_loss_last=found.loss_last,
        drift=found.drift,
        samples_per_second=trained_on / seconds if seconds > 0 else None,
        curve=metric_points(session, audit, seeds[0]),
        **facts,
    )


def _find(
    session: Session, principal: Principal, audit_id: str, conditions: Conditions, *asked: int | str | None
) -> Audit:
    """The finished audit, its summary still in the database.

    Raises NotModified for who knows what was asked for: a published result never changes.
    """
    audit = find_succeeded(session, principal, audit_id, options=[defer(Audit.summary)])
    conditions.serve(strong_tag(audit.id, audit.published_attempt, *asked))
    return audit
