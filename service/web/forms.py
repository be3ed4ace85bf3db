"""Forms of pages: what a browser sends with POST as names and texts, and where it goes afterwards."""

from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from starlette.responses import RedirectResponse

from service.http.problems.problem import Problem

FORM_BYTES = 2**20
"""The largest form that is read."""

FORM_FIELDS = 1_000
"""The most fields of one."""

MEDIA_TYPE = "application/x-www-form-urlencoded"


async def read_form(request: Request) -> dict[str, str]:
    """Read the fields of a form; of a name that comes twice the last one counts.

    The page's route knows who asks, and that a page of ours asks, before this is called.

    Raises:
        Problem: 413 `body_too_large`, or 422 `invalid_request` where the body is no form.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != MEDIA_TYPE:
        raise Problem(422, "invalid_request", f"Send the form as {MEDIA_TYPE}, as browsers do.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_BYTES:
            raise Problem(413, "body_too_large", f"The form is larger than {FORM_BYTES // 2**20} MiB.")
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
