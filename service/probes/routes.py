"""/v1/probes: behaviours that a model must not learn."""

from typing import Annotated

from fastapi import Depends, Response
from sqlalchemy.orm import defer

from service.http.auth.authentication import RequireScope
from service.http.conditional.etags import NOT_MODIFIED, ConditionsDep, strong_tag
from service.http.dependencies import SessionDep, SettingsDep
from service.http.fields import PathId
from service.http.idempotency import IDEMPOTENT
from service.http.pagination import Page, PageDep
from service.http.routing import declared_problems, resource_router
from service.principal import Principal
from service.probes import actions
from service.probes.queries import find_probe, list_probes
from service.probes.schemas import Probe, ProbeCreate, ProbeSummary, render_probe, render_probe_summary
from service.store.tables import Probe as ProbeTable

router = resource_router("probes")
Reader = Annotated[Principal, Depends(RequireScope())]
Writer = Annotated[Principal, Depends(RequireScope("audits:write"))]


@router.post(
    "",
    status_code=201,
    operation_id="create_probe",
    dependencies=[IDEMPOTENT],
    responses=declared_problems(403, 413, "probe_pack_not_found", "probe_quota", "workspace_deleted"),
)
def create(
    body: ProbeCreate, principal: Writer, session: SessionDep, settings: SettingsDep, response: Response
) -> Probe:
    """Creates a probe from 1 to 1000 items, one's own or those of a built-in pack."""
    probe = actions.create(session, principal, body, settings=settings)
    response.headers["Location"] = f"/v1/probes/{probe.id}"
    return probe


@router.get("", operation_id="list_probes")
def list_all(principal: Reader, session: SessionDep, page: PageDep) -> Page[ProbeSummary]:
    """The workspace's probes, newest first, without their items."""
    found = list_probes(session, principal, after=page.after, limit=page.limit + 1)
    return page.page(found, key=lambda row: row.id, render=render_probe_summary)


@router.get("/{probe_id}", operation_id="get_probe", responses=declared_problems(404) | NOT_MODIFIED)
def get(probe_id: PathId, principal: Reader, session: SessionDep, conditions: ConditionsDep) -> Probe:
    """One probe with its items."""
    probe = find_probe(session, principal, probe_id, options=[defer(ProbeTable.items)])
    conditions.serve(strong_tag(probe.id))  # immutable; its items are read only where they are sent
    return render_probe(probe)


@router.delete(
    "/{probe_id}",
    status_code=204,
    operation_id="delete_probe",
    responses=declared_problems(403, 404, 409, "probe_in_use"),
)
def delete(probe_id: PathId, principal: Writer, session: SessionDep) -> None:
    """Deletes a probe that no audit uses."""
    actions.delete(session, principal, probe_id)
