"""The route classes of pages: every problem becomes a page that says what to do."""

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
"""Titles of error pages, by the code of the problem."""

TITLES = {
    401: "Please sign in",
    403: "You may not see this",
    404: "Page not found",
    409: "This is not possible now",
    503: "Please try again",
}
"""Titles of all other error pages, by their status."""


class OpenPageRoute(APIRoute):
    """A route that answers problems as pages, and is open to visitors who have not signed in."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler that turns what the route raises into pages."""
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
                return problem_page(
                    request,
                    Problem(
                        404,
                        "not_found",
                        "There is no page at this address. Check it, or start from the list of audits.",
                    ),
                )
            except (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError, sqlalchemy.exc.TimeoutError):
                return problem_page(
                    request,
                    Problem(503, "database_unavailable", "The database does not answer. Reload the page in a moment."),
                )

        return answer

    async def look_who_asks(self, request: Request) -> None:
        """Raise Problem if the visitor may see no page. Here everybody may."""


class PageRoute(OpenPageRoute):
    """A route that answers visitors who are signed out with 401 and a page on how to sign in."""

    async def look_who_asks(self, request: Request) -> None:
        """Authenticate before anything is read of the request. Raises Problem 401, or 403 for a cross-site browser."""
        await authenticate(request)


def problem_page(request: Request, problem: Problem) -> Response:
    """Build the page that tells a person of a problem, with the status and the code that the API has for it.

    Args:
        request: The refused request.
        problem: Why it is refused.
    """
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
