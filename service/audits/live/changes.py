"""Waiting for an audit to change: one reader of the database for all requests that wait, and only while some do.

A request that waits holds neither a thread nor a session. It has looked before it waits, and the reader tells it only
what a read has found that began afterwards, so nothing is missed and nothing old is taken for news. While the database
is away everybody waits on.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from service.audits.live.versions import Version, read_versions
from service.http.places import Places, Refusal
from service.http.transactions import Transactions
from service.settings import Settings
from service.store.database_errors import cause_of

POLL_SECONDS = 1.0
"""Between two reads, which are for all waiting requests of the process."""

_FULL = Refusal(
    "too_many_waiting",
    "{places} requests are waiting for news, which is as many as this server holds. Ask again.",
    retry_after=5,
)
_SHARE_TAKEN = Refusal(
    "waiting_share_taken",
    "{places} requests of this workspace are waiting for news, which is as many as this server holds for one. Close "
    "streams that nobody reads, or ask without `Prefer: wait`.",
    retry_after=5,
)

log = logging.getLogger(__name__)

News = Callable[[Version | None], bool]
"""Whether this is what is waited for. None: the audit is gone."""


@dataclass(eq=False)
class _Waiter:
    audit_id: str
    news: News
    came: int
    """Reads that had begun by then."""
    told: asyncio.Future[bool]


class AuditChanges:
    """Lets requests of one event loop wait for news: at most `limit`, and half as many of one workspace."""

    def __init__(self, transactions: Transactions, settings: Settings, limit: int) -> None:
        self._transactions = transactions
        self._settings = settings
        self._places = Places(limit, full=_FULL, share_taken=_SHARE_TAKEN)
        self._waiters: set[_Waiter] = set()
        self._reads = 0
        self._next_read_at = 0.0
        self._reader: asyncio.Task[None] | None = None
        self.stopping = False
        """The server ends: nobody waits any more."""

    def enter(self, workspace_id: str) -> None:
        """Take a place among the requests that may wait; call `leave` afterwards.

        Args:
            workspace_id: Id of the workspace for which the request waits.

        Raises:
            UnavailableError: `too_many_waiting` or `waiting_share_taken`.
        """
        self._places.take(workspace_id)

    def leave(self, workspace_id: str) -> None:
        """Free the place that `enter` took."""
        self._places.give_back(workspace_id)

    @property
    def places_taken(self) -> int:
        """Requests that wait, or are between two waits."""
        return self._places.taken

    async def next(self, audit_id: str, news: News, seconds: float) -> bool:
        """Wait until something has happened to an audit.

        Args:
            audit_id: Id of the audit.
            news: Says of what is read from now on whether it is what the caller waits for.
            seconds: How long to wait at most.

        Returns:
            False if the time is up or the server stops.
        """
        if self.stopping:
            return False
        waiter = _Waiter(audit_id, news, self._reads, asyncio.get_running_loop().create_future())
        self._waiters.add(waiter)
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read_on(), name="audit-changes")
        try:
            async with asyncio.timeout(seconds):
                return await waiter.told
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(waiter)

    def stop(self) -> None:
        """Lets everybody go who waits, and who comes."""
        self.stopping = True
        for waiter in self._waiters:
            _tell(waiter, False)

    async def _read_on(self) -> None:
        loop = asyncio.get_running_loop()
        away = False
        while self._waiters:
            await asyncio.sleep(self._next_read_at - loop.time())
            self._next_read_at = loop.time() + POLL_SECONDS
            self._reads += 1
            audit_ids = {waiter.audit_id for waiter in self._waiters}
            if not audit_ids:
                return
            read = partial(read_versions, audit_ids=audit_ids, settings=self._settings)
            try:
                found = await self._transactions.autocommit(read)
            except SQLAlchemyError as error:
                if not away:
                    log.warning("audits are not watched, the database is away: %s", cause_of(error))
                away = True
                continue
            away = False
            for waiter in self._waiters:
                if waiter.came < self._reads and waiter.news(found.get(waiter.audit_id)):
                    _tell(waiter, True)


def _tell(waiter: _Waiter, news: bool) -> None:
    if not waiter.told.done():
        waiter.told.set_result(news)
