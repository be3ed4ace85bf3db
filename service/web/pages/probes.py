"""The pages of probes: all of them, and one."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from service.http.auth.authentication import RequireScope
from service.http.dependencies import SessionDep
from service.http.fields import PathId
from service.http.pagination import PageDep
from service.principal import Principal
from service.probes import actions
from service.probes.queries import find_probe, list_probes
from service.probes.schemas import render_probe, render_probe_summary
from service.web.forms import see_other
from service.web.page_route import PageRoute
from service.web.pages.page import Reader, answer_list, answer_page

router = APIRouter(route_class=PageRoute)

Writer = Annotated[Principal, Depends(RequireScope("audits:write"))]


@router.get("/probes")
def probe_list(request: Request, principal: Reader, session: SessionDep, page: PageDep) -> Response:
    """Show all probes, the newest first."""
    found = list_probes(session, principal, after=page.after, limit=page.limit + 1)
    return answer_list(
        request, "probes", principal, page.page(found, key=lambda row: row.id, render=render_probe_summary)
    )


@router.get("/probes/{probe_id}")
def probe(probe_id: PathId, principal: Reader, session: SessionDep) -> Response:
    """Show one probe with its items."""
    return answer_page("probe.html", "probes", principal, probe=render_probe(find_probe(session, principal, probe_id)))


@router.post("/probes/{probe_id}/delete")
def delete(probe_id: PathId, principal: Writer, session: SessionDep) -> Response:
    """Delete a probe that no audit uses, and go to the list."""
    actions.delete(session, principal, probe_id)
    return see_other("/probes")
