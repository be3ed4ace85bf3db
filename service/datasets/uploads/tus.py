"""The headers of the tus protocol 1.0 (https://tus.io/protocols/resumable-upload): what they ask for and answer."""

import base64
import binascii
import re
from datetime import UTC, datetime
from email.utils import format_datetime

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from service.datasets.refused_uploads import UploadRoute
from service.http.problems.problem import Problem
from service.http.response_start import on_response_start

VERSION = "1.0.0"
"""The version of the protocol, tus 1.0.0 (https://tus.io/protocols/resumable-upload)."""

EXTENSIONS = "creation,expiration,termination"
"""The parts of the protocol that we support beside its core."""

PART_TYPE = "application/offset+octet-stream"
"""The media type of parts that the protocol demands."""

MOST_METADATA = 4096
"""The most characters of Upload-Metadata."""

NAME_KEYS = ("filename", "name")
"""The keys of the metadata that may hold the file's name, in order."""

_NUMBER = re.compile(r"\d{1,18}")


class TusRoute(UploadRoute):
    """A route whose answers all name the version of the protocol, errors too."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the request, and add the version to its answer.

        Args:
            scope: As for an ASGI application.
            receive: Likewise.
            send: Likewise.
        """

        def add_version(message: Message) -> None:
            MutableHeaders(scope=message)["Tus-Resumable"] = VERSION

        await super().handle(scope, receive, on_response_start(send, add_version))


def require_version(request: Request) -> None:
    """See that the client speaks our version.

    Args:
        request: With the header Tus-Resumable.

    Raises:
        Problem: 412 `tus_version`.
    """
    if request.headers.get("tus-resumable") != VERSION:
        detail = f"Send `Tus-Resumable: {VERSION}`, the version of the tus protocol that is spoken here."
        raise Problem(412, "tus_version", detail, headers={"Tus-Version": VERSION})


def number_of(request: Request, header: str) -> int:
    """Read a header that counts bytes.

    Args:
        request: With that header.
        header: Its name.

    Raises:
        Problem: 422 `invalid_request`.
    """
    value = request.headers.get(header, "")
    if not _NUMBER.fullmatch(value):
        raise _invalid(header, f"{header} is a number of bytes, in digits.")
    return int(value)


def file_name_of(metadata: str) -> str | None:
    """Read what the client calls its file from Upload-Metadata: pairs of a key and a value in base64.

    Args:
        metadata: The header's value.

    Returns:
        At most 200 characters on one line; None where it says nothing that can be shown.

    Raises:
        Problem: 422 `invalid_request`.
    """
    if len(metadata) > MOST_METADATA:
        raise _invalid("Upload-Metadata", f"Upload-Metadata has at most {MOST_METADATA} characters.")
    found: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in metadata.split(","))):
        key, _, value = pair.partition(" ")
        try:
            found[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError):
            raise _invalid("Upload-Metadata", "Upload-Metadata holds pairs of a key and a text in base64.") from None
    given = next((found[key] for key in NAME_KEYS if found.get(key)), "")
    shown = "".join(character for character in given if ord(character) >= 32 and ord(character) != 127)[:200]
    return shown if shown.strip() else None


def http_date(at: datetime) -> str:
    """Write a time as headers have it."""
    return format_datetime(at.astimezone(UTC), usegmt=True)


def _invalid(header: str, detail: str) -> Problem:
    pointer = {"pointer": f"header:{header.lower()}", "detail": detail}
    return Problem(422, "invalid_request", detail, errors=[pointer])
