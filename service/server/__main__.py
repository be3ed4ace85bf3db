"""The API in a container: `python -m service.server HOST PORT`."""

import sys

from service.server.config import serve, server_config

GRACEFUL_SECONDS = 20
"""Longer than most requests take, and shorter than the 30 s after which Kubernetes kills a pod."""


def main(host: str, port: int) -> None:
    """Serve until SIGTERM; open requests then get GRACEFUL_SECONDS to end.

    Args:
        host: Address to listen on.
        port: Port to listen on.
    """
    config = server_config(graceful_seconds=GRACEFUL_SECONDS, proxy_headers=True)
    config.host, config.port = host, port
    serve(config)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
