"""Forms of pages: what a browser sends with POST as names and texts, and where it goes afterwards."""

import asyncio
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from starlette.responses import RedirectResponse

from service.http.problems.problem import Problem

FORM_BYTES = 2**20
"""The largest form that is read."""

FORM_SECONDS = 60.0
"""Seconds within which a whole form must come: until then what has come stays in memory."""

FORM_FIELDS = 1_000
"""The most fields of a form."""

MEDIA_TYPE = "application/x-www-form-urlencoded"
"""The media type of a form without files."""


async def read_form(request: Request) -> dict[str, str]:
    """Read the fields of a form; of a name that comes twice the last one counts.

    The page's route knows who asks, and that a page of ours asks, before this is called.

    Raises:
        Problem: 413 `body_too_large`, 408 `body_stalled`, or 422 `invalid_request` where the body is no form.
    """
    return await read_bounded_form(request, most_bytes=FORM_BYTES, seconds=FORM_SECONDS)


async def read_bounded_form(request: Request, *, most_bytes: int, seconds: float) -> dict[str, str]:
    """Read the fields of a form of which less is expected than `read_form` takes.

    Args:
        request: Whose body is read.
        most_bytes: The largest body that is read.
        seconds: How long it may take to come.

    Raises:
        Problem: 413 `body_too_large`, 408 `body_stalled`, or 422 `invalid_request` where the body is no form.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != MEDIA_TYPE:
        raise Problem(422, "invalid_request", f"Send the form as {MEDIA_TYPE}, as browsers do.")
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most_bytes:
                    detail = f"The form is larger than {most_bytes // 2**10:,} KiB."
                    raise Problem(413, "body_too_large", detail)
    except TimeoutError:
        detail = "The form did not come to its end in time. Load the page again and send it once more."
        raise Problem(408, "body_stalled", detail, headers={"Connection": "close"}) from None
    try:
        fields = parse_qsl(
            bytes(body).decode(), keep_blank_values=True, errors="strict", max_num_fields=FORM_FIELDS, separator="&"
        )
    except ValueError as error:
        raise Problem(422, "invalid_request", "The form could not be read; load the page again.") from error
    return dict(fields)


FormDep = Annotated[dict[str, str], Depends(read_form)]


def see_other(path: str) -> RedirectResponse:
    """Send the browser to a page of ours after its form was done (RFC 9110, 303), so that a reload repeats nothing.

    Args:
        path: As routes name it: `SubPath` puts in front what a proxy serves it under.
    """
    return RedirectResponse(path, 303)
