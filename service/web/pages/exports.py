"""The page of an audit's files: what an export would hold, the form that asks for one, and those that there are."""

from typing import Any

from fastapi import APIRouter, BackgroundTasks, Request, Response
from pydantic import ValidationError

from service.audits.queries import find_audit, find_published, render_audit
from service.exports import actions
from service.exports.preview import preview
from service.exports.queries import list_exports, render_export
from service.exports.schemas import ExportCreate
from service.http.dependencies import SessionDep, SettingsDep
from service.http.fields import PathId
from service.http.middleware.request_ids import request_id
from service.http.problems.problem import Problem
from service.lifecycle.transitions import TERMINAL
from service.web import queries
from service.web.forms import FormDep, see_other
from service.web.page_route import PageRoute
from service.web.pages.page import FindingsReader, answer_page, names_of, requested_address

router = APIRouter(route_class=PageRoute)

SHOWN = 50
"""How many of an audit's newest files its page lists."""

FIELDS = ("kind", "format", "filter", "max_q")
"""The fields of the form that creates an export."""


@router.get("/audits/{audit_id}/exports")
def export_list(request: Request, audit_id: PathId, principal: FindingsReader, session: SessionDep) -> Response:
    """Show the audit's files and the form for another one, with what it would hold."""
    audit = render_audit(find_audit(session, principal, audit_id))
    published = find_published(session, principal, audit_id)
    # Most people come for the data without what is poisoned, and have said of some flags that they are wrong.
    asked = _asked({"kind": "cleaned", "filter": "not_rejected"} | dict(request.query_params))
    found = list_exports(session, principal, audit_id=audit_id, after=None, limit=SHOWN)
    exports = [render_export(row) for row in found]
    return answer_page(
        "exports.html",
        "audits",
        principal,
        audit=audit,
        names=names_of(session, principal, audit),
        actors=queries.actor_names(session, principal, [one.user_id or one.key_id for one in exports]),
        asked=asked,
        would=preview(session, published, asked.max_q),
        exports=exports,
        live=any(export.status not in TERMINAL for export in exports),
        here=requested_address(request),
    )


@router.post("/audits/{audit_id}/exports")
def export(
    audit_id: PathId,
    principal: FindingsReader,
    session: SessionDep,
    settings: SettingsDep,
    background: BackgroundTasks,
    form: FormDep,
) -> Response:
    """Queue an export, and go back to the audit's files."""
    actions.create(
        session,
        principal,
        audit_id,
        _asked(form),
        settings=settings,
        request_id=request_id.get(),
        later=background.add_task,
    )
    return see_other(f"/audits/{audit_id}/exports")


def _asked(fields: dict[str, str]) -> ExportCreate:
    given: dict[str, Any] = {name: fields[name] for name in FIELDS if fields.get(name)}
    if given.get("kind") == "scores":  # the form sends what is of other kinds, too
        given = {name: given[name] for name in ("kind", "format") if name in given}
    elif given.get("filter") == "confirmed":
        given.pop("max_q", None)
    try:
        return ExportCreate.model_validate(given)
    except ValidationError as error:
        raise Problem(422, "invalid_request", f"No such file can be made: {error.errors()[0]['msg']}.") from error
