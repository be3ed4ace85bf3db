"""Field types that requests share."""

import re
from typing import Annotated, Any

from fastapi import Path
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field
from pydantic.config import JsonDict


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("a NUL character cannot be stored")
    return text


def _visible(text: str) -> str:
    if not text.strip() or any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("use at least one visible character and no control characters")
    return text


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("is a whole number")
    return value


WholeNumber = Annotated[int, BeforeValidator(_whole)]
"""An integer as JSON knows it: 3 and 3.0, and neither "3" nor true."""

Storable = AfterValidator(_storable)
"""Refuses NUL, which Postgres cannot hold."""

NO_NUL: JsonDict = {"pattern": r"^[^\x00]*$"}
"""The same as JSON Schema says it, for parameters: an address with NUL is refused before its values are read."""

Name = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        json_schema_extra={"pattern": r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"},
    ),
    AfterValidator(_visible),
]
"""A name that users give a thing: one line of text."""

PathId = Annotated[str, Path(max_length=100, description="The id.")]
Row = Annotated[int, Path(ge=0, lt=2**63, description="Position of the sample in the upload, from 0.")]


def _looks_like_a_time(value: object) -> object:
    # pydantic would read a number as seconds since 1970.
    if isinstance(value, str) and not _TIME.match(value):
        raise ValueError("a time is written as 2026-11-29T14:00:00Z, with its offset from UTC")
    return value


_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}")

Time = Annotated[AwareDatetime, BeforeValidator(_looks_like_a_time)]
"""A time in a query, as RFC 3339 writes it."""
