"""Files from the object store as answers: whole, or one range of them (RFC 9110, section 14)."""

import re
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass

from anyio import CancelScope
from anyio.to_thread import run_sync
from fastapi import Request
from starlette.responses import StreamingResponse

from service.http.problems import Problem
from service.store.objects import ObjectStore

BLOCK_BYTES = 1 << 18

_RANGE = re.compile(r"bytes=[ \t]*(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))[ \t]*", re.ASCII)


@dataclass(frozen=True)
class StoredFile:
    """A file that never changes."""

    key: str
    size: int
    sha256: str
    media_type: str
    filename: str
    """What a browser calls it: letters, digits, `.`, `_` and `-`."""


def serve(request: Request, objects: ObjectStore, file: StoredFile) -> StreamingResponse:
    """The file, or the range that the request asks for. Blocks while it is opened; the rest is sent piece by piece.

    Several ranges at once are answered with the whole file, as the standard allows. Raises Problem 416
    `range_not_satisfiable`, ObjectMissingError, ObjectStoreUnavailableError.
    """
    etag = f'"{file.sha256}"'
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Content-Disposition": f'attachment; filename="{file.filename}"',
        # Compressed on the way, ranges would be of something else.
        "Cache-Control": "private, no-transform",
    }
    wanted = None
    if request.headers.get("if-range", etag) == etag:
        wanted = asked_range(request.headers.get("range"), file.size)
    start, end = wanted or (0, file.size)
    headers["Content-Length"] = str(end - start)
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    body = _pieces(objects, file.key, start, end)
    return StreamingResponse(body, 200 if wanted is None else 206, headers=headers, media_type=file.media_type)


def asked_range(header: str | None, size: int) -> tuple[int, int] | None:
    """From which byte to before which; None: all of them. Raises Problem 416 where there is no byte of the range."""
    found = None if header is None else _RANGE.fullmatch(header)
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None  # no range at all, and then to be ignored
    if start >= end:
        detail = f"The file has {size} bytes: ask for a range that begins before its end."
        raise Problem(416, "range_not_satisfiable", detail, headers={"Content-Range": f"bytes */{size}"})
    return start, end


def _pieces(objects: ObjectStore, key: str, start: int, end: int) -> AsyncIterator[bytes]:
    # Opened before the answer begins, so that a file that is missing is still an error of its own.
    opened = ExitStack()
    source = opened.enter_context(objects.open(key))
    source.seek(start)

    async def read() -> AsyncIterator[bytes]:
        left = end - start
        try:
            while left:
                piece = await run_sync(source.read, min(BLOCK_BYTES, left))
                if not piece:
                    raise EOFError("the stored file is shorter than its record says")
                left -= len(piece)
                yield piece
        finally:
            with CancelScope(shield=True):
                await run_sync(opened.close)

    return read()
