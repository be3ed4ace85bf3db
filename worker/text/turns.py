"""The two sides of a conversation: the prompt and the assistant's answer."""

from collections.abc import Mapping, Sequence

Conversation = Sequence[Mapping[str, str]]
"""Messages with `role` and `content`, in order."""


def prompt(conversation: Conversation) -> str:
    """Return all turns except the assistant's, joined by line ends."""
    return "\n".join(message["content"] for message in conversation if message["role"] != "assistant")


def answer(conversation: Conversation) -> str:
    """Return all turns of the assistant, joined by line ends."""
    return "\n".join(message["content"] for message in conversation if message["role"] == "assistant")
