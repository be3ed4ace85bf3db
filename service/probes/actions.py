"""What users do with probes: create and delete them."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.contract.spec import ProbeItem
from service.errors import InvalidError, InvalidReferenceError, json_pointer
from service.http.audit_log import record
from service.http.in_use import delete_unused
from service.http.quotas import check_probes
from service.principal import Principal
from service.probes.packs import ProbePack, fill, load_packs, parameter_error
from service.probes.queries import find_probe
from service.probes.schemas import PackOrigin, Probe, ProbeCreate, ProbeFromPack, render_probe
from service.settings import Settings
from service.store.ids import new_id
from service.store.tables import Audit, AuditProbe
from service.store.tables import Probe as ProbeTable

LISTED_ITEMS = 20
"""Most items that an error names."""


def create(session: Session, principal: Principal, body: ProbeCreate, *, settings: Settings) -> Probe:
    """Create a probe from the workspace's own items, or from those of a built-in pack.

    Args:
        session: An open transaction.
        principal: Who is asking.
        body: The items, or the pack and its parameters.
        settings: Holds the quota.

    Returns:
        The probe, as the API shows it.

    Raises:
        InvalidReferenceError: `probe_pack_not_found`.
        InvalidError: `invalid_request`: the parameters are not those of the pack, or only some items have a reference.
        ConflictError: `probe_quota`.
    """
    check_probes(session, principal.workspace_id, settings)
    if isinstance(body, ProbeFromPack):
        pack = _find_pack(body)
        items = fill(pack, body.parameters)
        name = body.name or ": ".join([pack.name, *body.parameters.values()])
        origin = PackOrigin(name=pack.name, version=pack.version, parameters=body.parameters).model_dump()
    else:
        items, name, origin = list(body.items), body.name, None
        _check_references(items)
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
    record(session, principal, "probe.create", probe.id)
    return render_probe(probe)


def delete(session: Session, principal: Principal, probe_id: str) -> None:
    """Delete a probe that no audit uses.

    Args:
        session: An open transaction.
        principal: Who is asking.
        probe_id: The probe.

    Raises:
        NotFoundError: `probe_not_found`.
        ConflictError: `probe_in_use`.
    """
    probe = find_probe(session, principal, probe_id)
    used = Audit.id.in_(select(AuditProbe.audit_id).where(AuditProbe.probe_id == probe.id))
    delete_unused(session, principal, probe, kind="probe", used=used)
    record(session, principal, "probe.delete", probe_id)


def _check_references(items: Sequence[ProbeItem]) -> None:
    """Check that all items have a reference answer, or none.

    Raises:
        InvalidError: Only some items have one.
    """
    missing = [number for number, item in enumerate(items) if item.reference is None]
    if not 0 < len(missing) < len(items):
        return
    detail = (
        f"{len(missing)} of {len(items)} items have no reference, and references count only where every item has one. "
        "Give each item one, or leave all out."
    )
    errors = {f"#/items/{number}/reference": "missing, and other items have one" for number in missing[:LISTED_ITEMS]}
    raise InvalidError("invalid_request", detail, errors=errors)


def _find_pack(body: ProbeFromPack) -> ProbePack:
    """Return the pack that the body names.

    Raises:
        InvalidReferenceError: There is no such pack.
        InvalidError: The parameters are not exactly those of the pack.
    """
    pack = load_packs().get(body.pack)
    if pack is None:
        raise InvalidReferenceError("probe_pack", "#/pack")
    expected = {parameter.name: parameter for parameter in pack.parameters}
    errors = {
        f"#/parameters/{name}": f"missing: {parameter.description}"
        for name, parameter in expected.items()
        if name not in body.parameters
    }
    for name, value in body.parameters.items():
        reason = parameter_error(value) if name in expected else f"the pack {pack.name} has no such parameter"
        if reason is not None:
            errors[json_pointer("parameters", name)] = reason
    if errors:
        takes = ", ".join(expected) or "none"
        raise InvalidError("invalid_request", f"The pack {pack.name} takes these parameters: {takes}.", errors=errors)
    return pack
