"""One HTTP connection with bounds: on its headers, on the time they take, and on how many connections there are.

All of it holds before anybody has shown a key. What is refused here never becomes a request of the application, so it
is answered in plain text.
"""

import asyncio
import resource

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_HEAD_BYTES = 64 * 2**10
"""The most bytes of a request line and its headers, and of a chunk's header or a body's trailers."""

HEAD_SECONDS = 8.0
"""A connection on which no request is being answered gets so long to bring the next one's headers."""

STALLED_SECONDS = 60.0
"""A client that takes nothing of its answer for so long is let go."""

MOST_CONNECTIONS = 4096
"""The most connections at a time; each takes a file descriptor and some memory."""

RESERVED_FILES = 256
"""How many of the files that the process may have open are not for connections: the database's, objects, uploads."""


def most_connections() -> int:
    """Return how many connections are served at a time: as many as there may be files, up to MOST_CONNECTIONS."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(1, min(MOST_CONNECTIONS, files - RESERVED_FILES))


class BoundedH11(H11Protocol):
    """uvicorn's protocol on h11, which bounds the size of headers; this adds times and the number of connections."""

    _late: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to serve a connection, or refuse it where there are too many."""
        super().connection_made(transport)
        # What X-Forwarded-For says stands in the scope's client; this is who it comes from (`trusted_proxy`).
        self.app_state = {**self.app_state, "peer": self.client[0] if self.client else None}
        if len(self.connections) > most_connections():
            self._refuse(503, "The server has as many connections as it takes. Try again in a few seconds.")
            return
        self._watch_for_head()

    def data_received(self, data: bytes) -> None:
        """Read what a client has sent, and limit how long it takes to send a request's head."""
        super().data_received(data)
        self._watch_for_head()

    def on_response_complete(self) -> None:
        """Wait for the connection's next request, which has to come within the limit."""
        super().on_response_complete()
        self._watch_for_head()

    def pause_writing(self) -> None:
        """Watch that a client which is slow to read takes something of its answer."""
        super().pause_writing()
        if self._stalled is None:
            self._watch_for_progress(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Stop watching a client that has caught up."""
        super().resume_writing()
        _cancel(self._stalled)
        self._stalled = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks of the connection."""
        _cancel(self._late)
        super().connection_lost(exc)
        _cancel(self._stalled)

    def send_400_response(self, msg: str) -> None:
        """Answers what is no request; `msg` is uvicorn's word for it."""
        pending, _ = self.conn.trailing_data
        if len(pending) > MOST_HEAD_BYTES:
            limit = MOST_HEAD_BYTES // 2**10
            self._refuse(431, f"Address and headers of a request have at most {limit} KiB together. Send shorter ones.")
        else:
            self._refuse(400, f"{msg} Send HTTP/1.1 as RFC 9112 has it.")

    def _watch_for_head(self) -> None:
        """Sets or stops the clock: it runs from the end of one answer to the end of the next request's headers."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering:
            _cancel(self._late)
            self._late = None
        elif self._late is None and not self.transport.is_closing():
            self._late = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _head_is_late(self) -> None:
        self._late = None
        self._refuse(408, f"No whole request came within {HEAD_SECONDS:.0f} seconds. Connect anew and send it again.")

    def _watch_for_progress(self, size: int) -> None:
        self._stalled = self.loop.call_later(STALLED_SECONDS, self._look_for_progress, size)

    def _look_for_progress(self, before: int) -> None:
        # While writing is paused nothing is added, so the buffer shrinks or the client takes nothing.
        size = self.transport.get_write_buffer_size()
        if size >= before:
            self.transport.abort()
        else:
            self._watch_for_progress(size)

    def _refuse(self, status: int, reason: str) -> None:
        """Ends the connection, with an answer where none has begun and the method lets it have a body."""
        if self.transport.is_closing():
            return
        under_way = self.cycle is not None and not self.cycle.response_complete
        if under_way:
            # The application hears of it as of a client that has gone.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        silent = under_way and self.scope["method"] == "HEAD"
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not silent:
            body = f"{reason}\n".encode()
            headers = [
                ("Content-Type", "text/plain; charset=utf-8"),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
            ]
            for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
