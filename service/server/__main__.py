"""The API in a container: `python -m service.server HOST PORT`."""

import sys

from service.server.config import serve, server_config

GRACEFUL_SECONDS = 20


def main(host: str, port: int) -> None:
    """Serves until SIGTERM; open requests get GRACEFUL_SECONDS to end."""
    config = server_config(graceful_seconds=GRACEFUL_SECONDS, proxy_headers=True)
    config.host, config.port = host, port
    serve(config)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
