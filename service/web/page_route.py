"""The route classes of pages: every problem is a page that says what to do."""

from collections.abc import Callable, Coroutine
from typing import Any

import sqlalchemy.exc
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from service.errors import DomainError
from service.http.auth.authentication import authenticate
from service.http.problems.handlers import problem_of
from service.http.problems.problem import Problem
from service.web.templating import render
from service.web.ways_in import ways_in

TITLES_BY_CODE = {"sign_in_link_invalid": "This link no longer works", "cross_site": "Nothing was done"}
TITLES = {
    401: "Please sign in",
    403: "Not yours to see",
    404: "There is nothing here",
    409: "Not now",
    503: "Please try again",
}


class OpenPageRoute(APIRoute):
    """Answers problems as pages. Anybody may ask."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                await self.look_who_asks(request)
                return await handle(request)
            except Problem as problem:
                return problem_page(request, problem)
            except DomainError as error:
                return problem_page(request, problem_of(error))
            except RequestValidationError:
                return problem_page(request, Problem(404, "not_found", "This address names no page of Finetooth."))
            except (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError, sqlalchemy.exc.TimeoutError):
                return problem_page(request, Problem(503, "database_unavailable", "The database does not answer."))

        return answer

    async def look_who_asks(self, request: Request) -> None:
        """Raise Problem where whoever asks may see no page."""


class PageRoute(OpenPageRoute):
    """Answers a signed-out visitor with 401 and a page on how to sign in; other problems likewise."""

    async def look_who_asks(self, request: Request) -> None:
        """Before anything is read of the request. Raises Problem 401, or 403 for a cross-site browser."""
        await authenticate(request)


def problem_page(request: Request, problem: Problem) -> Response:
    """The problem for a person; its code and status are those of the API."""
    context = {
        "signed_in": getattr(request.state, "principal", None) is not None,
        "section": "",
        "title": TITLES_BY_CODE.get(problem.code) or TITLES.get(problem.status, problem.title),
        "detail": problem.detail,
        "status": problem.status,
        "code": problem.code,
        "request_id": getattr(request.state, "request_id", None),
        **ways_in(request),
    }
    response = render("error.html", context, status=problem.status)
    for name in ("Connection", "Retry-After", "WWW-Authenticate"):
        if name in problem.headers:
            response.headers[name] = problem.headers[name]
    return response
