"""Why something that was asked for cannot be done, whoever asks and however they are answered.

Queries, actions and validation raise these. `service.http.problems.handlers` says which HTTP status each class has.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class DomainError(Exception):
    """Something cannot be done. Only its subclasses are raised.

    Args:
        code: Stable name of the kind of error, a key of `PROBLEM_CODES`.
        detail: What happened, and what to do next; no sample text.
        errors: What is wrong in which place of the request, by its pointer, such as `#/items/0` or `query:probe`.
        retry_after: Seconds until the same request may succeed; None: waiting alone does not help.
    """

    def __init__(
        self, code: str, detail: str, *, errors: Mapping[str, str] | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.errors = dict(errors or {})
        self.retry_after = retry_after


class ForbiddenError(DomainError):
    """Whoever asks may not do this."""


class NotFoundError(DomainError):
    """There is no such thing, or another workspace has it.

    Args:
        kind: What is missing; the code is `{kind}_not_found`.
        detail: By default, that there is none of this id.
        errors: As for every DomainError.
    """

    def __init__(self, kind: str, detail: str | None = None, *, errors: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{kind}_not_found", detail or _no_such_id(kind), errors=errors)


class TimedOutError(DomainError):
    """What was being sent did not come in time."""


class ConflictError(DomainError):
    """The state that something is in does not allow this."""


class TooLargeError(DomainError):
    """What was sent is larger than what is accepted."""


class InvalidError(DomainError):
    """What was asked for makes no sense here, whatever the state."""


class InvalidReferenceError(InvalidError):
    """A request names something that the workspace does not have.

    Args:
        kind: What is missing; the code is `{kind}_not_found`.
        pointer: Where in the request its id stands.
    """

    def __init__(self, kind: str, pointer: str) -> None:
        super().__init__(f"{kind}_not_found", _no_such_id(kind), errors={pointer: f"no such {kind}"})


class InvalidCursorError(InvalidError):
    """`after` is no cursor of the list that it was sent to."""

    def __init__(self) -> None:
        super().__init__(
            "invalid_cursor",
            "`after` is not a cursor of this list. Take it from `next_after`, or leave it out to start at the top.",
            errors={"query:after": "not a cursor of this list"},
        )


class UnavailableError(DomainError):
    """The server does as much of this as it can just now."""


class StorageFullError(DomainError):
    """The disk is full."""


@contextmanager
def missing_is_not_found(kind: str) -> Iterator[None]:
    """Turn the LookupError with which commands of `service.lifecycle` say that there is no such row into NotFoundError.

    Args:
        kind: What is missing then, as for NotFoundError.

    Raises:
        NotFoundError: The block raised LookupError.
    """
    try:
        yield
    except LookupError:
        raise NotFoundError(kind) from None


def json_pointer(*path: str | int) -> str:
    """Make the pointer to a place in a JSON body (RFC 6901), as a fragment."""
    return "#" + "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _no_such_id(kind: str) -> str:
    return f"There is no {kind} of this id. Check the id and the key."
