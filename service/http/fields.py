"""Field types that requests share."""

from typing import Annotated, Any

from fastapi import Path
from pydantic import AfterValidator, BeforeValidator, Field
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
"""The same in the words of JSON Schema, for parameters: an address is refused before its values are looked at."""

Name = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        json_schema_extra={"pattern": r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"},
    ),
    AfterValidator(_visible),
]
"""What users call a thing: one line of text."""

PathId = Annotated[str, Path(max_length=100, description="The id.")]
Row = Annotated[int, Path(ge=0, lt=2**63, description="Position of the sample in the upload, from 0.")]
