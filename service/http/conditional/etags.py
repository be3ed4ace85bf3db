"""Entity tags (RFC 9110): a client with the current one gets 304 before anything is rendered, and edits are guarded.

A route takes `ConditionsDep` and calls `conditions.serve(tag)` once it knows the tag; one that edits calls
`conditions.guard(tag)` before it writes.
"""

import hashlib
import json
import re
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Request
from starlette.datastructures import Headers
from starlette.responses import Response

from service.http.problems.problem import Problem

NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "The `ETag` in `If-None-Match` is current."}}
"""The `responses=` of a route that serves a tag, beside its problems."""

_SHOWN_BY = version("finetooth")
"""Part of every tag: a new version may show the same thing in another way."""

_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_LIST = re.compile(rf"[ \t,]*(?:{_TAG.pattern}[ \t]*(?:,[ \t,]*|$))+")


def strong_tag(*parts: Any) -> str:
    """Make the tag of a representation that is the same byte for byte as long as the parts (JSON, datetimes) are."""
    text = json.dumps([_SHOWN_BY, *parts], default=str, sort_keys=True)
    return f'"{hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]}"'


def weak_tag(*parts: Any) -> str:
    """Make the tag of a representation that means the same as long as the parts are the same. It guards no edit."""
    return f"W/{strong_tag(*parts)}"


def is_known(headers: Headers, tag: str) -> bool:
    """Whether `If-None-Match` holds the tag, or is `*`; weak tags and strong ones compare alike.

    Args:
        headers: The request's headers.
        tag: The current tag, in quotes, with or without `W/`.

    Returns:
        False also if the header is missing or is not a list of tags.
    """
    known = _tags(headers, "if-none-match")
    return known == ["*"] or _opaque(tag) in map(_opaque, known)


class NotModified(Exception):  # noqa: N818  # no error
    """The request has the current tag: it is answered with 304 and these headers. Raised by `Conditions.serve`."""

    def __init__(self, headers: dict[str, str]) -> None:
        """Keep the headers of the 304."""
        super().__init__()
        self.headers = headers


class Conditions:
    """The If-None-Match and If-Match of a request."""

    def __init__(self, request: Request, response: Response) -> None:
        """Read the conditions of a request.

        Args:
            request: The request.
            response: The response to which the route's own headers are added.
        """
        self._request_headers = request.headers
        self._response = response

    def knows(self, tag: str) -> bool:
        """Whether If-None-Match holds the tag; see `is_known`."""
        return is_known(self._request_headers, tag)

    @property
    def asked(self) -> bool:
        """Whether there is an If-None-Match that can be read."""
        return bool(_tags(self._request_headers, "if-none-match"))

    def serve(self, tag: str) -> None:
        """Put the current tag into the answer, and end the request if it has that tag already.

        Headers that belong to a 304 too must be set before.

        Args:
            tag: The current tag.

        Raises:
            NotModified: If-None-Match holds the tag.
        """
        self._response.headers["ETag"] = tag
        if self.knows(tag):
            raise NotModified(dict(self._response.headers))

    def guard(self, tag: str) -> None:
        """Refuse an edit of something that has changed since the client read it. Call it before writing.

        Args:
            tag: The current tag. A weak one matches only `*`.

        Raises:
            Problem: 412 `precondition_failed`: there is an If-Match, and it does not hold the tag.
        """
        if "if-match" not in self._request_headers:
            return
        expected = _tags(self._request_headers, "if-match")
        if expected == ["*"] or (not tag.startswith("W/") and tag in expected):
            return
        detail = "It has changed since you read it. Read it again, and send If-Match with its new ETag."
        raise Problem(412, "precondition_failed", detail, headers={"ETag": tag})


async def _conditions(
    request: Request,
    response: Response,
    _if_none_match: Annotated[
        str | None, Header(alias="If-None-Match", description="The `ETag` that you have: 304 while it is current.")
    ] = None,
) -> Conditions:
    return Conditions(request, response)


ConditionsDep = Annotated[Conditions, Depends(_conditions)]


def install_conditional_requests(app: FastAPI) -> None:
    """Answer NotModified with 304."""
    app.add_exception_handler(NotModified, _on_not_modified)


async def _on_not_modified(request: Request, error: Exception) -> Response:
    assert isinstance(error, NotModified)
    return Response(status_code=304, headers=error.headers)


def _tags(headers: Headers, name: str) -> list[str]:
    """The header's tags; none where it is missing or no list of tags."""
    text = ",".join(headers.getlist(name)).strip()
    if text == "*":
        return ["*"]
    return _TAG.findall(text) if _LIST.fullmatch(text) else []


def _opaque(tag: str) -> str:
    return tag.removeprefix("W/")
