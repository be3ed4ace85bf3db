"""The dashboard: pages for people who are signed in, drawn from the same queries as the API."""

from collections.abc import Callable
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, BackgroundTasks, Depends, Query, Request, Response
from starlette.responses import FileResponse, RedirectResponse

from service.audits.queries import find_audit, find_published, list_audits, render_audit, render_audit_summary
from service.audits.routes import cancel as cancel_audit
from service.audits.routes import delete as delete_audit
from service.audits.routes import retry as retry_audit
from service.audits.schemas import AuditSummary
from service.contract.protocol import Stage
from service.contract.results import BASELINE_COLUMNS, ProbeSummary, ScoreRow, Side, Summary
from service.contract.spec import MAX_PROBES
from service.datasets.queries import list_datasets
from service.datasets.schemas import render_dataset
from service.findings.filters import Filter
from service.findings.queries import page_texts, render_finding, top_scores
from service.findings.routes import read_finding, read_page
from service.findings.schemas import Finding, FindingDetail, Observation
from service.http.auth.authentication import RequireScope
from service.http.auth.principal import Principal
from service.http.dependencies import RowsDep, SessionDep, SettingsDep
from service.http.fields import PathId, Row
from service.http.pagination import PageDep
from service.http.problems.problem import Problem
from service.lifecycle.transitions import TERMINAL, State
from service.probes.routes import list_all as list_probes
from service.store.tables import Audit
from service.text import visible_text, wording
from service.web import charts, evidence_charts, queries
from service.web.drawing import Scheme as DrawingScheme
from service.web.drawing import Width as DrawingWidth
from service.web.page_route import PageRoute
from service.web.templating import STATIC, asset_hash, render

router = APIRouter(include_in_schema=False)
pages = APIRouter(route_class=PageRoute)

Reader = Annotated[Principal, Depends(RequireScope())]
Writer = Annotated[Principal, Depends(RequireScope("audits:write"))]
FindingsReader = Annotated[Principal, Depends(RequireScope("findings:read"))]
Scheme = Annotated[DrawingScheme, Query()]
Width = Annotated[DrawingWidth, Query()]
ProbeNumber = Annotated[int, Query(ge=1, le=MAX_PROBES)]

TOP_FINDINGS = 10
GROUPS_SHOWN = 100
GROUP_CURVES = 12
CURVE_EVERY = 10
"""A growing loss curve is drawn anew after this many optimiser steps."""

STATIC_FILES: dict[str, str] = {
    "app.js": "text/javascript; charset=utf-8",
    "favicon.svg": "image/svg+xml",
    "style.css": "text/css; charset=utf-8",
}


@router.get("/static/{name}")
def static_file(name: str, v: str = "") -> Response:
    """A file of the dashboard; public, since it says nothing of anybody."""
    if name not in STATIC_FILES:
        raise Problem(404, "not_found", "There is no such file.")
    lasting = v == asset_hash(name)
    headers = {"Cache-Control": "public, max-age=31536000, immutable" if lasting else "no-cache"}
    return FileResponse(STATIC / name, media_type=STATIC_FILES[name], headers=headers)


@router.get("/favicon.ico")
def favicon() -> Response:
    """For documents that name no icon of their own, such as JSON seen in a browser."""
    return static_file("favicon.svg")


@pages.get("/")
def root(_: Reader) -> Response:
    """The audits are where one starts."""
    return RedirectResponse("/audits", 303)


@pages.get("/audits")
def audit_list(request: Request, principal: Reader, session: SessionDep, page: PageDep) -> Response:
    """All audits, newest first."""
    found = list_audits(session, principal, status=None, after=page.after, limit=page.limit + 1)
    listed = page.page(found, key=lambda row: row[0].id, render=render_audit_summary)
    identities = [i for audit in listed.data for i in (audit.dataset_id, audit.probe_ids[0], audit.model_id)]
    first = "after" not in request.query_params
    return _page(
        "audits.html",
        "audits",
        audits=listed.data,
        names=queries.names(session, principal, identities),
        flagged=queries.flagged_counts(session, principal, [audit.id for audit in listed.data]),
        next_after=listed.next_after,
        first=first,
        # An empty first page waits for the first audit.
        live=any(audit.status not in TERMINAL for audit in listed.data) or (first and not listed.data),
        here=_address(request),
    )


@pages.get("/audits/{audit_id}")
def audit_page(request: Request, audit_id: PathId, principal: Reader, session: SessionDep) -> Response:
    """One audit: how far it is, why it failed, or what it found."""
    found = find_audit(session, principal, audit_id)
    audit = render_audit(found)
    findings: list[dict[str, Any]] = []
    if audit.summary is not None and principal.may("findings:read"):
        published = find_published(session, principal, audit_id)
        scores = top_scores(session, published, TOP_FINDINGS)
        _, texts = page_texts(session, published, [score.row for score in scores])
        findings = [_listed(render_finding(score, texts.get(score.row), None)) for score in scores]
    live = audit.status not in TERMINAL
    stage = wording.shown_stage(audit.stage, None if audit.step is None else audit.step.key)
    groups = list(audit.summary.groups.items()) if audit.summary is not None else []
    return _page(
        "audit.html",
        "audits",
        audit=audit,
        names=_names(session, principal, audit),
        summary=audit.summary,
        groups=groups[:GROUPS_SHOWN],
        curves=[(name, group) for name, group in groups if group.curve is not None][:GROUP_CURVES],
        group_link=lambda name: f"/audits/{audit.id}/findings?{urlencode({'group': name})}",
        group_query=lambda name: "&" + urlencode({"group": name}),
        training=wording.settings(audit.training),
        findings=findings,
        extent=_extent(findings),
        events=queries.recent_events(session, found[0]),
        curve=_curve(session, found[0], live),
        stage=stage,
        stage_no=-1 if stage is None else list(Stage).index(stage),
        live=live,
        may_write=principal.may("audits:write"),
        may_read_findings=principal.may("findings:read"),
        announcement=wording.announcement(audit.status, stage),
        here=_address(request),
    )


@pages.post("/audits/{audit_id}/cancel")
def cancel(audit_id: PathId, principal: Writer, session: SessionDep, settings: SettingsDep) -> Response:
    """The button that stops an audit."""
    cancel_audit(audit_id, principal, session, settings)
    return RedirectResponse(f"/audits/{audit_id}", 303)


@pages.post("/audits/{audit_id}/retry")
def retry(
    audit_id: PathId, principal: Writer, session: SessionDep, settings: SettingsDep, background: BackgroundTasks
) -> Response:
    """The button that tries a failed or cancelled audit again."""
    retry_audit(audit_id, principal, session, settings, background)
    return RedirectResponse(f"/audits/{audit_id}", 303)


@pages.post("/audits/{audit_id}/delete")
def delete(audit_id: PathId, principal: Writer, session: SessionDep) -> Response:
    """The button that deletes an audit that has ended."""
    delete_audit(audit_id, principal, session)
    return RedirectResponse("/audits", 303)


@pages.get("/audits/{audit_id}/histogram.svg")
def histogram(
    audit_id: PathId,
    principal: Reader,
    session: SessionDep,
    probe: ProbeNumber = 1,
    scheme: Scheme = "light",
    width: Width = "wide",
) -> Response:
    """A probe's scores with the null and the threshold."""
    return _svg(charts.z_histogram_svg(_probe(session, principal, audit_id, probe), scheme=scheme, width=width))


@pages.get("/audits/{audit_id}/calibration.svg")
def calibration(
    audit_id: PathId, principal: Reader, session: SessionDep, probe: ProbeNumber = 1, scheme: Scheme = "light"
) -> Response:
    """How well a probe's null fits."""
    return _svg(evidence_charts.calibration_svg(_probe(session, principal, audit_id, probe), scheme=scheme))


@pages.get("/audits/{audit_id}/sensitivity.svg")
def sensitivity(
    audit_id: PathId, principal: Reader, session: SessionDep, probe: ProbeNumber = 1, scheme: Scheme = "light"
) -> Response:
    """What the audit would have found for a probe."""
    measured = _probe(session, principal, audit_id, probe).sensitivity
    if measured is None:
        raise _nothing_to_draw()
    return _svg(evidence_charts.sensitivity_svg(measured, scheme=scheme))


@pages.get("/audits/{audit_id}/drift.svg")
def drift(
    audit_id: PathId, principal: Reader, session: SessionDep, probe: ProbeNumber = 1, scheme: Scheme = "light"
) -> Response:
    """A probe's loss as predicted and as it was."""
    return _svg(evidence_charts.drift_svg(_probe(session, principal, audit_id, probe).drift, scheme=scheme))


@pages.get("/audits/{audit_id}/group.svg")
def group_curve(
    audit_id: PathId,
    principal: Reader,
    session: SessionDep,
    group: Annotated[str, Query(max_length=10_000)],
    scheme: Scheme = "light",
) -> Response:
    """A group's trade-off curve."""
    found = _summary(session, principal, audit_id).groups.get(group)
    if found is None or found.curve is None:
        raise _nothing_to_draw()
    return _svg(evidence_charts.tradeoff_svg(found.curve, scheme=scheme))


@pages.get("/audits/{audit_id}/loss.svg")
def loss(
    audit_id: PathId,
    principal: Reader,
    session: SessionDep,
    until: Annotated[int, Query(ge=1, lt=2**31)],
    seed: Annotated[int, Query(ge=0, lt=2**31)],
    scheme: Scheme = "light",
    width: Width = "wide",
) -> Response:
    """The losses of that seed's run up to and with the optimiser step `until`."""
    audit = find_audit(session, principal, audit_id)[0]
    return _svg(charts.loss_svg(queries.loss_points(session, audit, seed, until), scheme=scheme, width=width))


@pages.get("/audits/{audit_id}/findings")
def finding_list(
    request: Request,
    audit_id: PathId,
    principal: FindingsReader,
    session: SessionDep,
    page: PageDep,
    probe: Annotated[int, Query(ge=0, le=MAX_PROBES)] = 0,
    flagged: bool | None = None,
    group: Annotated[str | None, Query(max_length=10_000)] = None,
    cluster: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    side: Side | None = None,
) -> Response:
    """Every sample by rank."""
    found = find_audit(session, principal, audit_id)
    audit = render_audit(found)
    rows, next_after = [], None
    if audit.status == State.SUCCEEDED:
        wanted = Filter(probe=probe, flagged=flagged, group=group, cluster=cluster, side=side)
        listed = read_page(session, principal, audit_id, page, wanted)
        rows, next_after = [_listed(finding) for finding in listed.data], listed.next_after
    chosen = {
        "probe": str(probe) if probe else None,
        "flagged": None if flagged is None else str(flagged).lower(),
        "group": group,
        "cluster": None if cluster is None else str(cluster),
        "side": side,
    }
    return _page(
        "findings.html",
        "audits",
        audit=audit,
        names=_names(session, principal, audit),
        summary=audit.summary,
        rows=rows,
        extent=_extent(rows),
        probe=probe,
        flagged=flagged,
        group=group,
        cluster=cluster,
        side=side,
        first="after" not in request.query_params,
        next_after=next_after,
        base=f"/audits/{audit.id}/findings",
        link=_linker(f"/audits/{audit.id}/findings", chosen),
    )


@pages.get("/audits/{audit_id}/findings/{row}")
def finding_page(audit_id: PathId, row: Row, principal: FindingsReader, session: SessionDep, rows: RowsDep) -> Response:
    """One sample: its text, and its numbers in words."""
    finding = read_finding(session, rows, principal, audit_id, row)
    found = find_audit(session, principal, audit_id)
    audit, summary = render_audit(found), _summary(session, principal, audit_id)
    score = _score(finding.model_dump())
    previous, following = queries.neighbours(session, found[0], finding.rank)
    extra = [(key, visible_text.shown_value(value)) for key, value in (finding.extra or {}).items()]
    shown = [message["content"] for message in finding.messages or []] + [part for pair in extra for part in pair]
    base = f"/audits/{audit.id}/findings"
    return _page(
        "finding.html",
        "audits",
        audit=audit,
        names=_names(session, principal, audit),
        summary=summary,
        finding=finding,
        exact=score.model_dump(include=EXACT),
        words=wording.finding_words(score, summary),
        extent=charts.interval_extent([score]),
        observed=_observed(finding),
        baselines=[(name, finding.baselines.get(name)) for name in BASELINE_COLUMNS] if finding.baselines else [],
        extra=extra,
        hidden=sum(map(visible_text.count_hidden, shown)),
        max_shown=visible_text.MAX_SHOWN,
        previous=previous,
        following=following,
        base=base,
        cluster_link=f"{base}?{urlencode({'cluster': finding.cluster})}",
    )


EXACT = {"rank", "n", "mu", "mu_low", "mu_high", "mu_composed", "z", "z_reference", "p", "q"}


@pages.get("/audits/{audit_id}/findings/{row}/trace.svg")
def trace(
    audit_id: PathId,
    row: Row,
    principal: FindingsReader,
    session: SessionDep,
    rows: RowsDep,
    scheme: Scheme = "light",
) -> Response:
    """The sample's observations toward the probe that speaks most for it."""
    finding = read_finding(session, rows, principal, audit_id, row)
    observed = _observed(finding)
    if not observed:
        raise _nothing_to_draw()
    return _svg(evidence_charts.trace_svg(observed, scheme=scheme))


@pages.get("/datasets")
def dataset_list(request: Request, principal: Reader, session: SessionDep, page: PageDep) -> Response:
    """All datasets, newest first."""
    found = list_datasets(session, principal, after=page.after, limit=page.limit + 1)
    listed = page.page(found, key=lambda dataset: dataset.id, render=render_dataset)
    return _list_page(request, "datasets.html", "datasets", listed)


@pages.get("/probes")
def probe_list(request: Request, principal: Reader, session: SessionDep, page: PageDep) -> Response:
    """All probes, newest first."""
    return _list_page(request, "probes.html", "probes", list_probes(principal, session, page))


# ---------------------------------------------------------------- what they share


def _page(template: str, section: Literal["audits", "datasets", "probes"], **context: Any) -> Response:
    return render(template, {"signed_in": True, "section": section, **context})


def _list_page(request: Request, template: str, section: Literal["datasets", "probes"], listed: Any) -> Response:
    first = "after" not in request.query_params
    return _page(template, section, listed=listed.data, next_after=listed.next_after, first=first, here=f"/{section}")


def _address(request: Request) -> str:
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path


def _linker(base: str, chosen: dict[str, str | None]) -> Callable[..., str]:
    """Makes addresses of the list with what is chosen, but for the changes; None leaves a choice out."""

    def link(**changes: str | None) -> str:
        query = urlencode({name: value for name, value in (chosen | changes).items() if value is not None})
        return f"{base}?{query}" if query else base

    return link


def _summary(session: SessionDep, principal: Principal, audit_id: str) -> Summary:
    audit = find_audit(session, principal, audit_id)[0]
    if audit.summary is None:
        raise _nothing_to_draw()
    return Summary.model_validate(audit.summary)


def _probe(session: SessionDep, principal: Principal, audit_id: str, number: int) -> ProbeSummary:
    probes = _summary(session, principal, audit_id).probes
    if number > len(probes):
        raise _nothing_to_draw()
    return probes[number - 1]


def _nothing_to_draw() -> Problem:
    return Problem(404, "not_found", "This audit has no result to draw.")


def _names(session: SessionDep, principal: Principal, audit: AuditSummary) -> dict[str, str]:
    return queries.names(session, principal, [audit.dataset_id, *audit.probe_ids, audit.model_id])


def _curve(session: SessionDep, audit: Audit, live: bool) -> dict[str, Any] | None:
    """Up to which step the loss curve is drawn, and what it shows in words; None before there is a line to draw."""
    seed = queries.curve_seed(session, audit, live)
    last = None if seed is None else queries.last_metric_step(session, audit, seed)
    if last is None or last < 2:
        return None
    until = max(2, last - last % CURVE_EVERY) if live else last
    words = f"Curves of the training loss and the probe loss over {until} optimiser steps."
    return {"until": until, "seed": seed, "words": words}


def _listed(finding: Finding) -> dict[str, Any]:
    """A finding as a table row: its first line in place of its text."""
    return {
        **finding.model_dump(exclude={"messages", "extra", "verdict"}),
        "excerpt": visible_text.first_line(finding.messages),
    }


def _observed(finding: FindingDetail) -> list[Observation]:
    """The observations toward the probe that speaks most for the sample."""
    trace = finding.trace or []
    return [one for one in trace if one.probe_no == finding.strongest_probe and one.mu is not None]


def _score(fields: dict[str, Any]) -> ScoreRow:
    return ScoreRow(**{name: fields[name] for name in ScoreRow.model_fields})


def _extent(rows: list[dict[str, Any]]) -> float:
    return charts.interval_extent([_score(row) for row in rows])


def _svg(svg: str) -> Response:
    return Response(svg, media_type="image/svg+xml", headers={"Cache-Control": "private, max-age=300"})


router.include_router(pages)
