"""Pages of an audit's findings: the list of samples, and each sample."""

from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from service.audits.queries import find_audit, find_published, render_audit
from service.contract.results import BASELINE_COLUMNS, Side
from service.contract.spec import MAX_PROBES
from service.findings.filters import Filter
from service.findings.queries import read_finding, read_page
from service.findings.schemas import FindingDetail, Observation
from service.http.dependencies import RowsDep, SessionDep
from service.http.fields import PathId, Row
from service.http.pagination import PageDep
from service.http.sub_path import address
from service.lifecycle.transitions import State
from service.text import visible_text, wording
from service.web import charts, queries
from service.web.page_route import PageRoute
from service.web.pages.page import (
    FindingsReader,
    answer_page,
    extent_of,
    find_summary,
    names_of,
    score_of,
    table_row,
)

router = APIRouter(route_class=PageRoute)

EXACT = {
    "rank", "n", "tokens_left_out", "mu", "mu_low", "mu_high", "mu_composed", "z", "z_reference", "z_gradient",
    "z_representation", "probability_unwanted", "probability_fair", "p", "q",
}  # fmt: skip
"""Numbers that a sample's page shows with all their digits too."""


@router.get("/audits/{audit_id}/findings")
def finding_list(
    request: Request,
    audit_id: PathId,
    principal: FindingsReader,
    session: SessionDep,
    page: PageDep,
    probe: Annotated[int, Query(ge=0, le=MAX_PROBES)] = 0,
    flagged: bool | None = None,
    truncated: bool | None = None,
    group: Annotated[str | None, Query(max_length=10_000)] = None,
    cluster: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    side: Side | None = None,
) -> Response:
    """Show every sample by rank."""
    audit = render_audit(find_audit(session, principal, audit_id))
    rows, next_after = [], None
    if audit.status == State.SUCCEEDED:
        wanted = Filter(probe=probe, flagged=flagged, truncated=truncated, group=group, cluster=cluster, side=side)
        published = find_published(session, principal, audit_id)
        found = read_page(session, published, wanted, after=page.after, limit=page.limit)
        listed = page.page_up_to(found.findings, found.next_key)
        rows, next_after = [table_row(finding) for finding in listed.data], listed.next_after
    chosen = {
        "probe": str(probe) if probe else None,
        "flagged": None if flagged is None else str(flagged).lower(),
        "truncated": None if truncated is None else str(truncated).lower(),
        "group": group,
        "cluster": None if cluster is None else str(cluster),
        "side": side,
    }
    base = address(f"/audits/{audit.id}/findings")
    return answer_page(
        "findings.html",
        "audits",
        audit=audit,
        names=names_of(session, principal, audit),
        summary=audit.summary,
        rows=rows,
        extent=extent_of(rows),
        probe=probe,
        flagged=flagged,
        truncated=truncated,
        group=group,
        cluster=cluster,
        side=side,
        first="after" not in request.query_params,
        next_after=next_after,
        base=base,
        link=_linker(base, chosen),
    )


@router.get("/audits/{audit_id}/findings/{row}")
def finding_page(audit_id: PathId, row: Row, principal: FindingsReader, session: SessionDep, rows: RowsDep) -> Response:
    """Show one sample: its text, and its numbers in words."""
    finding = read_finding(session, rows, find_published(session, principal, audit_id), row)
    found = find_audit(session, principal, audit_id)
    audit, summary = render_audit(found), find_summary(session, principal, audit_id)
    score = score_of(finding.model_dump())
    previous, following = queries.neighbours(session, found[0], finding.rank)
    extra = [(key, visible_text.shown_value(value)) for key, value in (finding.extra or {}).items()]
    shown = [message["content"] for message in finding.messages or []] + [part for pair in extra for part in pair]
    base = address(f"/audits/{audit.id}/findings")
    return answer_page(
        "finding.html",
        "audits",
        audit=audit,
        names=names_of(session, principal, audit),
        summary=summary,
        finding=finding,
        exact=score.model_dump(include=EXACT),
        words=wording.finding_words(score, summary),
        extent=charts.interval_extent([score]),
        observed=observations_shown(finding),
        baselines=[(name, finding.baselines.get(name)) for name in BASELINE_COLUMNS] if finding.baselines else [],
        extra=extra,
        hidden=sum(map(visible_text.count_hidden, shown)),
        max_shown=visible_text.MAX_SHOWN,
        previous=previous,
        following=following,
        base=base,
        cluster_link=f"{base}?{urlencode({'cluster': finding.cluster})}",
    )


def observations_shown(finding: FindingDetail) -> list[Observation]:
    """Choose the observations toward the probe that speaks most for the sample."""
    trace = finding.trace or []
    return [one for one in trace if one.probe_no == finding.strongest_probe and one.mu is not None]


def _linker(base: str, chosen: dict[str, str | None]) -> Callable[..., str]:
    """Make addresses of the list with what is chosen, but for the changes; None leaves a choice out."""

    def link(**changes: str | None) -> str:
        query = urlencode({name: value for name, value in (chosen | changes).items() if value is not None})
        return f"{base}?{query}" if query else base

    return link
