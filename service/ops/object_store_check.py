"""Whether the object store answers."""

import time

from anyio import CapacityLimiter, Lock, move_on_after
from anyio.to_thread import run_sync

from service.settings import Settings
from service.store.object_store_factory import make_object_store
from service.store.objects import ObjectStoreUnavailableError
from service.store.patience import OF_A_CHECK

PATIENCE_SECONDS = 2.0
"""A folder of a file server that is away may keep a thread for good."""

ASKED_AGAIN_AFTER = 10.0
"""Seconds for which an answer is good: anybody may ask /readyz, as often as they like."""


class ObjectStoreCheck:
    """Asks the object store once at a time, however many want to know."""

    def __init__(self, settings: Settings) -> None:
        self._objects = make_object_store(settings, OF_A_CHECK)
        self._asking = Lock()
        self._thread = CapacityLimiter(1)
        self._stuck = False
        self._asked_at: float | None = None
        self._answers = False

    async def answers(self) -> bool:
        """As it was found at most ASKED_AGAIN_AFTER seconds ago."""
        async with self._asking:
            if self._asked_at is None or time.monotonic() - self._asked_at >= ASKED_AGAIN_AFTER:
                self._answers = False
                if not self._stuck:
                    with move_on_after(PATIENCE_SECONDS):
                        self._answers = await run_sync(self._ask, limiter=self._thread, abandon_on_cancel=True)
                self._asked_at = time.monotonic()
            return self._answers

    def _ask(self) -> bool:
        self._stuck = True
        try:
            self._objects.check()
        except ObjectStoreUnavailableError:
            return False
        finally:
            self._stuck = False
        return True
