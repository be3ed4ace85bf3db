"""The page of the audit log, for admins."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, get_args

from fastapi import APIRouter, Depends, Query, Request, Response

from service.audit_log.queries import LogFilter, list_entries
from service.audit_log.schemas import render_entry
from service.http.audit_log import Action
from service.http.auth.authentication import RequireScope
from service.http.dependencies import SessionDep
from service.http.pagination import PageDep
from service.http.problems.problem import Problem
from service.http.sub_path import address
from service.principal import Principal
from service.web.page_route import PageRoute
from service.web.pages.page import answer_page, query_string

router = APIRouter(route_class=PageRoute)

Admin = Annotated[Principal, Depends(RequireScope("admin"))]
Field = Annotated[str, Query(max_length=200)]


@router.get("/audit-log")
def log_page(
    request: Request,
    principal: Admin,
    session: SessionDep,
    page: PageDep,
    who: Field = "",
    action: Field = "",
    of: Annotated[str, Query(alias="object", max_length=200)] = "",
    since: Field = "",
    until: Field = "",
) -> Response:
    """Show who changed what, the newest first; empty fields of the form filter nothing."""
    who = who.strip()
    is_person = who.startswith("usr_")
    wanted = LogFilter(
        key=None if is_person else who or None,
        user=who if is_person else None,
        action=action or None,
        object=of.strip() or None,
        since=_day(since),
        until=_day(until, later=1),
    )
    found = list_entries(session, principal, wanted, after=page.after, limit=page.limit + 1)
    listed = page.page(found, key=lambda entry: entry.id, render=render_entry)
    fields = {"who": who, "action": action, "object": of, "since": since, "until": until}
    return answer_page(
        "audit_log.html",
        "audit-log",
        principal,
        listed=listed.data,
        actions=get_args(Action),
        fields=fields,
        filtered=any(fields.values()),
        newest=query_string(fields),
        older=query_string({**fields, "after": listed.next_after}) if listed.next_after else None,
        query=query_string(
            {
                **fields,
                "since": wanted.since.isoformat() if wanted.since else None,
                "until": wanted.until.isoformat() if wanted.until else None,
                "after": request.query_params.get("after"),
            }
        ),
        first="after" not in request.query_params,
        here=address("/audit-log"),
    )


def _day(text: str, *, later: int = 0) -> datetime | None:
    """Find the beginning of a day in UTC, or of the day that many days later; None where none is given."""
    if not text:
        return None
    try:
        return datetime.combine(date.fromisoformat(text) + timedelta(days=later), time(), UTC)
    except (ValueError, OverflowError) as error:
        raise Problem(422, "invalid_request", "Write a day as in 2026-01-31, and none after the year 9999.") from error
