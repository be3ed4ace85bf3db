"""The API process of the laptop stack: `python -m service.local.api FD`, on a listening socket it inherits.

The stack binds the port before it starts anything, so that a taken port costs nothing and none is raced for.
"""

import socket
import sys

from service.server.config import serve, server_config

GRACEFUL_SECONDS = 5
"""How long open requests have to end; on a laptop nobody waits for them."""


def main(descriptor: int) -> None:
    """Serves until SIGTERM; open requests get GRACEFUL_SECONDS to end."""
    serve(server_config(graceful_seconds=GRACEFUL_SECONDS), [socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    main(int(sys.argv[1]))
