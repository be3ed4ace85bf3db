"""Findings: what an audit says of each sample, and how two audits differ."""

from collections.abc import Iterator
from typing import Any

from service.client.connection import PAGE, UPLOAD_TIMEOUT, Connection, without_none
from service.client.errors import Json
from service.client.paths import resource


class Findings(Connection):
    """The methods of `Client` for samples' results and comparisons."""

    def findings(
        self,
        audit_id: str,
        *,
        probe: int = 0,
        flagged: bool | None = None,
        max_q: float | None = None,
        min_mu: float | None = None,
        min_z: float | None = None,
        group: str | None = None,
        cluster: int | None = None,
        side: str | None = None,
        verdict: str | None = None,
        reviewer: str | None = None,
        text: str | None = None,
        sort: str = "rank",
        limit: int = PAGE,
    ) -> Iterator[Json]:
        """List samples' results in order, over all pages; None leaves a filter out.

        Args:
            audit_id: An audit that has succeeded.
            probe: 0 for the result over all probes, or one probe's position from 1.
            flagged: Only samples that are flagged, or only those that are not.
            max_q: Only samples with a q-value of at most this.
            min_mu: Only samples with a mu of at least this.
            min_z: Only samples with a z of at least this.
            group: Only samples of this group.
            cluster: Only the near-duplicates of which this is the first row.
            side: Only samples that speak `toward` the unwanted answers, `against` them, or for `both` sides.
            verdict: Only samples with this verdict; `disputed` where reviewers differ, `none` where there is none.
            reviewer: Only samples on which the key or person with this id has a verdict now.
            text: Only flagged and top-ranked samples that match a search such as `word -without "a phrase"`.
            sort: The order; docs/api.md has the list.
            limit: Samples a page, 1 to 1,000.

        Yields:
            Results without the samples' traces.
        """
        wanted = without_none(
            probe=probe or None, flagged=flagged, max_q=max_q, min_mu=min_mu, min_z=min_z, group=group, cluster=cluster,
            side=side, verdict=verdict, reviewer=reviewer, text=text,
        )  # fmt: skip
        parameters = {name: _query_value(value) for name, value in {**wanted, "sort": sort}.items()}
        return self._pages(resource("audits", audit_id, "findings"), limit, parameters)

    def finding(self, audit_id: str, row: int) -> Json:
        """Return one sample's result with its text, each probe's result, its trace and the baselines' scores.

        Args:
            audit_id: An audit that has succeeded.
            row: The sample's position in the dataset, from 0.
        """
        return self._send("GET", resource("audits", audit_id, "findings", row))

    def compare(self, base: str, other: str) -> Json:
        """Compare the flags, the order, the configuration and the data of two audits that have succeeded.

        Args:
            base: The id of the audit to compare with.
            other: The id of the audit that is compared.
        """
        return self._send("GET", "/v1/comparisons", params={"base": base, "other": other}, timeout=UPLOAD_TIMEOUT)

    def comparison_changes(self, base: str, other: str, change: str, *, limit: int = PAGE) -> Iterator[Json]:
        """List the samples that only one of two audits flags.

        Args:
            base: The id of the audit to compare with.
            other: The id of the audit that is compared.
            change: `newly_flagged` for samples flagged by `other` alone, `no_longer_flagged` for `base` alone.
            limit: Samples a page, 1 to 1,000; all pages are read.
        """
        return self._pages("/v1/comparisons/changes", limit, {"base": base, "other": other, "change": change})


def _query_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
