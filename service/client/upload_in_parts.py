"""Sends a large dataset in parts, and continues where it was after the connection was lost."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from service.client.connection import BLOCK_BYTES, LONGEST_PAUSE, UPLOAD_TIMEOUT, Connection, is_passing
from service.client.errors import ApiError, Json, UnreachableError

FROM_BYTES = 64 << 20
"""A dataset smaller than this is sent in one request: sending it again costs little."""

MOST_FAILURES = 8
"""How often in a row a request may fail without the service having kept a byte."""

TUS = {"Tus-Resumable": "1.0.0"}
"""The header that names the version of the protocol, tus 1.0.0."""


def upload_in_parts(
    connection: Connection,
    files: Sequence[IO[bytes]],
    sizes: Sequence[int],
    parameters: Json,
    on_progress: Callable[[int, int], None],
) -> Json:
    """Send files as one dataset by the tus protocol.

    Args:
        connection: The service.
        files: Open to read; they follow one another.
        sizes: How many bytes are sent of each.
        parameters: The query parameters that describe the dataset.
        on_progress: Called with the bytes sent and the bytes in all.

    Returns:
        The dataset.

    Raises:
        ApiError: The service refuses.
        UnreachableError: More than MOST_FAILURES requests in a row were not answered.
    """
    total = sum(sizes)
    address: str | None = None
    offset, failures = 0, 0
    while True:
        try:
            if address is None:
                begun = connection._request("POST", "/v1/uploads", headers={**TUS, "Upload-Length": str(total)})
                # Under a proxy's path it begins with that, as the connection's own address does.
                address = f"/v1/uploads/{begun.headers['Location'].rpartition('/')[2]}"
            kept = int(connection._request("HEAD", address, headers=TUS).headers["Upload-Offset"])
            failures = failures if kept == offset else 0
            offset = kept
            if offset < total:
                headers = {**TUS, "Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
                headers["Content-Length"] = str(total - offset)
                body = blocks_from(files, sizes, offset, on_progress)
                connection._request("PATCH", address, headers=headers, content=body, timeout=UPLOAD_TIMEOUT)
                continue
            made = connection._request("POST", f"{address}/dataset", params=parameters, timeout=UPLOAD_TIMEOUT)
            if made.status_code != 202:
                return connection._answer(made)
        except (UnreachableError, ApiError) as error:
            failures += 1
            if failures > MOST_FAILURES or not (is_passing(error) or _may_resume(error)):
                raise
            time.sleep(min(0.5 * 2**failures, LONGEST_PAUSE))


def _may_resume(error: ApiError | UnreachableError) -> bool:
    """Whether a part came too early or too late, so that the offset has to be asked for again."""
    return isinstance(error, ApiError) and error.code in ("upload_offset", "upload_stalled", "upload_interrupted")


def blocks_from(
    files: Sequence[IO[bytes]], sizes: Sequence[int], offset: int, on_progress: Callable[[int, int], None]
) -> Iterator[bytes]:
    """Yield the bytes of files that follow one another, from a position on.

    Args:
        files: Open to read; each is read from its start.
        sizes: How many bytes are sent of each.
        offset: How many bytes of the whole are skipped.
        on_progress: Called with the bytes sent, the skipped ones included, and the bytes in all.
    """
    total = sum(sizes)
    start = sent = 0
    for file, size in zip(files, sizes, strict=True):
        skipped = min(max(offset - start, 0), size)
        file.seek(skipped)
        left = size - skipped
        start, sent = start + size, start + skipped
        while left and (block := file.read(min(BLOCK_BYTES, left))):
            yield block
            left -= len(block)
            sent += len(block)
            on_progress(sent, total)
