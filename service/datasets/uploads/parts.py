"""Storing the parts of an upload as they come, and reading them as one stream; neither holds a part in memory."""

import errno
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import IO

from anyio import CancelScope
from starlette.requests import ClientDisconnect

from service.datasets.upload import BUFFER_BYTES, Pace, in_upload_thread
from service.datasets.uploads import actions
from service.errors import ConflictError, StorageFullError, TimedOutError, TooLargeError
from service.http.transactions import Transactions
from service.principal import Principal
from service.settings import Settings
from service.store.ids import new_id
from service.store.objects import ObjectStore, upload_key, upload_prefix

PART_BYTES = 64 * 2**20
"""Bytes of a part. A longer request is kept in several parts, so that at most this much is lost when the process
dies."""


@dataclass(frozen=True)
class Kept:
    """How much of an upload has been stored so far."""

    received: int
    expires_at: datetime


class Parts:
    """A receiver of the next bytes of one upload."""

    def __init__(
        self,
        upload_id: str,
        kept: Kept,
        size: int,
        *,
        objects: ObjectStore,
        settings: Settings,
        transactions: Transactions,
        principal: Principal,
    ) -> None:
        """Prepare to receive them.

        Args:
            upload_id: Which upload.
            kept: What there is of it.
            size: How many bytes it will have.
            objects: Where parts are kept.
            settings: Say how long.
            transactions: Where they are noted.
            principal: Who brings them.
        """
        self.kept = kept
        self._upload_id = upload_id
        self._size = size
        self._objects = objects
        self._settings = settings
        self._transactions = transactions
        self._principal = principal

    async def take(self, chunks: AsyncIterator[bytes]) -> None:
        """Keep what comes. If the connection ends or stalls, all that had come is kept before this raises.

        Raises:
            ClientDisconnect: The connection ended before the request did.
            TimedOutError: `upload_stalled` or `upload_too_slow`.
            ConflictError: `upload_offset`: another request brought the same bytes.
            TooLargeError: `upload_too_large`: more came than the upload has.
            StorageFullError: `storage_full`.
        """
        pace = Pace()
        ended: BaseException | None = None
        while ended is None and (chunk := await pace.next(chunks)) is not None:
            if not chunk:
                continue
            part = _Part(self._objects, self._principal.workspace_id, self._upload_id)
            try:
                await in_upload_thread(part.open)
                ended = await self._fill(part, chunk, chunks, pace)
                await self._keep(part)
            except BaseException as error:
                with CancelScope(shield=True):
                    await in_upload_thread(part.discard)
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise StorageFullError(
                        "storage_full", "The server's disk is full. What had come before stays; go on later."
                    ) from None
                raise
        if ended is not None:
            raise ended

    async def _fill(
        self, part: "_Part", chunk: bytes, chunks: AsyncIterator[bytes], pace: Pace
    ) -> BaseException | None:
        """Write a part until it is full or no more comes. Returns what the stream ended with, where it broke off."""
        buffer: list[bytes] = []
        held = 0
        ended: BaseException | None = None
        following: bytes | None = chunk
        while following is not None:
            held += len(following)
            buffer.append(following)
            if self.kept.received + part.size + held > self._size:
                detail = f"This upload was begun with a length of {self._size} bytes, and more came."
                raise TooLargeError("upload_too_large", detail)
            if held >= BUFFER_BYTES:
                await in_upload_thread(part.write, buffer)
                buffer, held = [], 0
            if part.size >= PART_BYTES:
                break
            try:
                following = await pace.next(chunks)
            except (ClientDisconnect, TimedOutError) as error:
                ended, following = error, None
        await in_upload_thread(part.write, buffer)
        return ended

    async def _keep(self, part: "_Part") -> None:
        # A request that is cancelled here must not take the object from a row that is being committed.
        with CancelScope(shield=True):
            await in_upload_thread(part.close)
            note = partial(
                actions.append,
                principal=self._principal,
                settings=self._settings,
                upload_id=self._upload_id,
                start=self.kept.received,
                size=part.size,
                name=part.name,
            )
            expires_at = await self._transactions.run(note)
        if expires_at is None:
            raise wrong_offset()
        self.kept = Kept(self.kept.received + part.size, expires_at)


async def stored_bytes(
    objects: ObjectStore, workspace_id: str, upload_id: str, parts: list[str]
) -> AsyncIterator[bytes]:
    """Give the bytes of an upload, part after part.

    Args:
        objects: Where they are.
        workspace_id: Whose upload it is.
        upload_id: Which upload.
        parts: Names of its objects, in order.

    Raises:
        ObjectMissingError: One is gone.
        ObjectStoreUnavailableError: The store does not answer.
    """
    for name in parts:
        with ExitStack() as opened:
            key = upload_key(workspace_id, upload_id, name)
            file: IO[bytes] = await in_upload_thread(opened.enter_context, objects.open(key))
            while block := await in_upload_thread(file.read, BUFFER_BYTES):
                yield block


def wrong_offset() -> ConflictError:
    """Return the error for a part that does not begin where the upload ends."""
    detail = "`Upload-Offset` is not where this upload ends. Ask for the offset with HEAD, and go on from there."
    return ConflictError("upload_offset", detail)


class _Part:
    """One object while it is written. All methods block and belong in threads."""

    def __init__(self, objects: ObjectStore, workspace_id: str, upload_id: str) -> None:
        self.size = 0
        self.name = new_id("part")
        self._objects = objects
        self._key = upload_key(workspace_id, upload_id, self.name)
        self._prefix = f"{upload_prefix(workspace_id, upload_id)}/{self.name}"
        self._opened = ExitStack()
        self._file: IO[bytes] | None = None

    def open(self) -> None:
        self._file = self._opened.enter_context(self._objects.create(self._key))

    def write(self, blocks: list[bytes]) -> None:
        assert self._file is not None
        for block in blocks:
            self._file.write(block)
            self.size += len(block)

    def close(self) -> None:
        self._opened.close()

    def discard(self) -> None:
        """Remove it, finished or not."""
        try:
            with self._opened:
                raise _DiscardedError
        except (_DiscardedError, OSError):
            pass
        self._objects.delete_tree(self._prefix)


class _DiscardedError(Exception):
    """Makes the open object vanish."""
