"""Pages of audits: the list, one audit, and the buttons that cancel, retry and delete it."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, BackgroundTasks, Depends, Query, Request, Response
from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse

from service.audits import actions
from service.audits.queries import (
    AuditFilter,
    find_audit,
    find_published,
    list_audits,
    read_places,
    render_audit,
    render_audit_summary,
)
from service.audits.schemas import AuditsCancel
from service.contract.protocol import Stage
from service.findings.queries import page_texts, render_finding, top_scores
from service.http.auth.authentication import RequireScope
from service.http.dependencies import SessionDep, SettingsDep
from service.http.fields import PathId
from service.http.middleware.request_ids import request_id
from service.http.pagination import PageDep
from service.http.sub_path import address
from service.lifecycle.transitions import TERMINAL, State
from service.principal import Principal
from service.settings import Settings
from service.store.tables import Audit
from service.text import wording
from service.web import queries
from service.web.forms import FormDep
from service.web.page_route import PageRoute
from service.web.pages.page import (
    Reader,
    answer_page,
    asked_query,
    extent_of,
    names_of,
    query_string,
    requested_address,
    table_row,
)

router = APIRouter(route_class=PageRoute)

Writer = Annotated[Principal, Depends(RequireScope("audits:write"))]

TOP_FINDINGS = 10
"""Findings that an audit's page shows; the rest has a page of its own."""

GROUPS_SHOWN = 100
"""Groups that an audit's page lists."""

GROUP_CURVES = 12
"""Groups whose trade-off curves are drawn: more could not be told apart."""

CURVE_EVERY = 10
"""A growing loss curve is drawn anew after this many optimiser steps."""


@router.get("/")
def root(_: Reader) -> Response:
    """Go to the audits, where one starts."""
    return RedirectResponse("/audits", 303)


@router.get("/audits")
def audit_list(
    request: Request,
    principal: Reader,
    session: SessionDep,
    settings: SettingsDep,
    page: PageDep,
    status: State | None = None,
    search: Annotated[str, Query(max_length=200)] = "",
    mine: bool = False,
) -> Response:
    """Show all audits, or those that are looked for, the newest first."""
    wanted = AuditFilter(status=status, search=search.strip() or None, mine=mine)
    found = list_audits(session, principal, wanted, after=page.after, limit=page.limit + 1)
    places = read_places(session, found, settings)
    listed = page.page(
        found, key=lambda row: row[0].id, render=lambda row: render_audit_summary(row, places.get(row[0].id))
    )
    identities = [i for audit in listed.data for i in (audit.dataset_id, audit.probe_ids[0], audit.model_id)]
    first = "after" not in request.query_params
    asked: dict[str, str | None] = {"status": status, "search": wanted.search, "mine": "true" if mine else None}
    return answer_page(
        "audits.html",
        "audits",
        principal,
        audits=listed.data,
        names=queries.names(session, principal, identities),
        flagged=queries.flagged_counts(session, principal, [audit.id for audit in listed.data]),
        next_after=listed.next_after,
        first=first,
        chosen=status,
        states=[state.value for state in State],
        search=wanted.search or "",
        mine=mine,
        filtered=wanted != AuditFilter(),
        link=lambda **other: address("/audits") + query_string(asked | other),
        query=asked_query(request),
        # An empty first page waits for the first audit.
        live=any(audit.status not in TERMINAL for audit in listed.data) or (first and not listed.data),
        here=requested_address(request),
    )


@router.get("/audits/{audit_id}")
def audit_page(audit_id: PathId, principal: Reader, session: SessionDep, settings: SettingsDep) -> Response:
    """Show one audit: how far it is, why it failed, or what it found."""
    return answer_page("audit.html", "audits", principal, **audit_context(session, principal, audit_id, settings))


def audit_context(session: Session, principal: Principal, audit_id: str, settings: Settings) -> dict[str, Any]:
    """Read what the page of an audit names.

    Args:
        session: An open transaction.
        principal: Who reads it.
        audit_id: Which audit.
        settings: Say how its place in the queue is told.

    Raises:
        NotFoundError: `audit_not_found`.
    """
    found = find_audit(session, principal, audit_id)
    audit = render_audit(found, read_places(session, [found], settings).get(audit_id))
    findings: list[dict[str, Any]] = []
    if audit.summary is not None and principal.may("findings:read"):
        published = find_published(session, principal, audit_id)
        scores = top_scores(session, published, TOP_FINDINGS)
        _, texts = page_texts(session, published, [score.row for score in scores])
        findings = [table_row(render_finding(score, texts.get(score.row), None)) for score in scores]
    live = audit.status not in TERMINAL
    stage = wording.shown_stage(audit.stage, None if audit.step is None else audit.step.key)
    groups = list(audit.summary.groups.items()) if audit.summary is not None else []
    seed = queries.curve_seed(session, found[0], live)
    return {
        "audit": audit,
        "names": names_of(session, principal, audit),
        "actors": queries.actor_names(session, principal, [audit.user_id, audit.key_id]),
        "summary": audit.summary,
        "groups": groups[:GROUPS_SHOWN],
        "curves": [(name, group) for name, group in groups if group.curve is not None][:GROUP_CURVES],
        "group_link": lambda name: address(f"/audits/{audit.id}/findings?{urlencode({'group': name})}"),
        "group_query": lambda name: "&" + urlencode({"group": name}),
        "training": wording.settings(audit.training),
        "findings": findings,
        "extent": extent_of(findings),
        "events": queries.recent_events(session, found[0]),
        "curve": None if seed is None else _loss_curve(session, found[0], seed, live),
        "pace": queries.Pace() if seed is None else queries.training_pace(session, found[0], seed),
        "stage": stage,
        "stage_no": -1 if stage is None else list(Stage).index(stage),
        "live": live,
        "may_write": principal.may("audits:write"),
        "may_read_findings": principal.may("findings:read"),
        "announcement": wording.announcement(audit.status, stage),
        "here": address(f"/audits/{audit.id}"),
        "stream": address(f"/audits/{audit.id}/live"),
    }


@router.post("/audits/cancel")
def cancel_all(principal: Writer, session: SessionDep, settings: SettingsDep, form: FormDep) -> Response:
    """Stop all queued audits, or those of whoever asks, and go back to the list of them."""
    mine = form.get("mine") == "true"
    actions.cancel_all(session, principal, AuditsCancel(created_by=actions.ME if mine else None), settings=settings)
    return RedirectResponse(f"/audits?status=queued{'&mine=true' if mine else ''}", 303)


@router.post("/audits/{audit_id}/cancel")
def cancel(audit_id: PathId, principal: Writer, session: SessionDep, settings: SettingsDep) -> Response:
    """Stop an audit, and go back to its page."""
    actions.cancel(session, principal, audit_id, settings=settings)
    return RedirectResponse(f"/audits/{audit_id}", 303)


@router.post("/audits/{audit_id}/retry")
def retry(
    audit_id: PathId, principal: Writer, session: SessionDep, settings: SettingsDep, background: BackgroundTasks
) -> Response:
    """Queue a failed or cancelled audit again, and go back to its page."""
    actions.retry(
        session, principal, audit_id, settings=settings, request_id=request_id.get(), later=background.add_task
    )
    return RedirectResponse(f"/audits/{audit_id}", 303)


@router.post("/audits/{audit_id}/delete")
def delete(audit_id: PathId, principal: Writer, session: SessionDep) -> Response:
    """Delete an audit that has ended, and go to the list."""
    actions.delete(session, principal, audit_id)
    return RedirectResponse("/audits", 303)


def _loss_curve(session: Session, audit: Audit, seed: int, live: bool) -> dict[str, Any] | None:
    """Say up to which step the loss curve is drawn, and what it shows; None before there is a line to draw."""
    last = queries.last_metric_step(session, audit, seed)
    if last is None or last < 2:
        return None
    until = max(2, last - last % CURVE_EVERY) if live else last
    words = f"Curves of the training loss and the probe loss over {until} optimiser steps."
    return {"until": until, "seed": seed, "words": words}
