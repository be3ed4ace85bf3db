"""The API process of the laptop stack: `python -m service.local.api FD`, on a listening socket it inherits.

The stack binds the port before it starts anything, so that a taken port costs nothing and none is raced for.
"""

import socket
import sys

import uvicorn

GRACEFUL_SECONDS = 5


def main(descriptor: int) -> None:
    """Serves until SIGTERM; open requests get GRACEFUL_SECONDS to end."""
    config = uvicorn.Config(
        "service.app:create_app",
        factory=True,
        # The access log would hold the token of a sign-in link.
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    main(int(sys.argv[1]))
