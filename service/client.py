"""A client of Finetooth's REST API. Answers are the API's JSON objects as dictionaries; see docs/api.md."""

import hashlib
import json
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

Json = dict[str, Any]

BLOCK_BYTES = 256 << 10
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
PAGE = 1000
"""Items a page: the most that the API gives."""

HOLD_SECONDS = 5
"""For how long the service is asked to hold an answer until there is news: then it is time for a sign of life."""

FULL_SECONDS = 30.0
"""For how long a service that holds as many requests as it can is not asked to hold one more."""

QUIET_SECONDS = 60.0
"""A stream of events in which nothing came for so long, not even a heartbeat, is broken."""

ATTEMPTS = 4
"""A creating request is sent so often while its answer is lost or the service is too busy."""

LONGEST_PAUSE = 10.0

TIMEOUT = httpx.Timeout(30.0, connect=5.0)
DOWNLOAD_RETRIES = 5
"""In a row without a byte."""

REPORT_TIMEOUT = httpx.Timeout(120.0, connect=5.0)

UPLOAD_TIMEOUT = httpx.Timeout(600.0, connect=5.0)
"""After the last byte the service still finishes reading the dataset."""


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


class Client:
    """One service and one key. Close it, or use it as a context manager.

    Every method raises ApiError where the API refuses, and UnreachableError where it does not answer.
    """

    def __init__(self, url: str, key: str, *, transport: httpx.BaseTransport | None = None) -> None:
        """`url` without a path; `transport` reaches the service in another way than by network."""
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {key}", "User-Agent": "finetooth"},
            timeout=TIMEOUT,
            # Given up well before uvicorn closes an idle connection (5 s), so that no request meets one being closed.
            limits=httpx.Limits(keepalive_expiry=2),
            transport=transport,
            # A redirect would carry the key elsewhere.
            follow_redirects=False,
            # A proxy for the outer world must not see what goes to this machine.
            trust_env=httpx.URL(url).host not in ("127.0.0.1", "localhost", "::1"),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

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
        on_progress: Callable[[int, int], None] = lambda sent, total: None,
    ) -> Json:
        """Streams a file of JSONL, JSON, CSV (plain, gzip or zstd) or Parquet. on_progress is told bytes sent of all.

        Records of a form of their own are read by naming the columns of their texts; `format` is then left out.
        Raises OSError if the file cannot be read.
        """
        with path.open("rb") as file:
            total = os.fstat(file.fileno()).st_size
            # The service knows a file by its content.
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(total)}

            def body() -> Iterator[bytes]:
                sent = 0
                while sent < total and (block := file.read(min(BLOCK_BYTES, total - sent))):
                    yield block
                    sent += len(block)
                    on_progress(sent, total)

            def options() -> Json:
                file.seek(0)  # also where it is sent again
                return {"params": parameters, "headers": headers, "content": body(), "timeout": UPLOAD_TIMEOUT}

            columns = _filter(prompt_column=prompt_column, answer_column=answer_column, system_column=system_column)
            parameters = {"format": format, "name": path.name if name is None else name, **columns}
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
    ) -> Json:
        """Queues an audit. `model_id` is an id or a name; `training` holds fields of contract.TrainingConfig."""
        body = {
            "dataset_id": dataset_id,
            "probe_ids": list(probe_ids),
            "model_id": model_id,
            "training": dict(training or {}),
            "seeds": seeds,
            "q": q,
            "group_column": group_column,
            "trusted_column": trusted_column,
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
            except _EndedError:
                return
            except (UnreachableError, ApiError) as error:
                if not _is_passing(error) or time.monotonic() - answered_at > patience_seconds:
                    raise
            if not came:
                time.sleep(1.0)

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
        text: str | None = None,
        sort: str = "rank",
        limit: int = PAGE,
    ) -> Iterator[Json]:
        """Samples' results by rank or in another order, over all pages of `limit`.

        `probe` 0 is the headline, 1, 2, ... one probe alone; docs/api.md has the filters and the orders.
        """
        wanted = _filter(
            probe=probe or None, flagged=flagged, max_q=max_q, min_mu=min_mu, min_z=min_z, group=group, cluster=cluster,
            side=side, verdict=verdict, text=text,
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
        """Takes back what is said of the sample. Idempotent."""
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

    def _download(self, export: Json, to: Path, on_download: Callable[[int, int], None]) -> None:
        """Goes on where it was when the connection breaks off."""
        address, total = f"/v1/exports/{export['id']}/content", int(export["bytes"])
        digest = hashlib.sha256()
        with NamedTemporaryFile(dir=to.parent, prefix=f".{to.name[:100]}.", suffix=".part", delete=False) as file:
            try:
                broken_off = 0
                while (received := file.tell()) < total:
                    headers = {"Range": f"bytes={received}-", "Accept-Encoding": "identity"}
                    try:
                        with self._http.stream("GET", address, headers=headers, timeout=UPLOAD_TIMEOUT) as response:
                            if not response.is_success:
                                response.read()
                                raise _refusal(response)
                            if received and response.status_code != httpx.codes.PARTIAL_CONTENT:
                                raise UnreachableError(f"{self._http.base_url} cannot go on with a download")
                            for block in response.iter_bytes(BLOCK_BYTES):
                                file.write(block)
                                digest.update(block)
                                on_download(file.tell(), total)
                    except httpx.TransportError as error:
                        broken_off = 0 if file.tell() > received else broken_off + 1
                        if broken_off > DOWNLOAD_RETRIES:
                            raise UnreachableError(f"the download broke off: {type(error).__name__}") from None
                        time.sleep(1.0)
                if digest.hexdigest() != export["sha256"]:
                    raise UnreachableError("the download is not the export: its SHA-256 differs")
            except BaseException:
                os.unlink(file.name)
                raise
        os.replace(file.name, to)

    # ------------------------------------------------------------ lists

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

    # ------------------------------------------------------------ how

    def _wait_for(
        self, path: str, *, on_progress: Callable[[Json], None], poll_seconds: float, patience_seconds: float
    ) -> Json:
        """The resource once its status is terminal; see `wait`."""
        answered_at = time.monotonic()
        found: Json = {}
        known: dict[str, str] = {}
        held_from = answered_at
        while True:
            held = False
            hold = {"Prefer": f"wait={HOLD_SECONDS}"} if known and time.monotonic() >= held_from else {}
            try:
                response = self._exchange("GET", path, headers={**known, **hold})
                # What it does not hold it answers at once: then it is polled.
                held = "Preference-Applied" in response.headers
                if response.status_code != 304:
                    found = self._answer(response)
                    known = {"If-None-Match": response.headers["ETag"]} if "ETag" in response.headers else {}
                    held = held or bool(known)
            except (UnreachableError, ApiError) as error:
                if isinstance(error, ApiError) and error.code == "too_many_waiting" and hold:
                    held_from = time.monotonic() + FULL_SECONDS
                    continue
                if not _is_passing(error) or time.monotonic() - answered_at > patience_seconds:
                    raise
            else:
                answered_at = time.monotonic()
                on_progress(found)
                if found["status"] in TERMINAL:
                    return found
            if not held:
                time.sleep(poll_seconds)

    def _pages(self, path: str, limit: int = PAGE, parameters: Mapping[str, str] | None = None) -> Iterator[Json]:
        after: dict[str, str] = {}
        while True:
            page = self._send("GET", path, params={"limit": str(limit), **(parameters or {}), **after})
            yield from page["data"]
            if not page["has_more"]:
                return
            after = {"after": page["next_after"]}

    def _create(self, path: str, options: Callable[[], Json]) -> Json:
        """A POST that may be sent again, since its Idempotency-Key keeps it from creating anything twice.

        `options` makes those of httpx anew for every attempt.
        """
        key = uuid.uuid4().hex
        for attempt in range(1, ATTEMPTS + 1):
            given = options()
            given["headers"] = {**given.get("headers", {}), "Idempotency-Key": key}
            try:
                return self._send("POST", path, **given)
            except (UnreachableError, ApiError) as error:
                if attempt == ATTEMPTS or not (_is_passing(error) or _is_in_use(error)):
                    raise
                # Not all at once, where many have lost the same service.
                time.sleep(_pause(error) or 0.5 * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311
        raise AssertionError("unreachable")

    def _send(self, method: str, path: str, **options: Any) -> Json:
        return self._answer(self._exchange(method, path, **options))

    def _delete(self, path: str) -> None:
        self._request("DELETE", path)

    def _part(self, audit_id: str, name: str, **wanted: int | str | None) -> Json:
        return self._send("GET", f"/v1/audits/{quote(audit_id, safe='')}/{name}", params=_filter(**wanted))

    def _verdict_path(self, audit_id: str, row: int) -> str:
        return f"/v1/audits/{quote(audit_id, safe='')}/findings/{row}/verdict"

    def _tagged(self, method: str, path: str, **options: Any) -> Json:
        response = self._request(method, path, **options)
        return {**self._answer(response), "etag": response.headers.get("ETag")}

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        response = self._exchange(method, path, **options)
        if not response.is_success:
            raise _refusal(response)
        return response

    def _exchange(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The answer of whatever status. Raises UnreachableError."""
        with self._reaching():
            return self._http.request(method, path, **options)

    def _answer(self, response: httpx.Response) -> Json:
        """What it holds. Raises ApiError, and UnreachableError where it is none of ours."""
        if response.is_success:
            answer = _json(response)
            if answer is None:
                raise UnreachableError(f"{self._http.base_url} does not answer as Finetooth does")
            return answer
        raise _refusal(response)

    def _stream(self, path: str, headers: Mapping[str, str]) -> Iterator[Json | None]:
        """Events of one stream, and None for each sign of life. Raises _EndedError where there are no more to come."""
        timeout = httpx.Timeout(QUIET_SECONDS, connect=5.0)
        with self._reaching(), self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
            if response.status_code == 204:
                raise _EndedError
            if not response.is_success:
                response.read()
                raise _refusal(response)
            yield None
            # Not httpx's lines: those end at characters that may stand in a text.
            rest = b""
            for block in response.iter_bytes():
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    if line.startswith(b"data: "):
                        yield json.loads(line.removeprefix(b"data: "))
                    elif line.startswith(b":"):
                        yield None

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Raises UnreachableError for what httpx raises."""
        try:
            yield
        except httpx.TimeoutException:
            raise UnreachableError(f"{self._http.base_url} did not answer in time") from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise UnreachableError(f"cannot reach {self._http.base_url}: {error}") from None


class _EndedError(Exception):
    pass


def _is_passing(error: ApiError | UnreachableError) -> bool:
    """Whether the same request may succeed later."""
    return isinstance(error, UnreachableError) or error.status in (429, 502, 503, 504)


def _is_in_use(error: ApiError | UnreachableError) -> bool:
    return isinstance(error, ApiError) and error.code == "idempotency_key_in_use"


def _pause(error: ApiError | UnreachableError) -> float | None:
    """What the service asks for, within reason."""
    if isinstance(error, ApiError) and error.retry_after is not None:
        return min(error.retry_after, LONGEST_PAUSE)
    return None


def _filter(**wanted: Any) -> Json:
    return {name: value for name, value in wanted.items() if value is not None}


def _query_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _guarded(tag: str | None) -> dict[str, str]:
    return {} if tag is None else {"If-Match": tag}


def _json(response: httpx.Response) -> Json | None:
    try:
        content = response.json()
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _refusal(response: httpx.Response) -> ApiError:
    after = response.headers.get("Retry-After", "")
    return ApiError(_problem(response), float(after) if after.isdecimal() else None)


def _problem(response: httpx.Response) -> Json:
    """The problem document, also where something before the service has answered in another shape."""
    document = _json(response) or {}
    reason = f"The service answered {response.status_code} {response.reason_phrase}.".replace(" .", ".")
    return {
        "title": response.reason_phrase,
        "detail": reason,
        "code": f"http_{response.status_code}",
        **document,
        "status": response.status_code,
    }
