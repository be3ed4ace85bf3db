"""The requests of a client: one connection, retries, pages, streams and long polls."""

import json
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import httpx

from service.client.errors import ApiError, Json, UnreachableError

BLOCK_BYTES = 256 << 10
"""Bytes of a file that are sent or received at a time."""

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
"""The statuses of an audit or export that has ended."""

PAGE = 1000
"""Items a page: the most that the API gives."""

HOLD_SECONDS = 5
"""How long the service is asked to hold a request until there is news; short enough to show that it still answers."""

FULL_SECONDS = 30.0
"""How long a client polls instead, after the service held as many requests as it can."""

QUIET_SECONDS = 60.0
"""A stream of events that stays silent this long, without even a heartbeat, is taken for broken."""

ATTEMPTS = 4
"""How often a creating request is sent while its answer is lost or the service is too busy."""

LONGEST_PAUSE = 10.0
"""Seconds between two attempts, at most."""

TIMEOUT = httpx.Timeout(30.0, connect=5.0)
"""For an ordinary request."""

UPLOAD_TIMEOUT = httpx.Timeout(600.0, connect=5.0)
"""For an upload: after the last byte the service still finishes reading the dataset."""


class Connection:
    """One service and one key: what the methods of `Client` are built on."""

    def __init__(self, url: str, key: str, *, transport: httpx.BaseTransport | None = None) -> None:
        """Prepare a connection; nothing is sent yet.

        Args:
            url: The service's address, such as `https://audits.example.org`.
            key: The text of an API key.
            transport: Replaces the network, for instance to reach an app in this process.
        """
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
        """Close the connections to the service."""
        self._http.close()

    def _wait_for(
        self, path: str, *, on_progress: Callable[[Json], None], poll_seconds: float, patience_seconds: float
    ) -> Json:
        """Return the resource once its status is terminal; see `Client.wait`."""
        answered_at = time.monotonic()
        found: Json = {}
        known: dict[str, str] = {}
        held_from = answered_at
        while True:
            held = False
            hold = {"Prefer": f"wait={HOLD_SECONDS}"} if known and time.monotonic() >= held_from else {}
            try:
                response = self._exchange("GET", path, headers={**known, **hold})
                # A service that does not hold the request answers at once; then it is polled.
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
        """Send a POST, again if its answer is lost: its Idempotency-Key keeps it from creating anything twice.

        `options` makes the arguments of httpx anew for every attempt, since a body can be read only once.
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
                # Spread, so that clients that lost the same service do not return all at once.
                time.sleep(_pause(error) or 0.5 * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311
        raise AssertionError("unreachable")

    def _send(self, method: str, path: str, **options: Any) -> Json:
        return self._answer(self._exchange(method, path, **options))

    def _delete(self, path: str) -> None:
        self._request("DELETE", path)

    def _tagged(self, method: str, path: str, **options: Any) -> Json:
        response = self._request(method, path, **options)
        return {**self._answer(response), "etag": response.headers.get("ETag")}

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        response = self._exchange(method, path, **options)
        if not response.is_success:
            raise refusal(response)
        return response

    def _exchange(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Return the response, whatever its status. Raises UnreachableError."""
        with self._reaching():
            return self._http.request(method, path, **options)

    def _answer(self, response: httpx.Response) -> Json:
        """Return a response's JSON object. Raises ApiError, and UnreachableError if Finetooth did not write it."""
        if response.is_success:
            answer = _json(response)
            if answer is None:
                raise UnreachableError(
                    f"something else than Finetooth answers at {self._http.base_url}; check the address"
                )
            return answer
        raise refusal(response)

    def _stream(self, path: str, headers: Mapping[str, str]) -> Iterator[Json | None]:
        """Yield the events of one stream, and None for each heartbeat. Raises StreamEndedError if no more will come."""
        timeout = httpx.Timeout(QUIET_SECONDS, connect=5.0)
        with self._reaching(), self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
            if response.status_code == 204:
                raise StreamEndedError
            if not response.is_success:
                response.read()
                raise refusal(response)
            yield None
            # httpx's lines end also at characters such as U+2028, which a text may contain.
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
        """Turn what httpx raises into UnreachableError."""
        try:
            yield
        except httpx.TimeoutException:
            raise UnreachableError(f"{self._http.base_url} did not answer in time") from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise UnreachableError(f"cannot reach {self._http.base_url}: {error}") from None


class StreamEndedError(Exception):
    """A stream of events has ended for good."""


def is_passing(error: ApiError | UnreachableError) -> bool:
    """Whether the same request may succeed later, since the service was away or busy."""
    return isinstance(error, UnreachableError) or error.status in (429, 502, 503, 504)


def _is_in_use(error: ApiError | UnreachableError) -> bool:
    return isinstance(error, ApiError) and error.code == "idempotency_key_in_use"


def _pause(error: ApiError | UnreachableError) -> float | None:
    """The pause in seconds that the service asks for, at most LONGEST_PAUSE."""
    if isinstance(error, ApiError) and error.retry_after is not None:
        return min(error.retry_after, LONGEST_PAUSE)
    return None


def without_none(**wanted: Any) -> Json:
    """Leave out the parameters that are None."""
    return {name: value for name, value in wanted.items() if value is not None}


def _json(response: httpx.Response) -> Json | None:
    try:
        content = response.json()
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def refusal(response: httpx.Response) -> ApiError:
    """Build the error of a response that is no success."""
    after = response.headers.get("Retry-After", "")
    return ApiError(_problem(response), float(after) if after.isdecimal() else None)


def _problem(response: httpx.Response) -> Json:
    """Return the problem document, or make one where a proxy before the service has answered in another format."""
    document = _json(response) or {}
    reason = f"The service answered {response.status_code} {response.reason_phrase}.".replace(" .", ".")
    return {
        "title": response.reason_phrase,
        "detail": reason,
        "code": f"http_{response.status_code}",
        **document,
        "status": response.status_code,
    }
