"""Looking at the start of a response, to read its status or to add headers, before it is sent."""

from collections.abc import Callable

from starlette.types import Message, Send


def on_response_start(send: Send, act: Callable[[Message], None]) -> Send:
    """Wrap a `send` of ASGI.

    Args:
        send: Sends a message to the client.
        act: Called with the message that starts the response, before it is sent; it may change its headers.

    Returns:
        What the application is given to send with.
    """

    async def send_after(message: Message) -> None:
        if message["type"] == "http.response.start":
            act(message)
        await send(message)

    return send_after
