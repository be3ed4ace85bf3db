"""/v1/probes: behaviours that a model must not learn."""

from typing import Annotated

from fastapi import Depends, Response
from sqlalchemy import func, select
from sqlalchemy.orm import defer

from service.http.auth.authentication import RequireScope
from service.http.auth.principal import Principal
from service.http.auth.scoping import get_scoped, not_found, owned
from service.http.conditional.etags import NOT_MODIFIED, ConditionsDep, strong_tag
from service.http.dependencies import SessionDep
from service.http.fields import PathId
from service.http.idempotency import IDEMPOTENT
from service.http.in_use import delete_unused
from service.http.pagination import Page, PageDep
from service.http.problems.problem import Problem, json_pointer
from service.http.routing import declared_problems, resource_router
from service.probes.packs import ProbePack, fill, load_packs, parameter_error
from service.probes.schemas import PackOrigin, Probe, ProbeCreate, ProbeFromPack, ProbeSummary, render_probe
from service.store.ids import new_id
from service.store.tables import Audit, AuditProbe
from service.store.tables import Probe as ProbeTable

router = resource_router("probes")
Reader = Annotated[Principal, Depends(RequireScope())]
Writer = Annotated[Principal, Depends(RequireScope("audits:write"))]


@router.post(
    "",
    status_code=201,
    operation_id="create_probe",
    dependencies=[IDEMPOTENT],
    responses=declared_problems(403, 413, "probe_pack_not_found"),
)
def create(body: ProbeCreate, principal: Writer, session: SessionDep, response: Response) -> Probe:
    """Keeps a probe of 1 to 1000 items, one's own or those of a built-in pack."""
    if isinstance(body, ProbeFromPack):
        pack = _find_pack(body)
        items = fill(pack, body.parameters)
        name = body.name or ": ".join([pack.name, *body.parameters.values()])
        origin = PackOrigin(name=pack.name, version=pack.version, parameters=body.parameters).model_dump()
    else:
        items, name, origin = list(body.items), body.name, None
    probe = ProbeTable(
        id=new_id("prb"),
        workspace_id=principal.workspace_id,
        name=name,
        items=[item.model_dump(exclude_none=True) for item in items],
        has_reference=all(item.reference is not None for item in items),
        pack=origin,
    )
    session.add(probe)
    session.flush()
    response.headers["Location"] = f"/v1/probes/{probe.id}"
    return render_probe(probe)


@router.get("", operation_id="list_probes")
def list_all(principal: Reader, session: SessionDep, page: PageDep) -> Page[ProbeSummary]:
    """The workspace's probes, newest first, without their items."""
    query = (
        select(
            ProbeTable.id,
            ProbeTable.name,
            func.jsonb_array_length(ProbeTable.items).label("item_count"),
            ProbeTable.has_reference,
            ProbeTable.pack,
            ProbeTable.created_at,
        )
        .where(owned(ProbeTable, principal))
        .order_by(ProbeTable.id.desc())
        .limit(page.limit + 1)
    )
    if page.after is not None:
        query = query.where(ProbeTable.id < page.after)
    return page.page(
        session.execute(query).all(), key=lambda row: row.id, render=lambda row: ProbeSummary(**row._mapping)
    )


@router.get("/{probe_id}", operation_id="get_probe", responses=declared_problems(404) | NOT_MODIFIED)
def get(probe_id: PathId, principal: Reader, session: SessionDep, conditions: ConditionsDep) -> Probe:
    """One probe with its items."""
    probe = get_scoped(session, ProbeTable, principal, probe_id, kind="probe", options=[defer(ProbeTable.items)])
    conditions.serve(strong_tag(probe.id))  # immutable; its items are read only where they are sent
    return render_probe(probe)


@router.delete(
    "/{probe_id}",
    status_code=204,
    operation_id="delete_probe",
    responses=declared_problems(403, 404, 409, "probe_in_use"),
)
def delete(probe_id: PathId, principal: Writer, session: SessionDep) -> None:
    """Deletes a probe that no audit stands on."""
    probe = get_scoped(session, ProbeTable, principal, probe_id, kind="probe")
    used = Audit.id.in_(select(AuditProbe.audit_id).where(AuditProbe.probe_id == probe.id))
    delete_unused(session, principal, probe, kind="probe", used=used)


def _find_pack(body: ProbeFromPack) -> ProbePack:
    """The pack that the body names, which gives each of its parameters and no other. Raises Problem 422."""
    pack = load_packs().get(body.pack)
    if pack is None:
        raise not_found("probe_pack", 422, "#/pack")
    expected = {parameter.name: parameter for parameter in pack.parameters}
    errors = [
        {"pointer": f"#/parameters/{name}", "detail": f"missing: {parameter.description}"}
        for name, parameter in expected.items()
        if name not in body.parameters
    ]
    for name, value in body.parameters.items():
        reason = parameter_error(value) if name in expected else f"the pack {pack.name} has no such parameter"
        if reason is not None:
            errors.append({"pointer": json_pointer("parameters", name), "detail": reason})
    if errors:
        takes = ", ".join(expected) or "none"
        raise Problem(422, "invalid_request", f"The pack {pack.name} takes these parameters: {takes}.", errors=errors)
    return pack
