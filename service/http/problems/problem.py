"""The problem document of RFC 9457 and the exception that becomes one."""

from collections.abc import Mapping, Sequence

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from service.http.problems.codes import title_of

MEDIA_TYPE = "application/problem+json"
"""The media type of problem documents (RFC 9457)."""


class ProblemError(BaseModel):
    """One thing that is wrong, and where."""

    pointer: str
    detail: str


class ProblemDocument(BaseModel):
    """The body of every answer of status 400 and above."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str | None
    errors: list[ProblemError] = []


class Problem(Exception):  # noqa: N818  # the standard's word
    """A refusal for a reason of HTTP itself; everything else raises a `service.errors.DomainError`.

    Args:
        status: The answer's status.
        code: The stable name of the kind of problem, a key of `PROBLEM_CODES`.
        detail: What happened, and what to do next.
        title: By default, the status in words.
        errors: `pointer` and `detail` of each thing that is wrong.
        headers: Sent with the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        title: str | None = None,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail
        self.title = title or title_of(status)
        self.errors = [ProblemError(**error) for error in errors]
        self.headers = dict(headers or {})


def problem_response(request: Request, problem: Problem) -> Response:
    """Build the response that carries a problem document.

    Args:
        request: The refused request.
        problem: Why it is refused.
    """
    document = ProblemDocument(
        type=f"urn:finetooth:problem:{problem.code}",
        title=problem.title,
        status=problem.status,
        detail=problem.detail,
        instance=request.url.path,
        code=problem.code,
        request_id=getattr(request.state, "request_id", None),
        errors=problem.errors,
    )
    return JSONResponse(document.model_dump(), problem.status, headers=problem.headers, media_type=MEDIA_TYPE)
