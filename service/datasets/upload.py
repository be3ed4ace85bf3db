"""Receiving an upload: from the request's stream to a `datasets` row, holding no thread or session while it waits."""

import asyncio
import contextlib
import errno
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeVar

from anyio import CancelScope, CapacityLimiter
from anyio.to_thread import run_sync
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.requests import ClientDisconnect

from service.datasets import actions
from service.datasets.intake import Form, Intake, Invalid, Parsed, ParserError, Refused, Report
from service.datasets.queries import dataset_exists
from service.datasets.versions.chain import check_replaceable
from service.errors import DomainError, InvalidError, StorageFullError, TimedOutError, TooLargeError
from service.http.per_loop import PerLoop
from service.http.places import Places, Refusal
from service.http.quotas import check_datasets
from service.http.transactions import Transactions
from service.principal import Principal
from service.settings import Settings
from service.store.ids import new_id
from service.store.objects import ObjectStore
from service.store.tables import Dataset

BUFFER_BYTES = 1 << 20
"""Bytes that are collected before a thread stores them and passes them on: as many as fit the pipe to the parser."""

CONCURRENT_UPLOADS = 8
"""Uploads at a time, each with a parsing child; a further one is refused. One workspace may have half of them."""

IDLE_SECONDS = 60.0
"""An upload that sends nothing for this long is dropped: it holds a child and an unfinished file."""

LEAST_BYTES_PER_SECOND = 16 * 2**10
"""An upload that keeps us waiting for longer than IDLE_SECONDS and what its bytes take at this rate is dropped too."""

_FULL = Refusal(
    "too_many_uploads",
    "{places} uploads are running, which is as many as this server takes. Try again.",
    retry_after=10,
)
_SHARE_TAKEN = Refusal(
    "upload_share_taken",
    "{places} uploads of this workspace are running, which is as many as this server takes of one. Try again once one "
    "of them has ended.",
    retry_after=10,
)

_REFUSALS: dict[int, type[DomainError]] = {413: TooLargeError, 422: InvalidError, 507: StorageFullError}
"""The errors of the parser's statuses."""

T = TypeVar("T")

_uploads = PerLoop("uploads", lambda: Places(CONCURRENT_UPLOADS, full=_FULL, share_taken=_SHARE_TAKEN))
_threads = PerLoop("upload_threads", lambda: CapacityLimiter(CONCURRENT_UPLOADS))


async def receive_dataset(
    chunks: AsyncIterator[bytes],
    *,
    gone: Callable[[], Awaitable[None]],
    objects: ObjectStore,
    settings: Settings,
    transactions: Transactions,
    principal: Principal,
    name: str | None,
    form: Form,
    size: int = 0,
    replaces: str | None = None,
    besides: str | None = None,
    request_id: str | None,
    recorded: Callable[[Session, Dataset], None] = lambda session, dataset: None,
) -> Dataset:
    """Store and parse an upload, then record it: objects first, row second.

    If anything is raised, nothing of the upload remains.

    Args:
        chunks: The upload as it comes.
        gone: Returns once the client has disconnected. It is called when all chunks have come.
        objects: Where its bytes are kept.
        settings: Its limits, and the folder for unfinished files.
        transactions: Where its row is written.
        principal: Whose dataset it becomes.
        name: The dataset's name; None for its id.
        form: The format that the client declares.
        size: How many bytes are expected, if that is known beforehand.
        replaces: The id of the dataset of which it becomes the next version.
        besides: The id of the upload in parts that it comes from, which the quota does not count beside it.
        request_id: The id of the request that brings it.
        recorded: Runs in the transaction that writes the row; what it raises is raised.

    Returns:
        The row, which is committed.

    Raises:
        UnavailableError: `too_many_uploads` or `upload_share_taken`.
        ConflictError: `dataset_quota`, or `dataset_replaced`.
        InvalidReferenceError: `dataset_not_found`: there is none to be replaced.
        TimedOutError: `upload_stalled` or `upload_too_slow`.
        TooLargeError: `upload_too_large`, `too_many_rows` or `decompression_limit`.
        InvalidError: The parser refuses the file, or some of its records.
        StorageFullError: `storage_full` or `storage_quota`.
        ClientDisconnect: The connection ended before the upload did.
    """
    uploads = upload_places()
    uploads.take(principal.workspace_id)
    try:

        def may_begin(session: Session) -> None:
            check_datasets(session, principal.workspace_id, settings, more_bytes=size, besides=besides)
            check_replaceable(session, principal, replaces)

        await transactions.run(may_begin)
        dataset_id = new_id("ds")
        intake = Intake(objects, settings, workspace_id=principal.workspace_id, dataset_id=dataset_id, form=form)
        try:
            report = await _take_in(chunks, intake, gone, settings.max_upload_bytes)
            if not isinstance(report, Parsed):
                raise _error(report)
            await in_upload_thread(intake.keep)
        except BaseException as error:
            with CancelScope(shield=True):
                await in_upload_thread(intake.abort)
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise StorageFullError("storage_full", "The server's disk is full. Nothing was kept.") from None
            raise

        def record(session: Session) -> Dataset:
            dataset = actions.record(
                session,
                principal,
                dataset_id,
                name=name or dataset_id,
                size=intake.bytes,
                sha256=intake.sha256,
                parsed=report,
                replaces=replaces,
                besides=besides,
                request_id=request_id,
                settings=settings,
            )
            recorded(session, dataset)
            return dataset

        # A request that is cancelled here must not take the objects from a row that is being committed.
        with CancelScope(shield=True):
            dataset = await _record(record, intake, transactions, dataset_id)
        return dataset  # noqa: RET504  # mypy takes a return inside the block for one that may not happen
    finally:
        uploads.give_back(principal.workspace_id)


async def digest_of(chunks: AsyncIterator[bytes], max_bytes: int) -> bytes:
    """Compute the SHA-256 of an upload that is not kept.

    Args:
        chunks: The upload as it comes.
        max_bytes: The most that are taken.

    Raises:
        TimedOutError: `upload_stalled` or `upload_too_slow`.
        TooLargeError: `upload_too_large`.
        ClientDisconnect: The connection ended before the upload did.
    """
    digest = hashlib.sha256()
    received = 0
    pace = Pace()
    while (chunk := await pace.next(chunks)) is not None:
        received += len(chunk)
        if received > max_bytes:
            raise too_large(max_bytes)
        digest.update(chunk)  # as much as the server has just received, so it takes no time to speak of
    return digest.digest()


async def _take_in(
    chunks: AsyncIterator[bytes], intake: Intake, gone: Callable[[], Awaitable[None]], max_bytes: int
) -> Report:
    await in_upload_thread(intake.start)
    buffer: list[bytes] = []
    received = held = 0
    pace = Pace()
    while (chunk := await pace.next(chunks)) is not None:
        received += len(chunk)
        if received > max_bytes:
            raise too_large(max_bytes)
        buffer.append(chunk)
        held += len(chunk)
        if held >= BUFFER_BYTES:
            accepted = await in_upload_thread(intake.feed, buffer)
            buffer, held = [], 0
            if not accepted:
                return await in_upload_thread(intake.finish)
    if held:
        await in_upload_thread(intake.feed, buffer)
    return await _finish(intake, gone)


async def _finish(intake: Intake, gone: Callable[[], Awaitable[None]]) -> Report:
    """Wait for the parser, but no longer than the client does: afterwards no client would get the answer."""
    finishing = asyncio.ensure_future(in_upload_thread(intake.finish))
    leaving = asyncio.ensure_future(gone())
    try:
        await asyncio.wait((finishing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not finishing.done():
            raise ClientDisconnect
        return finishing.result()
    finally:
        leaving.cancel()
        if not finishing.done():
            intake.stop()
            with CancelScope(shield=True), contextlib.suppress(ParserError):
                await finishing


class Pace:
    """The time that an upload has kept us waiting, and its bytes. Our own time does not count."""

    def __init__(self) -> None:
        """Begin at 0 seconds and 0 bytes."""
        self._waited = 0.0
        self._received = 0

    async def next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        """Wait for the next chunk.

        Args:
            chunks: The upload.

        Returns:
            The chunk; None at the end.

        Raises:
            TimedOutError: `upload_stalled` after IDLE_SECONDS without a byte, or `upload_too_slow`.
        """
        began = time.monotonic()
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                chunk = await anext(chunks, None)
        except TimeoutError:
            detail = f"Nothing came for {IDLE_SECONDS:.0f} seconds. Upload the file again."
            raise TimedOutError("upload_stalled", detail) from None
        self._waited += time.monotonic() - began
        self._received += len(chunk or b"")
        if self._waited > IDLE_SECONDS + self._received / LEAST_BYTES_PER_SECOND:
            detail = (
                f"The upload came with fewer than {LEAST_BYTES_PER_SECOND} bytes a second, which keeps others from "
                "theirs. Nothing was kept. Compress the file with gzip or zstd, or split it, and upload it again."
            )
            raise TimedOutError("upload_too_slow", detail)
        return chunk


def upload_places() -> Places:
    """Return the places for uploads in this process."""
    return _uploads.get()


async def _record(
    insert: Callable[[Session], Dataset], intake: Intake, transactions: Transactions, dataset_id: str
) -> Dataset:
    inserted = False

    def work(session: Session) -> Dataset:
        nonlocal inserted
        dataset = insert(session)
        inserted = True
        return dataset

    try:
        return await transactions.run(work)
    except Exception:
        # A commit may have happened although its answer was lost. Objects without a row are swept a day later; a row
        # without objects could never be read. So they go only where the row is known to be absent.
        with contextlib.suppress(SQLAlchemyError):
            if not inserted or not await transactions.run(partial(dataset_exists, dataset_id=dataset_id)):
                await in_upload_thread(intake.discard)
        raise


def too_large(max_bytes: int) -> TooLargeError:
    """Return the error for an upload of more than `max_bytes`."""
    return TooLargeError(
        "upload_too_large", f"An upload has at most {max_bytes} bytes. Split the dataset, or use gzip."
    )


def _error(report: Invalid | Refused) -> DomainError:
    if isinstance(report, Refused):
        errors = {} if report.pointer is None else {report.pointer: report.detail}
        return _REFUSALS[report.status](report.code, report.detail, errors=errors)
    first = report.errors[0]
    unit, _, number = first.pointer.partition(":")
    rest = report.bad - len(report.errors)
    more = f" The first {len(report.errors)} are listed, {rest} more are not." if rest else ""
    records = f"1 {unit} is" if report.bad == 1 else f"{report.bad} {unit}s are"
    return InvalidError(
        "dataset_invalid",
        f"{records} not valid; nothing was kept. {unit.capitalize()} {number}: {first.reason}.{more}",
        errors={bad.pointer: bad.reason for bad in report.errors},
    )


async def in_upload_thread(work: Callable[..., T], *arguments: object) -> T:
    """Run `work` in a thread for uploads, so that parsing never keeps other requests from theirs.

    Args:
        work: What blocks.
        arguments: Its arguments.
    """
    return await run_sync(work, *arguments, limiter=_threads.get())
