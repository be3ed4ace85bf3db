"""The database engine and sessions: synchronous SQLAlchemy on psycopg 3."""

import select
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import InvalidatePoolError, OperationalError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

IDLE_SECONDS = 1.0
"""A pooled connection that was not used for so long is tried out first."""

Pooler = Literal["session", "transaction"]
"""What stands between us and Postgres. session: nothing, or a pooler that keeps one server connection for each of ours.
transaction: one that gives us another server connection with every transaction."""

OPTIONS_LOST = "the connection has not the options that it was opened with"
"""The text of the error that a pooler causes which gives a transaction another connection than the one we set up."""


def make_engine(
    url: str,
    *,
    pool_size: int = 5,
    statement_timeout_ms: int | None = None,
    idle_transaction_seconds: float | None = None,
    pooler: Pooler = "session",
    application_name: str,
) -> Engine:
    """An engine of at most `pool_size` connections. Times come back in UTC, whatever zone the server has.

    Args:
        url: postgresql+psycopg://...
        pool_size: The most connections.
        statement_timeout_ms: Bounds every statement. None: unbounded, for workers.
        idle_transaction_seconds: A transaction in which nothing happens for so long is ended by the database: a frozen
            process must not keep its locks. None: never.
        pooler: Behind one that pools transactions, each transaction says anew what otherwise the connection says once,
            and no statement stays prepared: the next transaction may meet another server connection.
        application_name: What pg_stat_activity shows.
    """
    session = {
        "timezone": "UTC",
        "statement_timeout": statement_timeout_ms,
        "idle_in_transaction_session_timeout": idle_transaction_seconds and round(idle_transaction_seconds * 1000),
    }
    given = {name: str(value) for name, value in session.items() if value is not None}
    if pooler == "transaction":
        how: dict[str, Any] = {"prepare_threshold": None}
    else:
        how = {"options": " ".join(f"-c {name}={value}" for name, value in given.items())}
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        # A statement's parameters hold sample text, and an error's message ends up in a log.
        hide_parameters=True,
        connect_args={
            **how,
            "application_name": application_name,
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
    if pooler == "transaction":
        event.listen(engine, "begin", partial(_say_in_transaction, given))
    else:
        event.listen(engine, "connect", partial(_refuse_lost_options, given))
    return engine


def _say_in_transaction(given: Mapping[str, str], connection: Connection) -> None:
    """Begins a transaction and sets what holds in it, in one exchange with the server.

    In autocommit, where each statement would be a transaction of its own without these bounds, all until the
    connection's return are one.
    """
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    statements = [f"SET LOCAL {name} = '{value}'" for name, value in given.items()]
    if raw.autocommit:
        statements.insert(0, "BEGIN")
    raw.execute("; ".join(statements).encode())


def _refuse_lost_options(given: Mapping[str, str], connection: psycopg.Connection, _record: object) -> None:
    """Closes a connection whose pooler has dropped our options on the way: nothing would bound its statements.

    Raises psycopg.OperationalError, which SQLAlchemy takes for a connection that did not come about.
    """
    autocommit, connection.autocommit = connection.autocommit, True
    query = "SELECT lower(name), setting FROM pg_settings WHERE lower(name) = ANY(%s)"
    has: dict[str, str] = dict(connection.execute(query, (list(given),)))
    connection.autocommit = autocommit
    if has != given:
        connection.close()
        raise psycopg.OperationalError(OPTIONS_LOST)


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
    """Open a connection, and close it again.

    Raises:
        DatabaseUnreachableError: No connection came about.
    """
    try:
        with engine.connect():
            pass
    except OperationalError as error:
        reason = " ".join(str(error.orig).split())
        raise DatabaseUnreachableError(f"the database of FINETOOTH_DATABASE_URL cannot be reached: {reason}") from error


def make_sessions(engine: Engine) -> sessionmaker[Session]:
    """Sessions whose objects stay readable after commit; use `with sessions.begin() as session`."""
    return sessionmaker(engine, expire_on_commit=False)
