"""Answers with an object's bytes, streamed from the object store; browsers save them and never show them."""

import contextlib
from collections.abc import AsyncIterator
from typing import IO, Literal
from urllib.parse import quote

from anyio import CancelScope, CapacityLimiter
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from service.http.conditional.etags import is_known
from service.http.conditional.ranges import requested_range
from service.http.per_loop import PerLoop
from service.store.objects import ObjectStore

BLOCK_BYTES = 1 << 18
"""Bytes of each download in memory, read by a thread that is then free again."""

THREADS = 8
"""Threads of all downloads together, so that a slow object store keeps no other request waiting."""

_threads = PerLoop("download_threads", lambda: CapacityLimiter(THREADS))


def download(
    request: Request, objects: ObjectStore, key: str, *, size: int, sha256: str, media_type: str, filename: str
) -> Response:
    """Answer GET or HEAD for an object that never changes: the whole, a range of it, or 304.

    Args:
        request: The request, with its conditions and its range.
        objects: The store that holds the object.
        key: The object's key.
        size: Its size in bytes.
        sha256: Its SHA-256 in hexadecimal, which becomes the ETag.
        media_type: Its media type.
        filename: The name under which browsers save it.

    Returns:
        The response. Sending it raises ObjectMissingError if the object is gone.

    Raises:
        Problem: 416 `range_not_satisfiable`.
    """
    etag = f'"{sha256}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes"}
    if is_known(request.headers, etag):
        return Response(status_code=304, headers=headers)
    headers["Content-Disposition"] = content_disposition(filename)
    if request.method == "HEAD":  # the standard knows ranges for GET alone
        return Response(headers=headers | {"Content-Length": str(size)}, media_type=media_type)
    part = requested_range(request.headers, etag, size)
    start, end = part or (0, size)
    headers["Content-Length"] = str(end - start)
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return _ObjectResponse(
        objects, key, start, end, status=200 if part is None else 206, headers=headers, media_type=media_type
    )


def content_disposition(filename: str, kind: Literal["attachment", "inline"] = "attachment") -> str:
    """Build a Content-Disposition header (RFC 6266) with a safe file name.

    Args:
        filename: The wanted name; what could lead into a folder or look like another name is replaced.
        kind: `attachment` makes browsers save the content. `inline` lets them show it: only for content that is safe
            there.
    """
    name = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in filename).strip(" .")
    plain = "".join(c if c.isascii() and (c.isalnum() or c in " ._-()") else "_" for c in name)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


class _ObjectResponse(StreamingResponse):
    def __init__(
        self,
        objects: ObjectStore,
        key: str,
        start: int,
        end: int,
        *,
        status: int,
        headers: dict[str, str],
        media_type: str,
    ) -> None:
        super().__init__(self._blocks(), status, headers, media_type)
        self._objects = objects
        self._key = key
        self._start = start
        self._left = end - start
        self._file: IO[bytes] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        opened = contextlib.ExitStack()

        def begin() -> None:
            self._file = opened.enter_context(self._objects.open(self._key))
            self._file.seek(self._start)

        try:
            await run_sync(begin, limiter=_threads.get())
            await super().__call__(scope, receive, send)
        finally:
            with CancelScope(shield=True):
                await run_sync(opened.close, limiter=_threads.get())

    async def _blocks(self) -> AsyncIterator[bytes]:
        assert self._file is not None
        while self._left:
            block = await run_sync(self._file.read, min(BLOCK_BYTES, self._left), limiter=_threads.get())
            if not block:
                raise EOFError("the object is shorter than its row says")
            self._left -= len(block)
            yield block
