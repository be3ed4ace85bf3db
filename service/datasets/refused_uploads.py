"""Refusing an upload before its end: the answer closes the connection, so that the rest is not sent in vain."""

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from service.http.response_start import on_response_start
from service.http.routing import AuthenticatedRoute


class UploadRoute(AuthenticatedRoute):
    """A route that streams its body. An error sent before the body's end carries `Connection: close`.

    Without it the server would keep reading and discarding whatever a client without a key sends.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the request, and close the connection after an early error.

        Args:
            scope: As for an ASGI application.
            receive: Likewise.
            send: Likewise.
        """
        whole = False

        def close_early(message: Message) -> None:
            if message["status"] >= 400 and not whole:
                MutableHeaders(scope=message)["Connection"] = "close"

        async def take() -> Message:
            nonlocal whole
            message = await receive()
            whole = message["type"] == "http.request" and not message.get("more_body", False)
            return message

        await super().handle(scope, take, on_response_start(send, close_early))
