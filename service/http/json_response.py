"""JSON answers that are read and serialised in one thread.

FastAPI would take a `def` route through four threads in a row, and validate again what is a model already.
"""

from collections.abc import Callable
from typing import Protocol

from fastapi import Response
from pydantic import BaseModel
from sqlalchemy.orm import Session


class Run(Protocol):
    """A function that runs its argument in a thread, such as `Transactions.autocommit` and `Transactions.run`."""

    async def __call__(self, work: Callable[[Session], str], /) -> str:
        """Return what `work` returns."""
        ...


async def answer_json(run: Run, response: Response, read: Callable[[Session], BaseModel]) -> Response:
    """Answer with what `read` finds, as JSON. The route names its `response_model`.

    Args:
        run: Runs `read` in a thread with a session.
        response: Holds the headers that the request's dependencies have set.
        read: Returns the answer. What it raises is raised here.
    """
    content = await run(lambda session: read(session).model_dump_json())
    return Response(content, headers=dict(response.headers), media_type="application/json")
