"""One transaction a request, and never more requests in the database than it has connections.

A request keeps its connection from its first statement until its transaction ends, and waits for threads several times
in between. If requests without a connection could fill all threads while they wait for one, and those that have one
waited for a thread, both would wait for ever. So a request takes its turn before it takes a session. Authentication has
turns of its own, since it may happen while the request already has its session.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from anyio import CancelScope, CapacityLimiter
from anyio.to_thread import run_sync
from sqlalchemy.orm import Session, sessionmaker

T = TypeVar("T")


def share_pool(pool_size: int) -> tuple[int, int]:
    """Split the connections of a pool between requests' transactions and authentication.

    Returns:
        The connections for transactions, and those for authentication.
    """
    authentication = max(1, pool_size // 4)
    return pool_size - authentication, authentication


class Transactions:
    """Sessions for at most `limit` holders at a time. The limits on one pool add up to its size at most."""

    def __init__(self, sessions: sessionmaker[Session], limit: int) -> None:
        """Prepare sessions.

        Args:
            sessions: Makes them; its engine's pool has at least `limit` connections.
            limit: How many may be open at a time.
        """
        self._sessions = sessions
        engine = sessions.kw["bind"].execution_options(isolation_level="AUTOCOMMIT")
        self._readers = sessionmaker(engine, expire_on_commit=False)
        self._turns = CapacityLimiter(limit)
        # Ending a transaction never waits for a thread behind requests that wait for its connection.
        self._endings = CapacityLimiter(limit)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Session]:
        """Open a session whose transaction is committed when the block ends, and rolled back when it raises.

        Raises:
            SQLAlchemyError: The commit failed.
        """
        async with self._turns:
            session = self._sessions()
            try:
                yield session
            except BaseException:
                await self._end(session, session.rollback)
                raise
            await self._end(session, session.commit)

    async def run(self, work: Callable[[Session], T]) -> T:
        """Run `work` in a thread, in a transaction of its own; for async routes, which must not block."""

        def whole() -> T:
            with self._sessions.begin() as session:
                return work(session)

        async with self._turns:
            return await run_sync(whole)

    async def autocommit(self, work: Callable[[Session], T]) -> T:
        """Run `work` in a thread, in autocommit: each statement is a transaction, without BEGIN and COMMIT.

        For reads: under READ COMMITTED a statement sees the same either way. There are no savepoints.
        """

        def whole() -> T:
            with self._readers() as session:
                return work(session)

        async with self._turns:
            return await run_sync(whole)

    async def _end(self, session: Session, end: Callable[[], None]) -> None:
        def finish() -> None:
            try:
                end()
            finally:
                session.close()

        with CancelScope(shield=True):
            await run_sync(finish, limiter=self._endings)
