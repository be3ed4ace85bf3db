"""Charts of audits as pictures of their own, which pages and their refreshes ask for."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from service.audits.queries import find_audit, find_published
from service.contract.results import ProbeSummary
from service.contract.spec import MAX_PROBES
from service.findings.queries import read_finding
from service.http.dependencies import RowsDep, SessionDep
from service.http.fields import PathId, Row
from service.principal import Principal
from service.web import charts, drawing, evidence_charts, queries
from service.web.page_route import PageRoute
from service.web.pages.findings import observations_shown
from service.web.pages.page import FindingsReader, Reader, answer_picture, find_summary, nothing_to_draw

router = APIRouter(route_class=PageRoute)

Scheme = Annotated[drawing.Scheme, Query()]
Width = Annotated[drawing.Width, Query()]
ProbeNumber = Annotated[int, Query(ge=1, le=MAX_PROBES)]


@router.get("/audits/{audit_id}/histogram.svg")
def histogram(
    audit_id: PathId,
    principal: Reader,
    session: SessionDep,
    probe: ProbeNumber = 1,
    scheme: Scheme = "light",
    width: Width = "wide",
) -> Response:
    """Draw a probe's scores with the null and the threshold."""
    found = _find_probe(session, principal, audit_id, probe)
    return answer_picture(charts.z_histogram_svg(found, scheme=scheme, width=width))


@router.get("/audits/{audit_id}/calibration.svg")
def calibration(
    audit_id: PathId, principal: Reader, session: SessionDep, probe: ProbeNumber = 1, scheme: Scheme = "light"
) -> Response:
    """Draw how well a probe's null fits."""
    found = _find_probe(session, principal, audit_id, probe)
    return answer_picture(evidence_charts.calibration_svg(found, scheme=scheme))


@router.get("/audits/{audit_id}/sensitivity.svg")
def sensitivity(
    audit_id: PathId, principal: Reader, session: SessionDep, probe: ProbeNumber = 1, scheme: Scheme = "light"
) -> Response:
    """Draw what the audit would have found for a probe."""
    measured = _find_probe(session, principal, audit_id, probe).sensitivity
    if measured is None:
        raise nothing_to_draw()
    return answer_picture(evidence_charts.sensitivity_svg(measured, scheme=scheme))


@router.get("/audits/{audit_id}/drift.svg")
def drift(
    audit_id: PathId, principal: Reader, session: SessionDep, probe: ProbeNumber = 1, scheme: Scheme = "light"
) -> Response:
    """Draw a probe's loss as predicted and as it was."""
    found = _find_probe(session, principal, audit_id, probe)
    return answer_picture(evidence_charts.drift_svg(found.drift, scheme=scheme))


@router.get("/audits/{audit_id}/group.svg")
def group_curve(
    audit_id: PathId,
    principal: Reader,
    session: SessionDep,
    group: Annotated[str, Query(max_length=10_000)],
    scheme: Scheme = "light",
) -> Response:
    """Draw a group's trade-off curve."""
    found = find_summary(session, principal, audit_id).groups.get(group)
    if found is None or found.curve is None:
        raise nothing_to_draw()
    return answer_picture(evidence_charts.tradeoff_svg(found.curve, scheme=scheme))


@router.get("/audits/{audit_id}/loss.svg")
def loss(
    audit_id: PathId,
    principal: Reader,
    session: SessionDep,
    until: Annotated[int, Query(ge=1, lt=2**31)],
    seed: Annotated[int, Query(ge=0, lt=2**31)],
    scheme: Scheme = "light",
    width: Width = "wide",
) -> Response:
    """Draw the losses of that seed's run up to and with the optimiser step `until`."""
    audit = find_audit(session, principal, audit_id)[0]
    points = queries.loss_points(session, audit, seed, until)
    return answer_picture(charts.loss_svg(points, scheme=scheme, width=width))


@router.get("/audits/{audit_id}/findings/{row}/trace.svg")
def trace(
    audit_id: PathId,
    row: Row,
    principal: FindingsReader,
    session: SessionDep,
    rows: RowsDep,
    scheme: Scheme = "light",
) -> Response:
    """Draw the sample's observations toward the probe that speaks most for it."""
    finding = read_finding(session, rows, find_published(session, principal, audit_id), row)
    observed = observations_shown(finding)
    if not observed:
        raise nothing_to_draw()
    return answer_picture(evidence_charts.trace_svg(observed, scheme=scheme))


def _find_probe(session: Session, principal: Principal, audit_id: str, number: int) -> ProbeSummary:
    probes = find_summary(session, principal, audit_id).probes
    if number > len(probes):
        raise nothing_to_draw()
    return probes[number - 1]
