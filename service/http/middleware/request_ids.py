"""One id for each request: taken from `X-Request-Id` or made, sent back, and in every log line and problem document."""

import logging
import re
import time
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.response_start import on_response_start
from service.logs import log_context
from service.store.ids import new_id

HEADER = "X-Request-Id"
"""The header by which a client names its request, or learns the name that we gave it."""

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The current request's id; None outside of requests."""

client_address: ContextVar[str | None] = ContextVar("client_address", default=None)
"""The current request's client: behind a trusted proxy, the address that it names; None outside of requests."""

_ACCEPTED = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = logging.getLogger("service.access")


class RequestIds:
    """ASGI middleware that gives each request its id, and writes the access log.

    A caller's id is kept if it is at most 64 letters, digits, dots, dashes and underscores. The log has method, path
    without query (a query may hold a sign-in token), status and time.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the application."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or other event of ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        identity = given if _ACCEPTED.fullmatch(given) else new_id("req")
        scope.setdefault("state", {})["request_id"] = identity
        status = 0
        started = time.perf_counter()

        def add_id(message: Message) -> None:
            nonlocal status
            status = message["status"]
            MutableHeaders(scope=message)[HEADER] = identity

        token = request_id.set(identity)
        client = scope.get("client")
        client_token = client_address.set(client[0] if client else None)
        try:
            with log_context(request_id=identity):
                try:
                    await self.app(scope, receive, on_response_start(send, add_id))
                finally:
                    log.info(
                        "%s %s %s %.1f ms",
                        scope["method"],
                        scope["path"].encode("unicode_escape").decode("ascii"),
                        status or "aborted",
                        (time.perf_counter() - started) * 1000,
                    )
        finally:
            request_id.reset(token)
            client_address.reset(client_token)
