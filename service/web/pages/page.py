"""What the modules of pages share: who may see them, and how a page, its list and its pictures are answered."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import Depends, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from service.audits.queries import find_audit
from service.audits.schemas import AuditSummary
from service.contract.results import ScoreRow, Summary
from service.findings.schemas import Finding
from service.http.auth.authentication import RequireScope
from service.http.pagination import Page
from service.http.problems.problem import Problem
from service.http.sub_path import address
from service.principal import Principal
from service.text import visible_text
from service.web import charts, queries
from service.web.templating import render, render_text

Reader = Annotated[Principal, Depends(RequireScope())]
FindingsReader = Annotated[Principal, Depends(RequireScope("findings:read"))]


Section = Literal[
    "audits", "datasets", "probes", "models", "workers", "sessions", "people", "keys", "account", "audit-log", "usage"
]


def answer_page(
    template: str, section: Section, principal: Principal, *, status: int = 200, **context: Any
) -> Response:
    """Render a page for somebody who is signed in.

    Args:
        template: Its name. It may ask `may(scope)`, to show only what the reader is allowed to do, and has the reader's
            key in `me`.
        section: The part of the navigation that it belongs to.
        principal: Who reads it.
        status: The answer's status.
        context: What else the template names.
    """
    return render(template, _signed_in(section, principal, context), status=status)


def page_text(template: str, section: Section, principal: Principal, **context: Any) -> str:
    """Render a page like `answer_page`, for what is no answer of its own.

    Args:
        template: Its name.
        section: The part of the navigation that it belongs to.
        principal: Who reads it.
        context: What else the template names.
    """
    return render_text(template, _signed_in(section, principal, context))


def _signed_in(section: Section, principal: Principal, context: dict[str, Any]) -> dict[str, Any]:
    return {
        "signed_in": True,
        "section": section,
        "may": principal.may,
        "me": principal.actor_id,
        "person": principal.user_name,
        "workspace": principal.workspace_name,
        **context,
    }


def answer_list(
    request: Request,
    section: Literal["datasets", "probes", "models", "people", "keys", "sessions", "usage"],
    principal: Principal,
    listed: Page[Any],
    **context: Any,
) -> Response:
    """Render a page of a list.

    Args:
        request: Says whether it is the first page.
        section: The part of the navigation; it names the template too.
        principal: Who reads it.
        listed: What the page lists.
        context: What else the template names.
    """
    return answer_page(
        f"{section}.html",
        section,
        principal,
        listed=listed.data,
        next_after=listed.next_after,
        first="after" not in request.query_params,
        here=address(f"/{section}"),
        query=asked_query(request),
        **context,
    )


def query_string(fields: Mapping[str, str | None]) -> str:
    """Write a query from its `?` on, of the fields that have a text; nothing where none has."""
    query = urlencode({name: value for name, value in fields.items() if value})
    return f"?{query}" if query else ""


def asked_query(request: Request) -> str:
    """Return the query that was asked for, from its `?` on, for the same list as JSON."""
    return f"?{request.url.query}" if request.url.query else ""


def requested_address(request: Request) -> str:
    """Return the path and query that were asked for, at which a live page asks again."""
    return f"{request.url.path}{asked_query(request)}"


def answer_picture(svg: str) -> Response:
    """Send a chart for the browser to keep a while."""
    return Response(svg, media_type="image/svg+xml", headers={"Cache-Control": "private, max-age=300"})


def find_summary(session: Session, principal: Principal, audit_id: str) -> Summary:
    """Read the summary of an audit that has one.

    Args:
        session: An open transaction.
        principal: Who is asking.
        audit_id: Which audit.

    Raises:
        NotFoundError: `audit_not_found`.
        Problem: 404 `not_found`: it has none.
    """
    audit = find_audit(session, principal, audit_id)[0]
    if audit.summary is None:
        raise nothing_to_draw()
    return Summary.model_validate(audit.summary)


def nothing_to_draw() -> Problem:
    """Return the problem of a chart that the audit's result does not have."""
    return Problem(404, "not_found", "This audit has no result to draw.")


def names_of(session: Session, principal: Principal, audit: AuditSummary) -> dict[str, str]:
    """Read the names of the audit's dataset, probes and model.

    Args:
        session: An open transaction.
        principal: Who is asking.
        audit: The audit.

    Returns:
        The names by id.
    """
    return queries.names(session, principal, [audit.dataset_id, *audit.probe_ids, audit.model_id])


def table_row(finding: Finding) -> dict[str, Any]:
    """Show a finding as a row of a table: the beginnings of its question and its answer in place of its text."""
    return {
        **finding.model_dump(exclude={"messages", "extra"}),
        "excerpt": visible_text.first_line(finding.messages),
        "answer": visible_text.last_answer(finding.messages),
    }


def score_of(fields: dict[str, Any]) -> ScoreRow:
    """Make the score that a finding's fields hold."""
    return ScoreRow(**{name: fields[name] for name in ScoreRow.model_fields})


def extent_of(rows: list[dict[str, Any]]) -> float:
    """Find the scale that the intervals of a table's rows share."""
    return charts.interval_extent([score_of(row) for row in rows])
