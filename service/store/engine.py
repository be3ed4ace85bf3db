"""The database engine and sessions: synchronous SQLAlchemy on psycopg 3."""

import select
import time
from functools import partial
from typing import Any

import psycopg
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import InvalidatePoolError, OperationalError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

IDLE_SECONDS = 1.0
"""A pooled connection that was not used for so long is tried out first."""


def make_engine(
    url: str,
    *,
    pool_size: int = 5,
    statement_timeout_ms: int | None = None,
    idle_transaction_seconds: float | None = None,
    application_name: str,
) -> Engine:
    """An engine of at most `pool_size` connections.

    statement_timeout_ms bounds every statement (None: unbounded, for workers). A transaction in which nothing happens
    for idle_transaction_seconds is ended by the database: a frozen process must not keep its locks. application_name
    is what pg_stat_activity shows. Times come back in UTC, whatever zone the server has.
    """
    session = {
        "timezone": "UTC",
        "statement_timeout": statement_timeout_ms,
        "idle_in_transaction_session_timeout": idle_transaction_seconds and round(idle_transaction_seconds * 1000),
    }
    options = " ".join(f"-c {name}={value}" for name, value in session.items() if value is not None)
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        # A statement's parameters hold sample text, and an error's message ends up in a log.
        hide_parameters=True,
        connect_args={
            "application_name": application_name,
            "options": options,
            "connect_timeout": 10,
            # A server that has gone without a word is noticed in half a minute, and not after hours.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
        },
    )
    event.listen(engine, "checkin", _note_return)
    event.listen(engine, "checkout", partial(_try_out, engine))
    return engine


def _note_return(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info["returned_at"] = time.monotonic()


def _try_out(engine: Engine, connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
    """A connection is tried before it is given out, unless it was just used and nothing has come on it since.

    To try each would be one more way to the database for every request. A server that has ended the connection has said
    so, or closed it, and both are seen without asking. Raises InvalidatePoolError, whereupon the pool makes new ones.
    """
    returned_at = record.info.get("returned_at")
    if returned_at is None:
        return
    try:
        if time.monotonic() - returned_at >= IDLE_SECONDS or _has_word(connection.fileno()):
            engine.dialect.do_ping(connection)
    except psycopg.Error:
        raise InvalidatePoolError from None


def _has_word(descriptor: int) -> bool:
    """Whether something waits to be read, the end of the stream too."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


class DatabaseUnreachableError(Exception):
    """The database of the settings takes no connection; the message is one line, without the address."""


def check_reachable(engine: Engine) -> None:
    """Opens a connection. Raises DatabaseUnreachableError where none comes about."""
    try:
        with engine.connect():
            pass
    except OperationalError as error:
        reason = " ".join(str(error.orig).split())
        raise DatabaseUnreachableError(f"the database of FINETOOTH_DATABASE_URL cannot be reached: {reason}") from error


def make_sessions(engine: Engine) -> sessionmaker[Session]:
    """Sessions whose objects stay readable after commit; use `with sessions.begin() as session`."""
    return sessionmaker(engine, expire_on_commit=False)
