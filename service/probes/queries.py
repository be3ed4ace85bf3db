"""Reads probes."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.orm import Session
from sqlalchemy.orm.interfaces import ORMOption

from service.principal import Principal
from service.scoping import get_scoped, owned
from service.store.newest_first import newest_first
from service.store.tables import Probe


def find_probe(session: Session, principal: Principal, probe_id: str, options: Sequence[ORMOption] = ()) -> Probe:
    """Return one probe.

    Args:
        session: An open transaction.
        principal: Who is asking.
        probe_id: The probe.
        options: How its row is loaded, such as without its items.

    Raises:
        NotFoundError: `probe_not_found`.
    """
    return get_scoped(session, Probe, principal, probe_id, kind="probe", options=options)


def list_probes(session: Session, principal: Principal, *, after: str | None, limit: int) -> Sequence[Row[Any]]:
    """Return the fields of `ProbeSummary` for the workspace's probes, the newest first.

    Args:
        session: An open transaction.
        principal: Who is asking.
        after: Id of the last probe of the page before; None for the first page.
        limit: The most probes to return.
    """
    query = select(
        Probe.id,
        Probe.name,
        func.jsonb_array_length(Probe.items).label("item_count"),
        Probe.has_reference,
        Probe.pack,
        Probe.created_at,
    ).where(owned(Probe, principal))
    return session.execute(newest_first(query, Probe.id, after=after, limit=limit)).all()
