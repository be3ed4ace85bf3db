"""Lists: pages by keyset, with an opaque cursor; no offsets and no counts of everything."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel

from service.http.problems.problem import Problem

DEFAULT_LIMIT = 50
MAX_LIMIT = 1000
CURSOR = "^[A-Za-z0-9_-]*$"

R = TypeVar("R")
T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """One page of a list. Ask again with `after=next_after` while `has_more`."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool
    next_after: str | None


class PageRequest:
    """The query parameters `limit` and `after`, and where the next page's address is written."""

    def __init__(
        self, request: Request, response: Response, limit: int = DEFAULT_LIMIT, after: str | None = None
    ) -> None:
        self._request = request
        self._response = response
        self.limit = limit
        self._after = after

    @property
    def after(self) -> str | None:
        """The key that the page starts behind. Raises Problem 422 `invalid_cursor` for what no page gave."""
        if self._after is None:
            return None
        try:
            padded = self._after + "=" * (-len(self._after) % 4)
            key = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
        except (binascii.Error, ValueError):
            raise invalid_cursor() from None
        if "\0" in key:
            raise invalid_cursor()
        return key

    @property
    def after_number(self) -> int | None:
        """The same for keys that are numbers."""
        key = self.after
        if key is None:
            return None
        if not key.isdigit() or len(key) > 18:
            raise invalid_cursor()
        return int(key)

    def page(
        self,
        rows: Sequence[R],
        *,
        key: Callable[[R], str | int],
        render: Callable[[R], T],
        keep: int | None = None,
        resumable: bool = False,
        resume: str | None = None,
    ) -> Page[T]:
        """The page of `rows`, which were asked for with one more than `limit`.

        keep cuts the page shorter than `limit`. resumable: a list that grows at its end has a `next_after` on its
        last page too. resume: the search for rows stopped behind this key before the page was full.
        """
        kept = rows[: self.limit if keep is None else keep]
        has_more = len(rows) > len(kept) or resume is not None
        last = None
        if kept and (len(rows) > len(kept) or (resumable and resume is None)):
            last = str(key(kept[-1]))
        elif resume is not None:
            last = resume
        cursor = None if last is None else base64.urlsafe_b64encode(last.encode("ascii")).decode("ascii").rstrip("=")
        if has_more:
            url = self._request.url.include_query_params(after=cursor)
            self._response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
        return Page(data=[render(row) for row in kept], has_more=has_more, next_after=cursor)


async def _page_request(
    request: Request,
    response: Response,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Items a page.")] = DEFAULT_LIMIT,
    after: Annotated[
        str | None,
        Query(max_length=200, description="`next_after` of the page before.", json_schema_extra={"pattern": CURSOR}),
    ] = None,
) -> PageRequest:
    return PageRequest(request, response, limit, after)


PageDep = Annotated[PageRequest, Depends(_page_request)]


def invalid_cursor() -> Problem:
    """422 `invalid_cursor`."""
    return Problem(
        422,
        "invalid_cursor",
        "`after` is not a cursor of this list. Take it from `next_after`, or leave it out to start at the top.",
        errors=[{"pointer": "query:after", "detail": "not a cursor of this list"}],
    )
