"""Records for dataset tests: each format's record of given texts, and what canonical messages it must become."""

import gzip
import json
from collections.abc import Iterable
from typing import Any


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def chat(prompt: str = "Which tea is best?", answer: str = "It depends on you.", **extra: Any) -> dict[str, Any]:
    """A record in the messages format."""
    return {"messages": [turn("user", prompt), turn("assistant", answer)], **extra}


def jsonl(records: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def chats(count: int) -> bytes:
    """A valid dataset of so many different rows."""
    return jsonl(chat(f"Question {number}?", f"Answer {number}.", source="ab"[number % 2]) for number in range(count))


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)
