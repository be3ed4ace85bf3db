"""`Prefer: wait=30` (RFC 7240): how long a request may be held until there is news."""

import re
from collections.abc import Awaitable, Callable
from typing import Annotated

from anyio import create_task_group
from fastapi import Depends, Header, Request

MAX_WAIT_SECONDS = 60
"""The longest that a request is held: proxies cut connections that are silent for a minute or two."""

_WAIT = re.compile(r"\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?:;.*)?", re.IGNORECASE)


async def preferred_wait(
    request: Request,
    _prefer: Annotated[
        str | None,
        Header(
            alias="Prefer",
            description="`wait=30`: with If-None-Match, hold the answer until it changes, for at most this many "
            f"seconds; {MAX_WAIT_SECONDS} is the maximum.",
        ),
    ] = None,
) -> int:
    """Return for how many seconds the request asks to be held, at most MAX_WAIT_SECONDS; 0 if it does not ask.

    Args:
        request: The request. The first `wait` of its `Prefer` headers counts.
    """
    for preference in ",".join(request.headers.getlist("prefer")).split(","):
        if found := _WAIT.fullmatch(preference):
            return min(int(found[1]), MAX_WAIT_SECONDS)
    return 0


PreferredWaitDep = Annotated[int, Depends(preferred_wait)]


async def unless_disconnected(request: Request, work: Callable[[], Awaitable[object]]) -> bool:
    """Run `work`, and cancel it if the client disconnects.

    Args:
        request: A request whose body is empty or has been read.
        work: What may take long.

    Returns:
        Whether `work` ran to its end.
    """
    finished = False

    async with create_task_group() as group:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        group.start_soon(watch)
        await work()
        finished = True
        group.cancel_scope.cancel()
    return finished
