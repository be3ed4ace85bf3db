"""Reads of the object store for requests: in few threads of their own, without a connection to the database.

A store that stalls then holds up those who read from it, and nobody else. Each has an answer before a proxy gives up.
"""

from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, Semaphore, fail_after
from anyio.to_thread import run_sync

from service.store.objects import ObjectStoreUnavailableError
from service.store.reader_places import ReaderPlaces

WAIT_SECONDS = 15.0
"""For one of the threads. What is left of a proxy's 65 s takes the read (service.store.patience)."""

T = TypeVar("T")


class ObjectReads:
    """Runs reads, `most` at once; others wait without a thread, unless the store has stalled."""

    def __init__(self, places: ReaderPlaces, most: int) -> None:
        self._places = places
        self._turns = Semaphore(most)
        self._threads = CapacityLimiter(most)

    async def run(self, read: Callable[[], T]) -> T:
        """Runs `read` in a thread. Call it with no session open.

        Raises:
            ObjectStoreUnavailableError: The store answers nobody, or not in time.
        """
        if self._places.stalled:
            raise ObjectStoreUnavailableError("the object store does not answer those who read from it already")
        try:
            with fail_after(WAIT_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise ObjectStoreUnavailableError("the object store is too slow for all who read from it") from None
        try:
            return await run_sync(read, limiter=self._threads)
        finally:
            self._turns.release()


deletions = CapacityLimiter(2)
"""Threads in which what a request has deleted is cleared away."""
