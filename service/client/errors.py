"""What a client raises where the service refuses, does not answer, or an export has failed."""

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]
"""A JSON object as the API answers with it."""


class ApiError(Exception):
    """The API refused: `problem` is its RFC 9457 problem document."""

    def __init__(self, problem: Json, retry_after: float | None = None) -> None:
        super().__init__(problem["detail"])
        self.problem = problem
        self.retry_after = retry_after
        """Seconds after which the service asks to be asked again, if it does."""

    @property
    def status(self) -> int:
        """HTTP status."""
        return int(self.problem["status"])

    @property
    def code(self) -> str:
        """Stable; programs match on it."""
        return str(self.problem["code"])

    @property
    def detail(self) -> str:
        """What happened and what to do next."""
        return str(self.problem["detail"])

    @property
    def errors(self) -> Sequence[Mapping[str, str]]:
        """{pointer, detail} of each thing that is wrong; a pointer such as `line:17` or `#/q`."""
        return self.problem.get("errors") or []


class UnreachableError(Exception):
    """The service does not answer, or broke off."""


class ExportError(Exception):
    """An export has come to nothing: `export` is how it stands."""

    def __init__(self, export: Json) -> None:
        reason = export["error"]
        why = "it was cancelled" if reason is None else f"{reason['message']} {reason['hint']}"
        super().__init__(f"export {export['id']}: {why}")
        self.export = export
