"""How uvicorn is run, on a laptop, in containers and in tests."""

import contextlib
import socket

import uvicorn
from uvicorn._types import ASGIApplication

from service.server.protocol import MOST_HEAD_BYTES, BoundedH11

APPLICATION = "service.app:create_app"
"""Where uvicorn finds the application."""


def server_config(
    app: ASGIApplication | None = None,
    *,
    graceful_seconds: int | None = None,
    proxy_headers: bool = False,
    log_level: str | None = None,
) -> uvicorn.Config:
    """Make the configuration of a server with bounds on what a connection may cost.

    Args:
        app: What to serve; None: APPLICATION, made from the environment when the server starts.
        graceful_seconds: How long open requests get to end once it is told to stop; None: as long as they take.
        proxy_headers: Whether X-Forwarded-* of the proxies in FORWARDED_ALLOW_IPS is believed.
        log_level: Level of uvicorn's own log; None: info.
    """
    return uvicorn.Config(
        app or APPLICATION,
        factory=app is None,
        # Not httptools, which takes headers and addresses of any length.
        http=BoundedH11,
        h11_max_incomplete_event_size=MOST_HEAD_BYTES,
        # Nothing here speaks WebSocket.
        ws="none",
        # The access log would hold the token of a sign-in link.
        access_log=False,
        server_header=False,
        proxy_headers=proxy_headers,
        timeout_graceful_shutdown=graceful_seconds,
        log_level=log_level,
    )


def serve(config: uvicorn.Config, sockets: list[socket.socket] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, whose KeyboardInterrupt is no error.

    Args:
        config: What is served, and how.
        sockets: Listen already; None: the server binds host and port of the configuration.
    """
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=sockets)
