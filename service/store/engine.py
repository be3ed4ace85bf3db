"""The database engine and sessions: synchronous SQLAlchemy on psycopg 3."""

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session, sessionmaker


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
    is what pg_stat_activity shows.
    """
    limits = {
        "statement_timeout": statement_timeout_ms,
        "idle_in_transaction_session_timeout": idle_transaction_seconds and round(idle_transaction_seconds * 1000),
    }
    options = " ".join(f"-c {name}={value}" for name, value in limits.items() if value is not None)
    return create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=True,
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


def make_sessions(engine: Engine) -> sessionmaker[Session]:
    """Sessions whose objects stay readable after commit; use `with sessions.begin() as session`."""
    return sessionmaker(engine, expire_on_commit=False)
