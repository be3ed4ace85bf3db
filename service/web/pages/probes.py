"""The page of probes."""

from fastapi import APIRouter, Request, Response

from service.http.dependencies import SessionDep
from service.http.pagination import PageDep
from service.probes.queries import list_probes
from service.probes.schemas import render_probe_summary
from service.web.page_route import PageRoute
from service.web.pages.page import Reader, answer_list

router = APIRouter(route_class=PageRoute)


@router.get("/probes")
def probe_list(request: Request, principal: Reader, session: SessionDep, page: PageDep) -> Response:
    """Show all probes, the newest first."""
    found = list_probes(session, principal, after=page.after, limit=page.limit + 1)
    return answer_list(
        request, "probes", principal, page.page(found, key=lambda row: row.id, render=render_probe_summary)
    )
