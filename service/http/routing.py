"""Routers of JSON resources: they authenticate before reading the body, and declare every error."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive

from service.http.auth.authentication import authenticate
from service.http.idempotency import Idempotent, answer_once
from service.http.problems.codes import PROBLEM_CODES, title_of
from service.http.problems.problem import MEDIA_TYPE

JSON_BODY_BYTES = 10 * 2**20
"""The largest JSON body that is read."""

JSON_BODY_SECONDS = 60.0
"""Seconds within which the whole body must come: until then what has come stays in memory."""


class AuthenticatedRoute(APIRoute):
    """A route that authenticates first and then reads a bounded JSON body.

    At most JSON_BODY_BYTES are read, within JSON_BODY_SECONDS; else the answer is 413 `body_too_large` or 408
    `body_stalled`. FastAPI alone would read and parse a body of any size before it asks who sent it, and its own limit
    answers in plain text. Routes that stream their body (they declare none) set limits of their own.

    A route with `dependencies=[IDEMPOTENT]` handles the Idempotency-Key; its handler takes SessionDep.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler that authenticates and limits the body before FastAPI reads it."""
        handle = super().get_route_handler()

        marks = [child.call for child in self.dependant.dependencies if isinstance(child.call, Idempotent)]

        async def authenticated(request: Request) -> Response:
            principal = await authenticate(request)
            if self.body_field is not None:
                request = Request(request.scope, _limited(request))
            if marks:
                return await answer_once(request, principal, handle, marks[0].forget)
            return await handle(request)

        return authenticated


def _limited(request: Request) -> Receive:
    declared = request.headers.get("content-length", "")
    received = 0
    whole = False
    until = asyncio.get_running_loop().time() + JSON_BODY_SECONDS

    async def receive() -> Message:
        nonlocal received, whole
        if declared.isdigit() and int(declared) > JSON_BODY_BYTES:
            raise HTTPException(413)
        try:
            async with asyncio.timeout_at(None if whole else until):
                message = await request.receive()
        except TimeoutError:
            raise HTTPException(408, headers={"Connection": "close"}) from None
        whole = not message.get("more_body", False)
        received += len(message.get("body", b""))
        if received > JSON_BODY_BYTES:
            raise HTTPException(413)
        return message

    return receive


def declared_problems(*answers: int | str) -> dict[int | str, dict[str, Any]]:
    """Build the `responses=` of a route that answers with problem documents of these statuses and codes.

    Codes that follow from what the route is (service.http.openapi) need no declaration; name the rest.

    Args:
        answers: Statuses, and codes of service.http.problems.codes. A code with several statuses stands for the last
            one, which is that of an id in a body.

    Raises:
        KeyError: A code is not in service.http.problems.codes.
    """
    named = [(PROBLEM_CODES[code].statuses[-1], code) for code in answers if isinstance(code, str)]
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    return {
        status: {
            "description": title_of(status),
            "content": content,
            "x-problem-codes": [code for its_status, code in named if its_status == status],
        }
        for status in sorted({*(answer for answer in answers if isinstance(answer, int)), *(s for s, _ in named)})
    }


def resource_router(path: str, *, tag: str | None = None) -> APIRouter:
    """Make a router for the resource at /v1/{path}, whose routes authenticate first.

    Each route still depends on `RequireScope(...)`, for its principal and its scope.

    Args:
        path: The address below /v1, without a slash.
        tag: The heading in the OpenAPI document; by default `path`.
    """
    return APIRouter(
        prefix=f"/v1/{path}",
        tags=[tag or path],
        route_class=AuthenticatedRoute,
        responses=declared_problems(401, 422, 503),
    )
