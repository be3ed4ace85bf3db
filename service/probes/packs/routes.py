"""/v1/probe-packs: the behaviours that come with Finetooth."""

from typing import Annotated

from fastapi import Depends

from service.errors import NotFoundError
from service.http.auth.authentication import RequireScope
from service.http.fields import PathId
from service.http.pagination import Page, PageDep
from service.http.routing import declared_problems, resource_router
from service.principal import Principal
from service.probes.packs import ProbePack, ProbePackSummary, load_packs

router = resource_router("probe-packs")
Reader = Annotated[Principal, Depends(RequireScope())]


@router.get("", operation_id="list_probe_packs")
def list_all(_: Reader, page: PageDep) -> Page[ProbePackSummary]:
    """The packs by name, without their items."""
    packs = [pack for name, pack in load_packs().items() if page.after is None or name > page.after]
    return page.page(
        packs[: page.limit + 1],
        key=lambda pack: pack.name,
        render=lambda pack: ProbePackSummary(**pack.model_dump(exclude={"items"})),
    )


@router.get("/{pack_name}", operation_id="get_probe_pack", responses=declared_problems(404))
def get(pack_name: PathId, _: Reader) -> ProbePack:
    """One pack with its items, with `{parameter}` in place of what the user names."""
    pack = load_packs().get(pack_name)
    if pack is None:
        raise NotFoundError("probe_pack")
    return pack
