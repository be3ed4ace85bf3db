"""The page of workers and queues: who works on what, and what waits for them."""

from fastapi import APIRouter, Request, Response

from service.http.dependencies import SessionDep, SettingsDep
from service.web import queries
from service.web.page_route import PageRoute
from service.web.pages.page import Reader, answer_page, requested_address
from service.workers.queries import list_workers, read_queue
from service.workers.schemas import Kind

router = APIRouter(route_class=PageRoute)

KINDS: dict[Kind, str] = {
    "audit": "Audit of",
    "export": "Export of an audit of",
    "dataset": "Near-duplicates of",
    "version": "What has changed in",
}
"""What a job does, before the name of its dataset."""


@router.get("/workers")
def worker_list(request: Request, principal: Reader, session: SessionDep, settings: SettingsDep) -> Response:
    """Show every worker, and what of the workspace's jobs waits in which order."""
    workers = list_workers(session, principal, heartbeat_seconds=settings.heartbeat_seconds)
    queue = read_queue(session, principal, settings)
    held = [worker.job.subject_id for worker in workers if worker.job is not None]
    waiting = [job.subject_id for each in queue.queues for job in each.jobs]
    return answer_page(
        "workers.html",
        "workers",
        principal,
        workers=workers,
        queue=queue,
        subjects=queries.subjects(session, principal, [*held, *waiting]),
        KINDS=KINDS,
        here=requested_address(request),
    )
