"""Answers that are read in one thread, and leave it as bytes.

FastAPI would take a `def` route through four threads in a row, and check again what is a model already.
"""

from collections.abc import Callable
from typing import Protocol

from fastapi import Response
from pydantic import BaseModel
from sqlalchemy.orm import Session


class Run(Protocol):
    """Runs its argument in a thread, as `Transactions.autocommit` and `Transactions.run` do."""

    async def __call__(self, work: Callable[[Session], str], /) -> str: ...


async def answer_json(run: Run, response: Response, read: Callable[[Session], BaseModel]) -> Response:
    """What `read` finds, as JSON, with the headers that the request's dependencies have put into `response`.

    The route names its `response_model`. Raises what `read` raises.
    """
    content = await run(lambda session: read(session).model_dump_json())
    return Response(content, headers=dict(response.headers), media_type="application/json")
