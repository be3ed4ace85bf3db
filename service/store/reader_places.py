"""How many threads of a process may read objects at once, so that a store that stalls does not take them all."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from service.store.objects import ObjectStoreUnavailableError

STALLED_SECONDS = 5.0
"""Where all places are taken, and nobody has come or gone for so long, the store has stalled."""


class ReaderPlaces:
    """Lets `most` read at once. Others wait, unless the store has stalled: then they are refused at once."""

    def __init__(self, most: int, *, stalled_seconds: float = STALLED_SECONDS) -> None:
        self._most = most
        self._stalled_seconds = stalled_seconds
        self._taken = 0
        self._moved_at = time.monotonic()
        self._left = threading.Condition()

    @property
    def stalled(self) -> bool:
        """Whether all places are taken by readers whom the store does not answer."""
        with self._left:
            return self._taken >= self._most and time.monotonic() >= self._moved_at + self._stalled_seconds

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for the time of the block.

        Raises:
            ObjectStoreUnavailableError: All are taken by readers whom the store does not answer.
        """
        with self._left:
            while self._taken >= self._most:
                patience = self._moved_at + self._stalled_seconds - time.monotonic()
                if patience <= 0:
                    raise ObjectStoreUnavailableError("the object store does not answer those who read from it already")
                self._left.wait(patience)
            self._taken += 1
            self._moved_at = time.monotonic()
        try:
            yield
        finally:
            with self._left:
                self._taken -= 1
                self._moved_at = time.monotonic()
                self._left.notify()
