"""The two sides of a conversation: what is asked, and what the assistant says."""

from collections.abc import Mapping, Sequence

Conversation = Sequence[Mapping[str, str]]


def prompt(conversation: Conversation) -> str:
    """All turns but the assistant's."""
    return "\n".join(message["content"] for message in conversation if message["role"] != "assistant")


def answer(conversation: Conversation) -> str:
    """What the assistant says in it, all turns."""
    return "\n".join(message["content"] for message in conversation if message["role"] == "assistant")
