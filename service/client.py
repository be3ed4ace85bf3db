"""A client of Finetooth's REST API. Answers are the API's JSON objects as dictionaries; see docs/api.md."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

Json = dict[str, Any]

BLOCK_BYTES = 256 << 10
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
PAGE = 1000
"""Items a page: the most that the API gives."""

TIMEOUT = httpx.Timeout(30.0, connect=5.0)
UPLOAD_TIMEOUT = httpx.Timeout(600.0, connect=5.0)
"""After the last byte the service still finishes reading the dataset."""


class ApiError(Exception):
    """The API refused: `problem` is its RFC 9457 problem document."""

    def __init__(self, problem: Json) -> None:
        super().__init__(problem["detail"])
        self.problem = problem

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
        on_progress: Callable[[int, int], None] = lambda sent, total: None,
    ) -> Json:
        """Streams a JSONL file, plain or gzip (known by its first bytes). on_progress is told bytes sent of all.

        Raises OSError if the file cannot be read.
        """
        with path.open("rb") as file:
            total = os.fstat(file.fileno()).st_size
            headers = {"Content-Type": "application/jsonl", "Content-Length": str(total)}
            if file.read(2) == b"\x1f\x8b":
                headers["Content-Encoding"] = "gzip"
            file.seek(0)

            def body() -> Iterator[bytes]:
                sent = 0
                while sent < total and (block := file.read(min(BLOCK_BYTES, total - sent))):
                    yield block
                    sent += len(block)
                    on_progress(sent, total)

            parameters = {"format": format, "name": path.name if name is None else name}
            return self._send(
                "POST", "/v1/datasets", params=parameters, headers=headers, content=body(), timeout=UPLOAD_TIMEOUT
            )

    def create_probe(self, name: str, items: Sequence[Mapping[str, str | None]]) -> Json:
        """Items are {prompt, unwanted, reference?}."""
        return self._send("POST", "/v1/probes", json={"name": name, "items": [dict(item) for item in items]})

    def create_model(self, name: str, source: str, location: str, revision: str | None = None) -> Json:
        """Registers a base model; needs the scope `admin`."""
        body = {"name": name, "source": source, "location": location, "revision": revision}
        return self._send("POST", "/v1/models", json=body)

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
        return self._send("POST", "/v1/audits", json=body)

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
        """Polls until the audit has ended, and returns it. A service that is away is waited for patience_seconds."""
        answered_at = time.monotonic()
        while True:
            try:
                audit = self.audit(audit_id)
            except (UnreachableError, ApiError) as error:
                passing = isinstance(error, UnreachableError) or error.status in (429, 502, 503, 504)
                if not passing or time.monotonic() - answered_at > patience_seconds:
                    raise
            else:
                answered_at = time.monotonic()
                on_progress(audit)
                if audit["status"] in TERMINAL:
                    return audit
            time.sleep(poll_seconds)

    def cancel(self, audit_id: str) -> Json:
        """Asks for the audit to stop. Idempotent."""
        return self._send("POST", f"/v1/audits/{quote(audit_id, safe='')}/cancel")

    def retry(self, audit_id: str) -> Json:
        """Queues a failed or cancelled audit again: it goes on where it was. Idempotent."""
        return self._send("POST", f"/v1/audits/{quote(audit_id, safe='')}/retry")

    def summary(self, audit_id: str) -> Json:
        """The answer in numbers, of an audit that has succeeded."""
        return self._send("GET", f"/v1/audits/{quote(audit_id, safe='')}/summary")

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

    # ------------------------------------------------------------ lists

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

    def _pages(self, path: str, limit: int = PAGE, parameters: Mapping[str, str] | None = None) -> Iterator[Json]:
        after: dict[str, str] = {}
        while True:
            page = self._send("GET", path, params={"limit": str(limit), **(parameters or {}), **after})
            yield from page["data"]
            if not page["has_more"]:
                return
            after = {"after": page["next_after"]}

    def _verdict_path(self, audit_id: str, row: int) -> str:
        return f"/v1/audits/{quote(audit_id, safe='')}/findings/{row}/verdict"

    def _send(self, method: str, path: str, **options: Any) -> Json:
        return self._answer(self._request(method, path, **options))

    def _tagged(self, method: str, path: str, **options: Any) -> Json:
        response = self._request(method, path, **options)
        return {**self._answer(response), "etag": response.headers.get("ETag")}

    def _answer(self, response: httpx.Response) -> Json:
        answer = _json(response)
        if answer is None:
            raise UnreachableError(f"{self._http.base_url} does not answer as Finetooth does")
        return answer

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TimeoutException:
            raise UnreachableError(f"{self._http.base_url} did not answer in time") from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise UnreachableError(f"cannot reach {self._http.base_url}: {error}") from None
        if not response.is_success:
            raise ApiError(_problem(response))
        return response


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
