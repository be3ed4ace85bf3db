"""Forms of the review: a verdict on one finding, and the same verdict on all that a list holds."""

from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ValidationError

from service.audits.queries import find_audit, find_published, render_audit
from service.errors import ConflictError
from service.findings.filters import VerdictKind
from service.findings.list_address import read_list
from service.findings.schemas import BulkVerdicts, VerdictSet
from service.findings.verdicts import actions
from service.findings.verdicts.queries import list_bulks
from service.http.auth.authentication import RequireScope
from service.http.dependencies import SessionDep
from service.http.fields import PathId, Row
from service.http.pagination import PageDep
from service.http.problems.problem import Problem
from service.principal import Principal
from service.web import queries
from service.web.forms import FormDep, see_other
from service.web.page_route import PageRoute
from service.web.pages.finding_list import FindingListDep
from service.web.pages.page import FindingsReader, answer_page, asked_query, names_of

router = APIRouter(route_class=PageRoute)

Judge = Annotated[Principal, Depends(RequireScope("verdicts:write"))]

Body = TypeVar("Body", VerdictSet, BulkVerdicts)

WITHDRAWN = "withdrawn"
"""The value that a form sends in place of a verdict to withdraw one."""


@router.post("/audits/{audit_id}/findings/{row}/verdict")
def judge(audit_id: PathId, row: Row, principal: Judge, session: SessionDep, form: FormDep) -> Response:
    """Set or withdraw the verdict on a finding, and go back to where the form was."""
    said = _said(form, "verdict")
    if said is None:
        actions.withdraw(session, principal, audit_id, row, check=_anything)
    else:
        body = _valid(VerdictSet, verdict=said, note=form.get("note") or None)
        actions.set_one(session, principal, audit_id, row, body, check=_anything)
    return see_other(_way_back(audit_id, form, f"/audits/{audit_id}/findings/{row}"))


@router.get("/audits/{audit_id}/verdicts")
def show_bulk(
    audit_id: PathId,
    principal: Judge,
    session: SessionDep,
    asked: FindingListDep,
    said: VerdictKind | Literal["withdrawn"] = "confirmed",
) -> Response:
    """Show what one verdict on all findings of a list would change, before anything does."""
    audit = render_audit(find_audit(session, principal, audit_id))
    verdict = None if said == WITHDRAWN else said
    bulk = BulkVerdicts.model_validate({"filter": asked.wanted, "verdict": verdict, "dry_run": True})
    return answer_page(
        "bulk.html",
        "audits",
        principal,
        audit=audit,
        names=names_of(session, principal, audit),
        asked=asked,
        said=said,
        would=actions.set_many(session, principal, audit_id, bulk),
    )


@router.post("/audits/{audit_id}/verdicts")
def judge_all(audit_id: PathId, principal: Judge, session: SessionDep, form: FormDep) -> Response:
    """Set or withdraw the verdict on exactly the findings that were shown, and go back to their list."""
    asked = read_list(form.items())
    bulk = _valid(BulkVerdicts, filter=asked.wanted, verdict=_said(form, "said"), token=form.get("token"))
    try:
        done = actions.set_many(session, principal, audit_id, bulk)
    except ConflictError as error:
        if error.code != "bulk_changed":
            raise
        detail = (
            "The samples, or what is said of them, have changed since they were shown. Nothing was done; go back, and "
            "look at the list again."
        )
        raise Problem(409, "bulk_changed", detail) from error
    return see_other(f"/audits/{audit_id}/findings{asked.query(bulk=done.id)}")


@router.get("/audits/{audit_id}/bulks")
def bulk_list(
    request: Request, audit_id: PathId, principal: FindingsReader, session: SessionDep, page: PageDep
) -> Response:
    """Show the verdicts on many samples at once, the newest first, and how they were undone."""
    audit = render_audit(find_audit(session, principal, audit_id))
    published = find_published(session, principal, audit_id)
    found = list_bulks(session, published, after=page.after, limit=page.limit + 1)
    listed = page.page(found, key=lambda bulk: bulk.id, render=lambda bulk: bulk)
    return answer_page(
        "bulks.html",
        "audits",
        principal,
        audit=audit,
        names=names_of(session, principal, audit),
        bulks=[(bulk, read_list(_shown_fields(bulk.filter))) for bulk in listed.data],
        actors=queries.actor_names(
            session, principal, (who for bulk in listed.data for who in (bulk.actor_id, bulk.undone_by))
        ),
        next_after=listed.next_after,
        here=f"/audits/{audit.id}/bulks",
        query=asked_query(request),
    )


@router.post("/audits/{audit_id}/bulks/{bulk_id}/undo")
def undo_bulk(audit_id: PathId, bulk_id: PathId, principal: Judge, session: SessionDep, form: FormDep) -> Response:
    """Undo a verdict on many samples, and say where the form was how many are as they were before."""
    actions.undo_bulk(session, principal, audit_id, bulk_id)
    return see_other(_way_back(audit_id, form, f"/audits/{audit_id}/bulks"))


def _shown_fields(filter: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a stored filter as the fields of an address."""
    return [(name, str(value).lower() if isinstance(value, bool) else str(value)) for name, value in filter.items()]


def _anything(_: object) -> None:
    """Let a verdict replace whatever was said before: the page shows who said what."""


def _said(form: dict[str, str], field: str) -> str | None:
    """Read the verdict of a form; a list's filter has a field `verdict` too, so that of a bulk is `said`."""
    if field not in form:
        raise Problem(422, "invalid_request", "Choose what to say of the sample.")
    return None if form[field] == WITHDRAWN else form[field]


def _valid(body: type[Body], **fields: object) -> Body:
    try:
        return body.model_validate(fields)
    except ValidationError as error:
        raise Problem(422, "invalid_request", f"This verdict cannot be set: {error.errors()[0]['msg']}.") from error


def _way_back(audit_id: str, form: dict[str, str], otherwise: str) -> str:
    """Find where a form's page was: only an address of this audit's review, since anybody may write a form."""
    findings = f"/audits/{audit_id}/findings"
    to = urlsplit(form.get("back", ""))
    places = (findings, f"/audits/{audit_id}/bulks")
    ours = not to.scheme and not to.netloc and (to.path in places or to.path.startswith(f"{findings}/"))
    return (f"{to.path}?{to.query}" if to.query else to.path) if ours else otherwise
