"""Serving below a path of a shared host, behind a proxy: FINETOOTH_ROOT_PATH."""

from contextvars import ContextVar

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.response_start import on_response_start

root_path: ContextVar[str] = ContextVar("root_path", default="")
"""The part before the running request's path in a browser's address: empty, or such as `/finetooth`."""


def address(path: str) -> str:
    """Return the address of one of the service's own paths, for a link in a page of the running request."""
    return f"{root_path.get()}{path}"


def own_path(scope: Scope) -> str:
    """Return a request's path as the routes name it, without the root path."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class SubPath:
    """ASGI middleware that puts the service below a root path.

    Every request is taken for one below it, whether or not the proxy has removed it. Where a response's Location is one
    of the service's own paths, the root path is added.
    """

    def __init__(self, app: ASGIApp, root: str) -> None:
        """Wrap the application.

        Args:
            app: The application.
            root: The root path, such as `/finetooth`; empty to change nothing.
        """
        self.app = app
        self.root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or other event of ASGI."""
        if scope["type"] != "http" or not self.root:
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if path == self.root:
            path += "/"
        if not path.startswith(f"{self.root}/"):
            path = self.root + path

        def add_root(message: Message) -> None:
            headers = MutableHeaders(scope=message)
            location = headers.get("location", "")
            if location.startswith("/"):
                headers["location"] = self.root + location

        before = root_path.set(self.root)
        try:
            await self.app({**scope, "path": path, "root_path": self.root}, receive, on_response_start(send, add_root))
        finally:
            root_path.reset(before)
