"""Audits: starting and stopping them, watching them, and what they found as a whole."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import httpx

from service.client.connection import PAGE, Connection, StreamEndedError, is_passing, without_none
from service.client.errors import ApiError, Json, UnreachableError
from service.client.paths import resource

REPORT_TIMEOUT = httpx.Timeout(120.0, connect=5.0)
"""The service draws the report's charts for each request, at a few a second."""


class Audits(Connection):
    """The methods of `Client` for audits."""

    def create_audit(
        self,
        dataset_id: str,
        probe_ids: Sequence[str],
        model_id: str,
        *,
        training: Mapping[str, Any] | None = None,
        seeds: int = 1,
        q: float = 0.05,
        group_column: str | None = None,
        trusted_column: str | None = None,
        priority: str = "normal",
    ) -> Json:
        """Queue an audit.

        Args:
            dataset_id: The samples to audit.
            probe_ids: The behaviours to look for, at least one.
            model_id: The base model's id or name.
            training: Fields of `TrainingConfig` that differ from its defaults; docs/api.md lists them.
            seeds: How many training runs, each with a seed of its own.
            q: The largest expected share of false flags among the flags, above 0 and below 1.
            group_column: The column by whose values samples are grouped.
            trusted_column: The column that marks samples known to be clean.
            priority: low, normal or, for admins, high: which of the workspace's own waiting audits go first.

        Returns:
            The audit, with the status `queued`.
        """
        body = {
            "dataset_id": dataset_id,
            "probe_ids": list(probe_ids),
            "model_id": model_id,
            "training": dict(training or {}),
            "seeds": seeds,
            "q": q,
            "group_column": group_column,
            "trusted_column": trusted_column,
            "priority": priority,
        }
        return self._create("/v1/audits", lambda: {"json": body})

    def estimate(
        self,
        dataset_id: str,
        probe_ids: Sequence[str],
        model_id: str,
        *,
        training: Mapping[str, Any] | None = None,
        seeds: int = 1,
    ) -> Json:
        """Estimate what an audit would cost, without queueing one.

        Args:
            dataset_id: The samples to audit.
            probe_ids: The behaviours to look for, at least one.
            model_id: The base model's id or name.
            training: As for `create_audit`.
            seeds: How many training runs.

        Returns:
            Steps, tokens, memory, time and warnings.
        """
        body = {
            "dataset_id": dataset_id,
            "probe_ids": list(probe_ids),
            "model_id": model_id,
            "training": dict(training or {}),
            "seeds": seeds,
        }
        return self._send("POST", "/v1/audits/estimate", json=body)

    def audits(self) -> Iterator[Json]:
        """List the audits, newest first, without their summaries."""
        return self._pages("/v1/audits")

    def audit(self, audit_id: str) -> Json:
        """Return an audit's status, stage and progress, and its error or summary once it has ended."""
        return self._send("GET", resource("audits", audit_id))

    def wait(
        self,
        audit_id: str,
        *,
        on_progress: Callable[[Json], None] = lambda audit: None,
        poll_seconds: float = 1.0,
        patience_seconds: float = 60.0,
    ) -> Json:
        """Wait until an audit has ended, and return it.

        Args:
            audit_id: The audit.
            on_progress: Called with the audit when it has changed, and at least every HOLD_SECONDS.
            poll_seconds: Pause between requests where the service does not hold them until there is news.
            patience_seconds: For how long a service that does not answer is asked again.

        Returns:
            The audit, with the status `succeeded`, `failed` or `cancelled`.

        Raises:
            ApiError: The service refuses.
            UnreachableError: It has not answered for `patience_seconds`.
        """
        return self._wait_for(
            resource("audits", audit_id),
            on_progress=on_progress,
            poll_seconds=poll_seconds,
            patience_seconds=patience_seconds,
        )

    def follow(self, audit_id: str, *, after: int = 0, patience_seconds: float = 60.0) -> Iterator[Json]:
        """Yield an audit's events as they happen, each once, until the one that ends it.

        A stream that breaks off is resumed.

        Args:
            audit_id: The audit.
            after: The `seq` of the last event that is known; 0 gives all.
            patience_seconds: For how long a service that does not answer is asked again.

        Yields:
            Events in the order of their `seq`.

        Raises:
            ApiError: The service refuses.
            UnreachableError: It has not answered for `patience_seconds`.
        """
        answered_at = time.monotonic()
        while True:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
            came = False
            try:
                for event in self._stream(resource("audits", audit_id, "events"), headers):
                    answered_at = time.monotonic()
                    if event is None:
                        continue
                    came = True
                    after = event["seq"]
                    yield event
            except StreamEndedError:
                return
            except (UnreachableError, ApiError) as error:
                if not is_passing(error) or time.monotonic() - answered_at > patience_seconds:
                    raise
            if not came:
                time.sleep(1.0)

    def events(self, audit_id: str, *, limit: int = PAGE) -> Iterator[Json]:
        """List what has happened to an audit so far, oldest first.

        Args:
            audit_id: The audit.
            limit: Events a page, 1 to 1,000; all pages are read.
        """
        return self._pages(resource("audits", audit_id, "events"), limit)

    def cancel_all(self, *, status: str = "queued", created_by: str | None = None) -> list[str]:
        """Cancel all audits of the workspace that are queued, or running.

        Args:
            status: `queued` or `running`.
            created_by: The id of the key or person that started them, or `me`; None for everybody's.

        Returns:
            The ids of the cancelled audits.
        """
        cancelled: list[str] = []
        while True:
            body = {"status": status, "created_by": created_by}
            answer = self._send("POST", "/v1/audits/cancel", json=body)
            cancelled += answer["audit_ids"]
            if not answer["has_more"]:
                return cancelled

    def cancel(self, audit_id: str) -> Json:
        """Ask for an audit to stop. Idempotent."""
        return self._send("POST", resource("audits", audit_id, "cancel"))

    def retry(self, audit_id: str) -> Json:
        """Queue a failed or cancelled audit again; it continues where it was. Idempotent."""
        return self._send("POST", resource("audits", audit_id, "retry"))

    def delete_audit(self, audit_id: str) -> None:
        """Delete an audit that has ended, with its findings, verdicts, events and exports."""
        self._delete(resource("audits", audit_id))

    def summary(self, audit_id: str) -> Json:
        """Return the summary of an audit that has succeeded."""
        return self._send("GET", resource("audits", audit_id, "summary"))

    def histogram(self, audit_id: str, *, probe: int = 1) -> Json:
        """Return the histogram of a probe's scores: counts of z by bin, the null and the threshold.

        Args:
            audit_id: An audit that has succeeded.
            probe: Its position among the audit's probes, from 1.
        """
        return self._part(audit_id, "histogram", probe=probe)

    def curve(self, audit_id: str, *, probe: int = 1, group: str | None = None) -> Json:
        """Return a probe's sensitivity curve, or a group's trade-off curve.

        Args:
            audit_id: An audit that has succeeded.
            probe: Its position among the audit's probes, from 1.
            group: A value of the group column: the answer is this group's trade-off curve toward the first probe.
        """
        return self._part(audit_id, "curve", probe=probe, group=group)

    def calibration(self, audit_id: str, *, probe: int = 1) -> Json:
        """Return how well a probe's null fits: tail counts and QQ points of samples and placebos.

        Args:
            audit_id: An audit that has succeeded.
            probe: Its position among the audit's probes, from 1.
        """
        return self._part(audit_id, "calibration", probe=probe)

    def groups(self, audit_id: str, *, limit: int = PAGE) -> Iterator[Json]:
        """List the groups by name, without their curves.

        Args:
            audit_id: An audit that has succeeded.
            limit: Groups a page, 1 to 1,000; all pages are read.
        """
        return self._pages(resource("audits", audit_id, "groups"), limit)

    def metrics(self, audit_id: str, *, probe: int = 1) -> Json:
        """Return what training measured: losses, a probe's drift, time, tokens, speed, and the loss curve.

        Args:
            audit_id: An audit that has succeeded.
            probe: Its position among the audit's probes, from 1.
        """
        return self._part(audit_id, "metrics", probe=probe)

    def report(self, audit_id: str) -> bytes:
        """Return the report as one HTML file to read, print and keep."""
        return self._request("GET", resource("audits", audit_id, "report"), timeout=REPORT_TIMEOUT).content

    def _part(self, audit_id: str, name: str, **wanted: int | str | None) -> Json:
        return self._send("GET", resource("audits", audit_id, name), params=without_none(**wanted))
