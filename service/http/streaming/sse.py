"""Server-sent events (`text/event-stream` of the HTML standard): asking for them, sending them, ending them."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated

from anyio import fail_after
from fastapi import Header, Request
from fastapi.sse import format_sse_event
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from service.http.problems.problem import Problem

MEDIA_TYPE = "text/event-stream"
"""The media type of server-sent events."""

RECONNECT_MS = 2000
"""Milliseconds after which a browser reconnects to a stream that has ended."""

HEARTBEAT_SECONDS = 15.0
"""Seconds of silence after which a comment is sent: proxies cut streams that stay silent."""

PATIENCE_SECONDS = 30.0
"""Seconds after which a client that reads nothing is disconnected."""

LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", max_length=20, description="Of a stream: the id of the last event that you have."),
]

BEGIN = format_sse_event(retry=RECONNECT_MS)
"""The first message of a stream: how long a client waits before it connects again."""

HEARTBEAT = format_sse_event(comment="still here")
"""A comment that clients skip; it keeps proxies from closing a quiet stream."""


def wants_events(request: Request) -> bool:
    """Return whether the `Accept` header names MEDIA_TYPE."""
    ranges = ",".join(request.headers.getlist("accept")).split(",")
    return any(media.partition(";")[0].strip().lower() == MEDIA_TYPE for media in ranges)


def event_number(last_event_id: str | None) -> int | None:
    """Read a `Last-Event-ID` header as the number that it is.

    Args:
        last_event_id: The header; missing or empty from a browser that has seen no event yet.

    Returns:
        The number, or None without a header.

    Raises:
        Problem: 422 `invalid_request` if it is not a number.
    """
    if not last_event_id:  # a browser that has seen no event yet may send an empty one
        return None
    if not (last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) <= 18):
        detail = "Last-Event-ID is the id of an event of this stream: a number."
        pointer = {"pointer": "header:last-event-id", "detail": detail}
        raise Problem(422, "invalid_request", detail, errors=[pointer])
    return int(last_event_id)


class EventStream(StreamingResponse):
    """A response that sends events until they end or the client disconnects."""

    def __init__(self, events: AsyncGenerator[bytes, None], ended: Callable[[], None]) -> None:
        # Proxies such as nginx would otherwise collect events until a buffer is full.
        """Prepare the response.

        Args:
            events: Yields what `format_sse_event` makes.
            ended: Called once the response has ended, however it ended.
        """
        super().__init__(events, media_type=MEDIA_TYPE, headers={"X-Accel-Buffering": "no", "Vary": "Accept"})
        self._events = events
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, and disconnect a client that reads nothing for PATIENCE_SECONDS."""

        async def send_in_time(message: Message) -> None:
            with fail_after(PATIENCE_SECONDS):
                await send(message)

        try:
            async with aclosing(self._events):
                await super().__call__(scope, receive, send_in_time)
        except TimeoutError:
            pass  # the server closes the connection
        finally:
            self._ended()
