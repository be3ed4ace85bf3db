"""How many connections the processes of an installation may open, and how many Postgres has for them.

Told as a process starts: where they are too few, requests and heartbeats fail under load, and not before.
"""

import logging
from dataclasses import dataclass

from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from service.lifecycle.workers import is_alive
from service.settings import Settings
from service.store.database_errors import cause_of
from service.store.tables import Worker

WORKER_CONNECTIONS = 5
"""A worker opens one for each of: copying scores, looking for a cancel meanwhile, lease, heartbeat, reconciler."""

RECONCILER = "finetooth-reconciler"
"""The name by which Postgres knows the one connection that each API process always keeps open."""

log = logging.getLogger(__name__)

AVAILABLE = text(
    "SELECT least(current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int "
    "- coalesce(current_setting('reserved_connections', true), '0')::int, "
    "nullif((SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user), -1), "
    "nullif((SELECT datconnlimit FROM pg_database WHERE datname = current_database()), -1))"
)
"""Selects how many connections this role may open here; those kept for superusers are not among them."""

API_PROCESSES = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = :name"
)
"""Counts the connections of reconcilers, of which each API process keeps exactly one."""


@dataclass(frozen=True)
class ConnectionBudget:
    """What may be opened and what there is."""

    api_processes: int
    api_connections: int
    """Connections that each API process may open."""
    workers: int
    available: int

    @property
    def needed(self) -> int:
        """All pools full, and one for a look at a worker's health."""
        return self.api_processes * self.api_connections + self.workers * WORKER_CONNECTIONS + 1

    def __str__(self) -> str:
        return (
            f"{self.api_processes} API processes with {self.api_connections} each and {self.workers} workers with "
            f"{WORKER_CONNECTIONS} each may open {self.needed} connections, and Postgres has {self.available} for them"
        )


def read_budget(session: Session, settings: Settings) -> ConnectionBudget:
    """Count the processes that are alive, and what they may open together.

    Args:
        session: An open transaction.
        settings: This process's settings; all others are taken to have the same pool size.
    """
    workers = select(func.count()).select_from(Worker).where(is_alive(settings.heartbeat_seconds))
    return ConnectionBudget(
        api_processes=session.scalar(API_PROCESSES, {"name": RECONCILER}) or 0,
        api_connections=settings.database_pool_size + 1,
        workers=session.scalar(workers) or 0,
        available=session.scalar(AVAILABLE) or 0,
    )


def tell_budget(sessions: sessionmaker[Session], settings: Settings) -> None:
    """Log the budget, as a warning where Postgres has fewer connections than may be opened.

    With a pooler of transactions nothing is logged: it has limits of its own.

    Args:
        sessions: Opens sessions of the database.
        settings: This process's settings.
    """
    if settings.database_pooler == "transaction":
        return
    try:
        with sessions() as session:
            budget = read_budget(session, settings)
    except SQLAlchemyError as error:
        log.warning("the connections to Postgres were not counted: %s", cause_of(error))
        return
    if budget.needed > budget.available:
        log.warning(
            "%s: raise max_connections (or the limit of role or database), lower FINETOOTH_DATABASE_POOL_SIZE, or put "
            "a pooler between",
            budget,
        )
    else:
        log.info("%s", budget)
