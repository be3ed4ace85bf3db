"""How a client asks the service: one connection, retries, pages, streams, and long-polls."""

import hashlib
import json
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from service.client.errors import ApiError, Json, UnreachableError

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

UPLOAD_TIMEOUT = httpx.Timeout(600.0, connect=5.0)
"""After the last byte the service still finishes reading the dataset."""


class Connection:
    """One service and one key, below the methods of `Client`."""

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
                if not is_passing(error) or time.monotonic() - answered_at > patience_seconds:
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
                if attempt == ATTEMPTS or not (is_passing(error) or _is_in_use(error)):
                    raise
                # Not all at once, where many have lost the same service.
                time.sleep(_pause(error) or 0.5 * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311
        raise AssertionError("unreachable")

    def _send(self, method: str, path: str, **options: Any) -> Json:
        return self._answer(self._exchange(method, path, **options))

    def _delete(self, path: str) -> None:
        self._request("DELETE", path)

    def _part(self, audit_id: str, name: str, **wanted: int | str | None) -> Json:
        return self._send("GET", f"/v1/audits/{quote(audit_id, safe='')}/{name}", params=without_none(**wanted))

    def _verdict_path(self, audit_id: str, row: int) -> str:
        return f"/v1/audits/{quote(audit_id, safe='')}/findings/{row}/verdict"

    def _tagged(self, method: str, path: str, **options: Any) -> Json:
        response = self._request(method, path, **options)
        return {**self._answer(response), "etag": response.headers.get("ETag")}

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        response = self._exchange(method, path, **options)
        if not response.is_success:
            raise refusal(response)
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
        raise refusal(response)

    def _stream(self, path: str, headers: Mapping[str, str]) -> Iterator[Json | None]:
        """Events of one stream, and None for each sign of life. Raises StreamEndedError where there are no more to
        come."""
        timeout = httpx.Timeout(QUIET_SECONDS, connect=5.0)
        with self._reaching(), self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
            if response.status_code == 204:
                raise StreamEndedError
            if not response.is_success:
                response.read()
                raise refusal(response)
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
                                raise refusal(response)
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

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Raises UnreachableError for what httpx raises."""
        try:
            yield
        except httpx.TimeoutException:
            raise UnreachableError(f"{self._http.base_url} did not answer in time") from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise UnreachableError(f"cannot reach {self._http.base_url}: {error}") from None


class StreamEndedError(Exception):
    """A stream of events has no more to give."""


def is_passing(error: ApiError | UnreachableError) -> bool:
    """Whether the same request may succeed later."""
    return isinstance(error, UnreachableError) or error.status in (429, 502, 503, 504)


def _is_in_use(error: ApiError | UnreachableError) -> bool:
    return isinstance(error, ApiError) and error.code == "idempotency_key_in_use"


def _pause(error: ApiError | UnreachableError) -> float | None:
    """What the service asks for, within reason."""
    if isinstance(error, ApiError) and error.retry_after is not None:
        return min(error.retry_after, LONGEST_PAUSE)
    return None


def without_none(**wanted: Any) -> Json:
    return {name: value for name, value in wanted.items() if value is not None}


def _json(response: httpx.Response) -> Json | None:
    try:
        content = response.json()
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def refusal(response: httpx.Response) -> ApiError:
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
