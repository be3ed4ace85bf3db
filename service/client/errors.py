"""What a client raises when the service refuses, does not answer, or an export has failed."""

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]
"""A JSON object as the API answers with it."""


class ApiError(Exception):
    """The API refused: `problem` is its RFC 9457 problem document."""

    def __init__(self, problem: Json, retry_after: float | None = None) -> None:
        """Keep a refusal.

        Args:
            problem: The problem document, at least with `status`, `code` and `detail`.
            retry_after: Seconds after which the service asks to be asked again, if it does.
        """
        super().__init__(problem["detail"])
        self.problem = problem
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(self.problem["status"])

    @property
    def code(self) -> str:
        """The problem's code, which stays the same between versions, so that programs can match on it."""
        return str(self.problem["code"])

    @property
    def detail(self) -> str:
        """What happened and what to do next."""
        return str(self.problem["detail"])

    @property
    def errors(self) -> Sequence[Mapping[str, str]]:
        """Each thing that is wrong, with its `pointer` (such as `line:17` or `#/q`) and its `detail`."""
        return self.problem.get("errors") or []


class UnreachableError(Exception):
    """The service does not answer, or the connection broke off."""


class ExportError(Exception):
    """An export has failed or was cancelled: `export` is its last state."""

    def __init__(self, export: Json) -> None:
        """Keep the export, and say why there is no file."""
        reason = export["error"]
        why = "it was cancelled" if reason is None else f"{reason['message']} {reason['hint']}"
        super().__init__(f"export {export['id']}: {why}")
        self.export = export
