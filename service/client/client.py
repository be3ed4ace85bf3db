"""A client of Finetooth's REST API. Answers are the API's JSON objects as dictionaries; see docs/api.md."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from service.client.connection import (
    BLOCK_BYTES,
    PAGE,
    UPLOAD_TIMEOUT,
    Connection,
    StreamEndedError,
    is_passing,
    without_none,
)
from service.client.dataset_files import files_of
from service.client.errors import ApiError, ExportError, Json, UnreachableError
from service.client.upload_in_parts import FROM_BYTES, upload_in_parts

REPORT_TIMEOUT = httpx.Timeout(120.0, connect=5.0)


class Client(Connection):
    """One service and one key. Close it, or use it as a context manager.

    Every method raises ApiError where the API refuses, and UnreachableError where it does not answer.
    """

    # ------------------------------------------------------------ what an audit needs

    def upload_dataset(
        self,
        path: Path,
        *,
        name: str | None = None,
        format: str = "auto",
        prompt_column: str | None = None,
        answer_column: str | None = None,
        system_column: str | None = None,
        replaces: str | None = None,
        on_progress: Callable[[int, int], None] = lambda sent, total: None,
    ) -> Json:
        """Streams a file of JSONL, JSON, CSV (plain, gzip or zstd), Parquet or Arrow, or a folder of `save_to_disk`.

        on_progress is told bytes sent of all. Records of a form of their own are read by naming the columns of their
        texts; `format` is then left out. `replaces` is the id of the dataset of which it becomes the next version. A
        large one is sent in parts, and goes on after the connection was lost. Raises OSError if a file cannot be read.
        """
        with ExitStack() as opened:
            files = [opened.enter_context(part.open("rb")) for part in files_of(path)]
            sizes = [os.fstat(file.fileno()).st_size for file in files]
            total = sum(sizes)
            # The service knows a file by its content.
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(total)}

            def body() -> Iterator[bytes]:
                sent = 0
                for file, size in zip(files, sizes, strict=True):
                    left = size
                    while left and (block := file.read(min(BLOCK_BYTES, left))):
                        yield block
                        left -= len(block)
                        sent += len(block)
                        on_progress(sent, total)

            def options() -> Json:
                for file in files:
                    file.seek(0)  # also where it is sent again
                return {"params": parameters, "headers": headers, "content": body(), "timeout": UPLOAD_TIMEOUT}

            more = without_none(
                prompt_column=prompt_column,
                answer_column=answer_column,
                system_column=system_column,
                replaces=replaces,
            )
            parameters = {"format": format, "name": path.name if name is None else name, **more}
            if total >= FROM_BYTES:
                return upload_in_parts(self, files, sizes, parameters, on_progress)
            return self._create("/v1/datasets", options)

    def create_probe(self, name: str, items: Sequence[Mapping[str, str | None]]) -> Json:
        """Items are {prompt, unwanted, reference?}."""
        body = {"name": name, "items": [dict(item) for item in items]}
        return self._create("/v1/probes", lambda: {"json": body})

    def create_probe_from_pack(
        self, pack: str, parameters: Mapping[str, str] | None = None, *, name: str | None = None
    ) -> Json:
        """A probe of a built-in pack's items; `parameters` gives each of the pack's."""
        body = {"pack": pack, "parameters": dict(parameters or {}), "name": name}
        return self._create("/v1/probes", lambda: {"json": body})

    def probe_pack(self, name: str) -> Json:
        """One pack with its parameters and items."""
        return self._send("GET", f"/v1/probe-packs/{quote(name, safe='')}")

    def probe(self, probe_id: str) -> Json:
        """One probe with its items."""
        return self._send("GET", f"/v1/probes/{quote(probe_id, safe='')}")

    def delete_probe(self, probe_id: str) -> None:
        """Deletes a probe that no audit stands on."""
        self._delete(f"/v1/probes/{quote(probe_id, safe='')}")

    def create_model(self, name: str, source: str, location: str, revision: str | None = None) -> Json:
        """Registers a base model; needs the scope `admin`."""
        body = {"name": name, "source": source, "location": location, "revision": revision}
        return self._create("/v1/models", lambda: {"json": body})

    def model(self, id_or_name: str) -> Json:
        """One registered model."""
        return self._send("GET", f"/v1/models/{quote(id_or_name, safe='')}")

    def delete_model(self, id_or_name: str) -> None:
        """Takes a model that no audit stands on out of the register; needs the scope `admin`."""
        self._delete(f"/v1/models/{quote(id_or_name, safe='')}")

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
        """Queues an audit. `model_id` is an id or a name; `training` holds fields of contract.TrainingConfig.

        priority is low, normal or, for admins, high: which of the workspace's own waiting audits go first.
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
        """What such an audit would cost: steps, tokens, memory, time, warnings. Nothing is queued."""
        body = {
            "dataset_id": dataset_id,
            "probe_ids": list(probe_ids),
            "model_id": model_id,
            "training": dict(training or {}),
            "seeds": seeds,
        }
        return self._send("POST", "/v1/audits/estimate", json=body)

    def audit(self, audit_id: str) -> Json:
        """State, stage, progress; error or summary."""
        return self._send("GET", f"/v1/audits/{quote(audit_id, safe='')}")

    def wait(
        self,
        audit_id: str,
        *,
        on_progress: Callable[[Json], None] = lambda audit: None,
        poll_seconds: float = 1.0,
        patience_seconds: float = 60.0,
    ) -> Json:
        """Waits until the audit has ended, and returns it. A service that is away is waited for patience_seconds.

        on_progress is told the audit when it has changed, and at least every HOLD_SECONDS. Where the service does not
        hold requests, or holds too many, it is asked every poll_seconds.
        """
        return self._wait_for(
            f"/v1/audits/{quote(audit_id, safe='')}",
            on_progress=on_progress,
            poll_seconds=poll_seconds,
            patience_seconds=patience_seconds,
        )

    def follow(self, audit_id: str, *, after: int = 0, patience_seconds: float = 60.0) -> Iterator[Json]:
        """The audit's events after number `after` as they happen, until the one that ends it; each once.

        A stream that breaks is taken up again, and a service that is away is waited for patience_seconds.
        """
        path = f"/v1/audits/{quote(audit_id, safe='')}/events"
        answered_at = time.monotonic()
        while True:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
            came = False
            try:
                for event in self._stream(path, headers):
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

    def cancel_all(self, *, status: str = "queued", created_by: str | None = None) -> list[str]:
        """Cancels all audits of the workspace that are `queued`, or `running`; returns their ids.

        created_by is the id of the key or person that has started them, or `me`; None: everybody's.
        """
        cancelled: list[str] = []
        while True:
            body = {"status": status, "created_by": created_by}
            answer = self._send("POST", "/v1/audits/cancel", json=body)
            cancelled += answer["audit_ids"]
            if not answer["has_more"]:
                return cancelled

    def cancel(self, audit_id: str) -> Json:
        """Asks for the audit to stop. Idempotent."""
        return self._send("POST", f"/v1/audits/{quote(audit_id, safe='')}/cancel")

    def retry(self, audit_id: str) -> Json:
        """Queues a failed or cancelled audit again: it goes on where it was. Idempotent."""
        return self._send("POST", f"/v1/audits/{quote(audit_id, safe='')}/retry")

    def summary(self, audit_id: str) -> Json:
        """The answer in numbers, of an audit that has succeeded."""
        return self._send("GET", f"/v1/audits/{quote(audit_id, safe='')}/summary")

    def histogram(self, audit_id: str, *, probe: int = 1) -> Json:
        """A probe's scores: counts of z by bin, null and threshold."""
        return self._part(audit_id, "histogram", probe=probe)

    def curve(self, audit_id: str, *, probe: int = 1, group: str | None = None) -> Json:
        """What the audit would have found for a probe; with `group` that group's trade-off curve."""
        return self._part(audit_id, "curve", probe=probe, group=group)

    def calibration(self, audit_id: str, *, probe: int = 1) -> Json:
        """How well a probe's null fits: tail counts and QQ points of samples and placebos."""
        return self._part(audit_id, "calibration", probe=probe)

    def groups(self, audit_id: str, *, limit: int = PAGE) -> Iterator[Json]:
        """The groups by name, without their curves."""
        return self._pages(f"/v1/audits/{quote(audit_id, safe='')}/groups", limit)

    def metrics(self, audit_id: str, *, probe: int = 1) -> Json:
        """What training measured: losses, a probe's drift, time, tokens, speed, and the loss curve."""
        return self._part(audit_id, "metrics", probe=probe)

    def report(self, audit_id: str) -> bytes:
        """The answer as one HTML file for a person to read, print and keep."""
        # Its charts are drawn for it, at a few a second.
        path = f"/v1/audits/{quote(audit_id, safe='')}/report"
        return self._request("GET", path, timeout=REPORT_TIMEOUT).content

    def delete_audit(self, audit_id: str) -> None:
        """Deletes an audit that has ended, with its findings, verdicts, events and exports."""
        self._delete(f"/v1/audits/{quote(audit_id, safe='')}")

    def delete_dataset(self, dataset_id: str) -> None:
        """Deletes a dataset that no audit stands on."""
        self._delete(f"/v1/datasets/{quote(dataset_id, safe='')}")

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
        """Samples' results by rank or in another order, over all pages of `limit`.

        `probe` 0 is the headline, 1, 2, ... one probe alone; docs/api.md has the filters and the orders.
        """
        wanted = without_none(
            probe=probe or None, flagged=flagged, max_q=max_q, min_mu=min_mu, min_z=min_z, group=group, cluster=cluster,
            side=side, verdict=verdict, reviewer=reviewer, text=text,
        )  # fmt: skip
        parameters = {name: _query_value(value) for name, value in {**wanted, "sort": sort}.items()}
        return self._pages(f"/v1/audits/{quote(audit_id, safe='')}/findings", limit, parameters)

    def finding(self, audit_id: str, row: int) -> Json:
        """One sample's result with its text, each probe's result, its trace and what simpler methods say."""
        return self._send("GET", f"/v1/audits/{quote(audit_id, safe='')}/findings/{row}")

    # ------------------------------------------------------------ reviewing

    def verdict(self, audit_id: str, row: int) -> Json:
        """What is said of the sample now; `etag` guards an edit."""
        return self._tagged("GET", self._verdict_path(audit_id, row))

    def set_verdict(
        self, audit_id: str, row: int, verdict: str, note: str | None = None, *, if_match: str | None = None
    ) -> Json:
        """Says confirmed, rejected or unsure of the sample; with if_match only while its etag is still that one."""
        body = {"verdict": verdict, "note": note}
        return self._tagged("PUT", self._verdict_path(audit_id, row), json=body, headers=_guarded(if_match))

    def withdraw_verdict(self, audit_id: str, row: int, *, if_match: str | None = None) -> None:
        """Takes back what one has said of the sample oneself. Idempotent."""
        self._request("DELETE", self._verdict_path(audit_id, row), headers=_guarded(if_match))

    def verdict_history(self, audit_id: str, row: int) -> Iterator[Json]:
        """Everything that was said of the sample, newest first."""
        return self._pages(self._verdict_path(audit_id, row) + "/history")

    def set_verdicts(
        self,
        audit_id: str,
        verdict: str | None,
        *,
        filter: Mapping[str, Any],
        note: str | None = None,
        token: str | None = None,
    ) -> Json:
        """Says the same of all samples that the filter keeps; None withdraws.

        Without a token nothing is changed: the answer says how many samples are meant, and has the token to send back.
        """
        body = {"filter": dict(filter), "verdict": verdict, "note": note, "dry_run": token is None, "token": token}
        return self._send("POST", f"/v1/audits/{quote(audit_id, safe='')}/verdicts", json=body)

    def bulks(self, audit_id: str) -> Iterator[Json]:
        """Verdicts on many samples at once, newest first."""
        return self._pages(f"/v1/audits/{quote(audit_id, safe='')}/verdicts/bulks")

    def undo_bulk(self, audit_id: str, bulk_id: str) -> Json:
        """Gives each sample of a bulk back what was said of it before, unless something was said of it since."""
        bulk = f"/v1/audits/{quote(audit_id, safe='')}/verdicts/bulks/{quote(bulk_id, safe='')}"
        return self._send("POST", f"{bulk}/undo")

    def precision(self, audit_id: str) -> Json:
        """How many of the first findings people have confirmed, with exact intervals."""
        return self._send("GET", f"/v1/audits/{quote(audit_id, safe='')}/precision")

    def compare(self, base: str, other: str) -> Json:
        """How the flags, the order, the configuration and the data of two finished audits differ."""
        return self._send("GET", "/v1/comparisons", params={"base": base, "other": other}, timeout=UPLOAD_TIMEOUT)

    def comparison_changes(self, base: str, other: str, change: str, *, limit: int = PAGE) -> Iterator[Json]:
        """Samples that are `newly_flagged` or `no_longer_flagged` by the other audit."""
        return self._pages("/v1/comparisons/changes", limit, {"base": base, "other": other, "change": change})

    def events(self, audit_id: str, *, limit: int = PAGE) -> Iterator[Json]:
        """What happened to the audit so far, oldest first."""
        return self._pages(f"/v1/audits/{quote(audit_id, safe='')}/events", limit)

    # ------------------------------------------------------------ who may do what

    def create_key(self, name: str, scopes: Sequence[str], *, expires_at: str | None = None) -> Json:
        """Makes a key of this key's workspace; its text is the answer's `secret`, this once. expires_at: RFC 3339."""
        body = {"name": name, "scopes": list(scopes), "expires_at": expires_at}
        return self._create("/v1/keys", lambda: {"json": body})

    def keys(self) -> Iterator[Json]:
        """Newest first, revoked ones too, without their texts."""
        return self._pages("/v1/keys")

    def key(self, key_id: str) -> Json:
        """What a key may do, when it was last used, when it ends."""
        return self._send("GET", f"/v1/keys/{quote(key_id, safe='')}")

    def rotate_key(self, key_id: str, *, overlap_seconds: int = 0) -> Json:
        """Gives the key a new text, the answer's `secret`. The old one ends at once, or after the overlap."""
        path = f"/v1/keys/{quote(key_id, safe='')}/rotate"
        return self._send("POST", path, json={"overlap_seconds": overlap_seconds})

    def revoke_key(self, key_id: str) -> None:
        """Ends the key. Idempotent."""
        self._delete(f"/v1/keys/{quote(key_id, safe='')}")

    def create_workspace(self, name: str) -> Json:
        """Makes a tenant without keys; needs an admin key of the installation's first workspace."""
        return self._create("/v1/workspaces", lambda: {"json": {"name": name}})

    def change_workspace(self, workspace_id: str, **limits: int | None) -> Json:
        """Sets `max_queued_audits`, `max_running_audits` or `max_bytes` of a workspace; None: the setting's again.

        Needs a key of an admin of the installation.
        """
        return self._send("PATCH", f"/v1/workspaces/{quote(workspace_id, safe='')}", json=limits)

    def workspace_usage(self, workspace_id: str) -> Json:
        """What the workspace has of what is limited, and how much it may have."""
        return self._send("GET", f"/v1/workspaces/{quote(workspace_id, safe='')}/usage")

    def workspaces(self) -> Iterator[Json]:
        """The key's own; for an admin of the installation all, newest first."""
        return self._pages("/v1/workspaces")

    def create_workspace_key(
        self, workspace_id: str, name: str, scopes: Sequence[str], *, expires_at: str | None = None
    ) -> Json:
        """Makes a key of that workspace, such as its first."""
        body = {"name": name, "scopes": list(scopes), "expires_at": expires_at}
        return self._create(f"/v1/workspaces/{quote(workspace_id, safe='')}/keys", lambda: {"json": body})

    # ------------------------------------------------------------ exports

    def export(
        self,
        audit_id: str,
        kind: str,
        format: str = "jsonl",
        *,
        to: Path,
        filter: str | None = None,
        max_q: float | None = None,
        on_progress: Callable[[Json], None] = lambda export: None,
        on_download: Callable[[int, int], None] = lambda received, total: None,
        poll_seconds: float = 1.0,
        patience_seconds: float = 60.0,
    ) -> Path:
        """Has an export made, waits for it, and downloads it. Returns `to`, which appears whole or not at all.

        `kind` is cleaned, flagged or scores, `format` jsonl, csv or parquet, `filter` flagged, confirmed or
        not_rejected. on_progress is told the export's state, on_download bytes of all. Raises ExportError where it
        fails, and OSError where the file cannot be written.
        """
        given = {"filter": filter, "max_q": max_q}
        body = {"kind": kind, "format": format, **{name: value for name, value in given.items() if value is not None}}
        path = f"/v1/audits/{quote(audit_id, safe='')}/exports"
        export_id = self._create(path, lambda: {"json": body})["id"]
        try:
            export = self._wait_for(
                f"/v1/exports/{export_id}",
                on_progress=on_progress,
                poll_seconds=poll_seconds,
                patience_seconds=patience_seconds,
            )
            if export["status"] != "succeeded":
                raise ExportError(export)
            self._download(export, to, on_download)
        except BaseException:
            # Nobody waits for it any more.
            with suppress(ApiError, UnreachableError):
                self._send("POST", f"/v1/exports/{export_id}/cancel")
            raise
        return to

    def exports(self) -> Iterator[Json]:
        """Newest first."""
        return self._pages("/v1/exports")

    def probe_packs(self) -> Iterator[Json]:
        """The behaviours that come with the service, by name, without their items."""
        return self._pages("/v1/probe-packs")

    def datasets(self) -> Iterator[Json]:
        """Newest first."""
        return self._pages("/v1/datasets")

    def probes(self) -> Iterator[Json]:
        """Newest first."""
        return self._pages("/v1/probes")

    def models(self) -> Iterator[Json]:
        """Newest first."""
        return self._pages("/v1/models")

    def audits(self) -> Iterator[Json]:
        """Newest first, without their summaries."""
        return self._pages("/v1/audits")


def _query_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _guarded(tag: str | None) -> dict[str, str]:
    return {} if tag is None else {"If-Match": tag}
