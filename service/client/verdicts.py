"""Verdicts: what reviewers say of samples, one by one or many at once."""

from collections.abc import Iterator, Mapping
from typing import Any

from service.client.connection import Connection
from service.client.errors import Json
from service.client.paths import resource


class Verdicts(Connection):
    """The methods of `Client` for reviewing findings."""

    def verdict(self, audit_id: str, row: int) -> Json:
        """Return the current verdict on a sample.

        Args:
            audit_id: An audit that has succeeded.
            row: The sample's position in the dataset, from 0.

        Returns:
            The verdict; pass its `etag` to `set_verdict` so that nothing newer is overwritten.
        """
        return self._tagged("GET", _verdict_path(audit_id, row))

    def set_verdict(
        self, audit_id: str, row: int, verdict: str, note: str | None = None, *, if_match: str | None = None
    ) -> Json:
        """Give a verdict on a sample.

        Args:
            audit_id: An audit that has succeeded.
            row: The sample's position in the dataset, from 0.
            verdict: `confirmed`, `rejected` or `unsure`.
            note: The reviewer's reason.
            if_match: An `etag`: write only if the verdict is still the one with this tag.

        Returns:
            The verdict as it is now.

        Raises:
            ApiError: With the code `precondition_failed` if the verdict has changed since `if_match`.
        """
        body = {"verdict": verdict, "note": note}
        return self._tagged("PUT", _verdict_path(audit_id, row), json=body, headers=_guarded(if_match))

    def withdraw_verdict(self, audit_id: str, row: int, *, if_match: str | None = None) -> None:
        """Withdraw one's own verdict on a sample. Idempotent.

        Args:
            audit_id: An audit that has succeeded.
            row: The sample's position in the dataset, from 0.
            if_match: As for `set_verdict`.
        """
        self._request("DELETE", _verdict_path(audit_id, row), headers=_guarded(if_match))

    def verdict_history(self, audit_id: str, row: int) -> Iterator[Json]:
        """List every change to the verdicts on a sample, newest first.

        Args:
            audit_id: An audit that has succeeded.
            row: The sample's position in the dataset, from 0.
        """
        return self._pages(_verdict_path(audit_id, row) + "/history")

    def set_verdicts(
        self,
        audit_id: str,
        verdict: str | None,
        *,
        filter: Mapping[str, Any],
        note: str | None = None,
        token: str | None = None,
    ) -> Json:
        """Give the same verdict on all samples that a filter keeps, in two calls.

        The first call, without a token, changes nothing: it returns how many samples the filter keeps and a token. The
        second call sends the token back.

        Args:
            audit_id: An audit that has succeeded.
            verdict: `confirmed`, `rejected`, `unsure`, or None to withdraw.
            filter: Filters as for `findings`.
            note: The reviewer's reason.
            token: From the first call.

        Returns:
            The count and the token, or the bulk that was made.
        """
        body = {"filter": dict(filter), "verdict": verdict, "note": note, "dry_run": token is None, "token": token}
        return self._send("POST", resource("audits", audit_id, "verdicts"), json=body)

    def bulks(self, audit_id: str) -> Iterator[Json]:
        """List the verdicts given on many samples at once, newest first."""
        return self._pages(resource("audits", audit_id, "verdicts", "bulks"))

    def undo_bulk(self, audit_id: str, bulk_id: str) -> Json:
        """Restore the earlier verdict on each sample of a bulk, unless a newer one has been given since.

        Args:
            audit_id: The audit.
            bulk_id: The bulk; see `bulks`.
        """
        return self._send("POST", resource("audits", audit_id, "verdicts", "bulks", bulk_id, "undo"))

    def precision(self, audit_id: str) -> Json:
        """Return how many of the first findings reviewers have confirmed, with exact intervals."""
        return self._send("GET", resource("audits", audit_id, "precision"))


def _verdict_path(audit_id: str, row: int) -> str:
    return resource("audits", audit_id, "findings", row, "verdict")


def _guarded(tag: str | None) -> dict[str, str]:
    return {} if tag is None else {"If-Match": tag}
