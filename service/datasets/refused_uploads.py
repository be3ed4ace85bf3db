"""Refusing an upload before its end: the answer closes the connection, so that nobody sends the rest for nothing."""

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from service.http.routing import AuthenticatedRoute


class UploadRoute(AuthenticatedRoute):
    """A route that streams its body. An error sent before the body's end carries `Connection: close`.

    Without it the server would keep reading and throwing away what a sender without a key cares to send.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        whole = False

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400 and not whole:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        async def take() -> Message:
            nonlocal whole
            message = await receive()
            whole = message["type"] == "http.request" and not message.get("more_body", False)
            return message

        await super().handle(scope, take, watch)
