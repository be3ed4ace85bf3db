"""Pages of a list by keyset, with an opaque cursor: no offsets, and no counting of the whole list."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel

from service.errors import InvalidCursorError

DEFAULT_LIMIT = 50
"""Items of a page if the request does not say."""

MAX_LIMIT = 1000
"""The most items of a page."""

CURSOR = "^[A-Za-z0-9_-]*$"
"""What cursors look like: URL-safe base64 without padding."""

R = TypeVar("R")
T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """One page of a list. Ask again with `after=next_after` while `has_more`."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool
    next_after: str | None


def make_cursor(key: str) -> str:
    """Make the `after` that starts a page behind the row with this key."""
    return base64.urlsafe_b64encode(key.encode("ascii")).decode("ascii").rstrip("=")


class PageRequest:
    """The query parameters `limit` and `after`, and the response whose `Link` header gives the next page."""

    def __init__(
        self, request: Request, response: Response, limit: int = DEFAULT_LIMIT, after: str | None = None
    ) -> None:
        """Read which page is asked for.

        Args:
            request: The request, whose address the next page's is made from.
            response: The response that gets the `Link` header.
            limit: The most items of the page, 1 to MAX_LIMIT.
            after: The cursor behind which the page starts.
        """
        self._request = request
        self._response = response
        self.limit = limit
        self._after = after

    @property
    def after(self) -> str | None:
        """The key behind which the page starts; None at the start of the list.

        Raises:
            InvalidCursorError: The cursor was not made by a page.
        """
        if self._after is None:
            return None
        try:
            padded = self._after + "=" * (-len(self._after) % 4)
            key = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
        except (binascii.Error, ValueError):
            raise InvalidCursorError from None
        if "\0" in key:
            raise InvalidCursorError
        return key

    @property
    def after_number(self) -> int | None:
        """The key behind which the page starts, in a list with numbers as keys; None at the start of the list.

        Raises:
            InvalidCursorError: The cursor was not made by a page of such a list.
        """
        key = self.after
        if key is None:
            return None
        if not key.isdigit() or len(key) > 18:
            raise InvalidCursorError
        return int(key)

    def page(
        self,
        rows: Sequence[R],
        *,
        key: Callable[[R], str | int],
        render: Callable[[R], T],
        keep: int | None = None,
        resumable: bool = False,
    ) -> Page[T]:
        """Make the page of `rows`.

        Args:
            rows: The rows behind `after`, up to one more than `limit`: that one tells that there is a next page.
            key: Returns the key of a row, which `after` holds on the page behind it.
            render: Returns the row as the API shows it.
            keep: Cuts the page shorter than `limit`.
            resumable: Whether the list grows at its end: its last page then has a `next_after` too.
        """
        kept = rows[: self.limit if keep is None else keep]
        has_more = len(rows) > len(kept)
        last = str(key(kept[-1])) if kept and (has_more or resumable) else None
        return self._page([render(row) for row in kept], last, has_more=has_more)

    def page_up_to(self, data: list[T], next_key: str | None) -> Page[T]:
        """Make a page of exactly these rows.

        Args:
            data: The rows as the API shows them.
            next_key: The key behind which the next page starts; None ends the list.
        """
        return self._page(data, next_key, has_more=next_key is not None)

    def _page(self, data: list[T], last: str | None, *, has_more: bool) -> Page[T]:
        cursor = None if last is None else make_cursor(last)
        if has_more:
            url = self._request.url.include_query_params(after=cursor)
            self._response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
        return Page(data=data, has_more=has_more, next_after=cursor)


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
