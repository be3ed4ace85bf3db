"""Every error as an RFC 9457 problem document.

Its members are type, title, status, detail, instance, and of our own `code` (stable: programs match on it),
`request_id` and `errors`, a list of {pointer, detail}. A pointer is a JSON pointer into the body as a fragment
(`#/items/0/prompt`), or `query:limit`, `path:row`, `header:...`, or `line:17` of an upload.
"""

import logging
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any

import sqlalchemy.exc
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    ConflictError,
    DomainError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    StorageFullError,
    TimedOutError,
    TooLargeError,
    UnavailableError,
    json_pointer,
)
from service.http.problems.problem import Problem, problem_response
from service.http.response_start import on_response_start
from service.http.sub_path import own_path
from service.logs import describe_error
from service.store.database_errors import cause_of
from service.store.objects import ObjectMissingError, ObjectStoreUnavailableError

log = logging.getLogger(__name__)

MOST_NAMED = 100
"""How many errors of a request are listed: a small request can be wrong in very many places."""

BUSY_STATES = frozenset({"57014", "55P03", "40P01", "40001", "25P03", "25P04"})
"""SQLSTATEs of a database that answers but is busy: a statement or lock timeout, a deadlock, a serialization failure,
and a transaction ended because it was idle or took too long."""

STATUSES: dict[type[DomainError], int] = {
    ForbiddenError: 403,
    NotFoundError: 404,
    TimedOutError: 408,
    ConflictError: 409,
    TooLargeError: 413,
    InvalidError: 422,
    UnavailableError: 503,
    StorageFullError: 507,
}
"""The status that each class of error is answered with, subclasses included."""


def install_problem_handlers(app: FastAPI) -> None:
    """Turn what routes, actions, queries, FastAPI, Starlette and the database raise into problem documents."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(DomainError, _on_domain_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(sqlalchemy.exc.OperationalError, _on_database_error)
    app.add_exception_handler(sqlalchemy.exc.InternalError, _on_internal_error)
    app.add_exception_handler(sqlalchemy.exc.InterfaceError, _on_database_error)
    app.add_exception_handler(sqlalchemy.exc.TimeoutError, _on_database_error)
    app.add_exception_handler(sqlalchemy.exc.DataError, _on_data_error)
    app.add_exception_handler(ObjectMissingError, _on_missing_object)
    app.add_exception_handler(ObjectStoreUnavailableError, _on_absent_object_store)


def problem_of(error: DomainError) -> Problem:
    """Build the problem for an error of the domain."""
    status = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
    errors = [{"pointer": pointer, "detail": detail} for pointer, detail in error.errors.items()]
    headers = None if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return Problem(status, error.code, error.detail, errors=errors, headers=headers)


class UnexpectedErrors:
    """ASGI middleware that logs an exception nothing else handled, and answers 500 without telling the cause."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the application."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or other event of ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        def note(_: Message) -> None:
            nonlocal started
            started = True

        try:
            await self.app(scope, receive, on_response_start(send, note))
        except Exception as error:
            request = Request(scope, receive)
            log.error("unexpected error, request %s\n%s", request.state.request_id, describe_error(error))
            if started:
                # The server closes the connection and logs what it gets: no message of the cause.
                raise ConnectionAbortedError("failed while answering; see the error above") from None
            problem = Problem(
                500,
                "internal_error",
                "Something failed on our side. The log of the service has more under this request_id.",
            )
            await problem_response(request, problem)(scope, receive, send)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(request, error)


async def _on_domain_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DomainError)
    return problem_response(request, problem_of(error))


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    if any(entry["type"] == "json_invalid" for entry in errors):
        at = next(entry for entry in errors if entry["type"] == "json_invalid")
        detail = f"The body is not JSON: {at['ctx']['error']} at character {at['loc'][-1]}."
        return problem_response(request, Problem(400, "malformed_json", detail))
    if any(entry["loc"] == ("body",) for entry in errors):
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json" and not media_type.endswith("+json"):
            detail = "Send a JSON body with the header Content-Type: application/json."
            return problem_response(request, Problem(415, "unsupported_media_type", detail))
    found = [{"pointer": _pointer(entry["loc"], error.body), "detail": entry["msg"]} for entry in errors[:MOST_NAMED]]
    places = ", ".join(entry["pointer"] for entry in found[:3])
    more = f" The first {MOST_NAMED} are listed." if len(errors) > MOST_NAMED else ""
    detail = f"The request has {len(errors)} invalid value{'s' if len(errors) > 1 else ''}: see {places}.{more}"
    return problem_response(request, Problem(422, "invalid_request", detail, errors=found))


def _pointer(location: Sequence[Any], body: Any) -> str:
    """Return a JSON pointer for a place in the body, `place:name` for the rest."""
    place, *path = location
    if place == "body":
        return json_pointer(*_places(path, body))
    return f"{place}:{'.'.join(map(str, path))}"


def _places(path: Sequence[Any], body: Any) -> Iterator[str | int]:
    """The steps of `path` that lead through the body; pydantic also names the member of a union that it tried."""
    for number, part in enumerate(path, start=1):
        inside = part in body if isinstance(body, dict) else isinstance(body, list) and part in range(len(body))
        if inside or number == len(path):
            yield part
        if inside:
            body = body[part]


_HTTP_CODES = {
    400: ("bad_request", "The request cannot be read: {detail}."),
    404: ("not_found", "There is nothing at this path. GET /openapi.json lists what there is."),
    405: ("method_not_allowed", "This path does not answer {method}. The Allow header lists what it answers."),
    408: ("body_stalled", "The body did not come to its end in time. Send the request again."),
    413: ("body_too_large", "The body is larger than this path accepts. GET /v1/info lists the limits."),
}


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, detail = _HTTP_CODES.get(error.status_code, (HTTPStatus(error.status_code).name.lower(), "{detail}"))
    detail = detail.format(detail=error.detail, method=request.method)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    return problem_response(request, Problem(error.status_code, code, detail, headers=headers))


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of all routes at this path; the framework names those of the first one alone."""
    matching = (
        context.methods or set()
        for context in iter_route_contexts(request.app.routes)
        if getattr(context, "path_regex", None) and context.path_regex.match(own_path(request.scope))
    )
    return sorted(set().union(*matching))


async def _on_database_error(request: Request, error: Exception) -> Response:
    """Answer 503: the database is out of reach or too busy, so the same request may succeed later."""
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    log.warning("database error: %s: %s", type(error).__name__, cause_of(error))
    if state in BUSY_STATES or isinstance(error, sqlalchemy.exc.TimeoutError):
        detail = "The database is too busy to answer in time. Try again."
        return problem_response(request, Problem(503, "database_busy", detail, headers={"Retry-After": "2"}))
    detail = "The database does not answer. Nothing was changed; try again."
    return problem_response(request, Problem(503, "database_unavailable", detail, headers={"Retry-After": "5"}))


async def _on_internal_error(request: Request, error: Exception) -> Response:
    """Raise the error, which is a defect, unless the server ended a transaction in this way."""
    if getattr(getattr(error, "orig", None), "sqlstate", None) not in BUSY_STATES:
        raise error
    return await _on_database_error(request, error)


async def _on_missing_object(request: Request, error: Exception) -> Response:
    log.error("%s", error)
    detail = "A file of this resource is not in the object store. The service's log names it under this request_id."
    return problem_response(request, Problem(500, "object_missing", detail))


async def _on_absent_object_store(request: Request, error: Exception) -> Response:
    log.warning("%s", error)
    detail = "The object store does not answer. Nothing was kept; try again."
    return problem_response(request, Problem(503, "object_store_unavailable", detail, headers={"Retry-After": "5"}))


async def _on_data_error(request: Request, error: Exception) -> Response:
    detail = "A value cannot be stored: it holds a NUL character, or a number that is out of range."
    return problem_response(request, Problem(422, "unstorable_value", detail))
