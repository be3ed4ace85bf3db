"""Routes that answer with charts of an audit as SVG, which pages embed and refresh."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, Query, Response
from sqlalchemy.orm import Session

from service.audits.queries import find_audit, find_published
from service.contract.results import GroupCurve, ProbeSummary, Sensitivity
from service.contract.spec import MAX_PROBES
from service.findings.queries import find_finding
from service.findings.schemas import Observation
from service.http.dependencies import TransactionsDep
from service.http.fields import PathId, Row
from service.http.transactions import Transactions
from service.principal import Principal
from service.web import charts, drawing, evidence_charts, queries
from service.web.page_route import PageRoute
from service.web.pages.findings import observations_shown
from service.web.pages.page import FindingsReader, Reader, answer_picture, find_summary, nothing_to_draw
from service.web.painting import paint_once

router = APIRouter(route_class=PageRoute)

Scheme = Annotated[drawing.Scheme, Query()]
Width = Annotated[drawing.Width, Query()]
ProbeNumber = Annotated[int, Query(ge=1, le=MAX_PROBES)]

T = TypeVar("T")


@dataclass(frozen=True)
class ProbeChart:
    """A request for a chart of one of an audit's probes."""

    audit_id: str
    principal: Principal
    transactions: Transactions
    probe: int
    scheme: drawing.Scheme

    def read(self, session: Session) -> ProbeSummary:
        """Read what the summary says of the probe.

        Args:
            session: An open transaction.

        Raises:
            NotFoundError: `audit_not_found`.
            Problem: 404 `not_found`: the audit has no result, or fewer probes.
        """
        probes = find_summary(session, self.principal, self.audit_id).probes
        if self.probe > len(probes):
            raise nothing_to_draw()
        return probes[self.probe - 1]

    async def answer(
        self, name: str, find: Callable[[Session], T], draw: Callable[..., str], width: drawing.Width | None = None
    ) -> Response:
        """Answer with the chart.

        Args:
            name: Tells the probe's charts apart.
            find: Reads what is drawn.
            draw: Draws it, given what was found and the `scheme`; and the `width`, if there is one.
            width: How wide it is shown, for charts of which there are two.
        """
        sized = {} if width is None else {"width": width}
        return await _picture(
            self.transactions,
            self.principal,
            self.audit_id,
            (name, self.probe, self.scheme, width),
            find,
            partial(draw, scheme=self.scheme, **sized),
        )


async def _probe_chart(
    audit_id: PathId,
    principal: Reader,
    transactions: TransactionsDep,
    probe: ProbeNumber = 1,
    scheme: Scheme = "light",
) -> ProbeChart:
    return ProbeChart(audit_id, principal, transactions, probe, scheme)


ProbeChartDep = Annotated[ProbeChart, Depends(_probe_chart)]


@router.get("/audits/{audit_id}/histogram.svg")
async def histogram(chart: ProbeChartDep, width: Width = "wide") -> Response:
    """Draw a probe's scores with the null and the threshold."""
    return await chart.answer("histogram", chart.read, charts.z_histogram_svg, width)


@router.get("/audits/{audit_id}/calibration.svg")
async def calibration(chart: ProbeChartDep) -> Response:
    """Draw how well a probe's null fits."""
    return await chart.answer("calibration", chart.read, evidence_charts.calibration_svg)


@router.get("/audits/{audit_id}/sensitivity.svg")
async def sensitivity(chart: ProbeChartDep) -> Response:
    """Draw what the audit would have found for a probe."""

    def find(session: Session) -> Sensitivity:
        measured = chart.read(session).sensitivity
        if measured is None:
            raise nothing_to_draw()
        return measured

    return await chart.answer("sensitivity", find, evidence_charts.sensitivity_svg)


@router.get("/audits/{audit_id}/drift.svg")
async def drift(chart: ProbeChartDep) -> Response:
    """Draw a probe's loss as predicted and as it was."""
    return await chart.answer("drift", lambda session: chart.read(session).drift, evidence_charts.drift_svg)


@router.get("/audits/{audit_id}/group.svg")
async def group_curve(
    audit_id: PathId,
    principal: Reader,
    transactions: TransactionsDep,
    group: Annotated[str, Query(max_length=10_000)],
    scheme: Scheme = "light",
) -> Response:
    """Draw a group's trade-off curve."""

    def find(session: Session) -> GroupCurve:
        found = find_summary(session, principal, audit_id).groups.get(group)
        if found is None or found.curve is None:
            raise nothing_to_draw()
        return found.curve

    draw = partial(evidence_charts.tradeoff_svg, scheme=scheme)
    return await _picture(transactions, principal, audit_id, ("group", group, scheme), find, draw)


@router.get("/audits/{audit_id}/loss.svg")
async def loss(
    audit_id: PathId,
    principal: Reader,
    transactions: TransactionsDep,
    until: Annotated[int, Query(ge=1, lt=2**31)],
    seed: Annotated[int, Query(ge=0, lt=2**31)],
    scheme: Scheme = "light",
    width: Width = "wide",
) -> Response:
    """Draw the losses of that seed's run up to and with the optimiser step `until`."""

    def find(session: Session) -> list[charts.LossPoint]:
        return queries.loss_points(session, find_audit(session, principal, audit_id)[0], seed, until)

    draw = partial(charts.loss_svg, scheme=scheme, width=width)
    return await _picture(transactions, principal, audit_id, ("loss", until, seed, scheme, width), find, draw)


@router.get("/audits/{audit_id}/findings/{row}/trace.svg")
async def trace(
    audit_id: PathId,
    row: Row,
    principal: FindingsReader,
    transactions: TransactionsDep,
    scheme: Scheme = "light",
) -> Response:
    """Draw the sample's observations toward the probe that speaks most for it."""

    def find(session: Session) -> list[Observation]:
        finding = find_finding(session, find_published(session, principal, audit_id), row)
        observed = observations_shown(finding.detail)
        if not observed:
            raise nothing_to_draw()
        return observed

    draw = partial(evidence_charts.trace_svg, scheme=scheme)
    return await _picture(transactions, principal, audit_id, ("trace", row, scheme), find, draw)


async def _picture(
    transactions: Transactions,
    principal: Principal,
    audit_id: str,
    name: tuple[Hashable, ...],
    find: Callable[[Session], T],
    draw: Callable[[T], str],
) -> Response:
    def key(session: Session) -> Hashable | None:
        """Return None while the audit is not published: what is there may still change."""
        attempt = find_audit(session, principal, audit_id)[0].published_attempt
        return None if attempt is None else (audit_id, attempt, *name)

    return answer_picture(await paint_once(transactions, key=key, read=find, draw=draw))
