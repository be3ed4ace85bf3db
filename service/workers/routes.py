"""/v1/workers and /v1/queue: who works on what, and what waits."""

from typing import Annotated

from fastapi import APIRouter, Depends

from service.http.auth.authentication import RequireScope
from service.http.dependencies import SessionDep, SettingsDep
from service.http.pagination import Page
from service.http.routing import AuthenticatedRoute, declared_problems
from service.principal import Principal
from service.workers.queries import list_workers, read_queue
from service.workers.schemas import Queue, Worker

router = APIRouter(
    prefix="/v1", tags=["workers"], route_class=AuthenticatedRoute, responses=declared_problems(401, 503)
)
Reader = Annotated[Principal, Depends(RequireScope())]


@router.get("/workers", operation_id="list_workers")
def list_all(principal: Reader, session: SessionDep, settings: SettingsDep) -> Page[Worker]:
    """All workers that were heard of within a day, with what each does.

    Of jobs of other workspaces it says only that there is one. The list has one page.
    """
    found = list_workers(session, principal, heartbeat_seconds=settings.heartbeat_seconds)
    return Page(data=found, has_more=False, next_after=None)


@router.get("/queue", operation_id="get_queue")
def get(principal: Reader, session: SessionDep, settings: SettingsDep) -> Queue:
    """What waits for workers, by queue, in the order in which it is taken; other workspaces' jobs are counted."""
    return read_queue(session, principal, settings)
