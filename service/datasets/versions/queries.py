"""Reading the versions of a dataset."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Integer, func, literal, select
from sqlalchemy.orm import Session, aliased, defer

from service.principal import Principal
from service.scoping import owned, scoped
from service.store.tables import Audit, Dataset

MOST_VERSIONS = 100
"""The most versions that are shown before one, and as many after it."""

AUDITS_A_VERSION = 10
"""How many of each version's newest finished audits are shown."""


class AuditOfVersion(NamedTuple):
    """What a finished audit has flagged."""

    audit_id: str
    dataset_id: str
    flagged: int
    rows_scored: int


def list_versions(session: Session, principal: Principal, dataset: Dataset) -> list[Dataset]:
    """Read all versions that a dataset is one of, the oldest first, without their statistics and notices.

    Args:
        session: An open transaction.
        principal: Who is asking.
        dataset: One of them, found through the workspace.
    """
    older = _walk(session, principal, dataset.id, newer=False)
    ids = [*reversed(older), dataset.id, *_walk(session, principal, dataset.id, newer=True)]
    query = scoped(Dataset, principal).where(Dataset.id.in_(ids))
    light = query.options(defer(Dataset.statistics, raiseload=True), defer(Dataset.notices, raiseload=True))
    found = {version.id: version for version in session.scalars(light)}
    return [found[id] for id in ids if id in found]


def newest_version(session: Session, principal: Principal, dataset_id: str) -> str:
    """Find the id of the last version after a dataset; its own where none replaces it.

    Args:
        session: An open transaction.
        principal: Who is asking.
        dataset_id: Id of a dataset found through the workspace.
    """
    return [dataset_id, *_walk(session, principal, dataset_id, newer=True)][-1]


def finished_audits(session: Session, principal: Principal, dataset_ids: Sequence[str]) -> list[AuditOfVersion]:
    """Read the newest finished audits of each dataset, the oldest first; their summaries stay in the database.

    Args:
        session: An open transaction.
        principal: Who is asking.
        dataset_ids: Which datasets.
    """
    number = func.row_number().over(partition_by=Audit.dataset_id, order_by=Audit.id.desc())
    numbered = (
        select(
            Audit.id,
            Audit.dataset_id,
            Audit.summary["flagged"].astext.cast(Integer).label("flagged"),
            Audit.summary["rows_scored"].astext.cast(Integer).label("rows_scored"),
            number.label("number"),
        )
        .where(owned(Audit, principal), Audit.dataset_id.in_(dataset_ids), Audit.summary.is_not(None))
        .subquery()
    )
    columns = (numbered.c.id, numbered.c.dataset_id, numbered.c.flagged, numbered.c.rows_scored)
    rows = session.execute(select(*columns).where(numbered.c.number <= AUDITS_A_VERSION).order_by(numbered.c.id))
    return [AuditOfVersion(*row) for row in rows]


def _walk(session: Session, principal: Principal, dataset_id: str, *, newer: bool) -> list[str]:
    """Ids of the versions on one side of a dataset, the nearest first."""
    start = (
        select(Dataset.id, Dataset.replaces_id, literal(0).label("steps"))
        .where(owned(Dataset, principal), Dataset.id == dataset_id)
        .cte("versions", recursive=True)
    )
    following = aliased(Dataset)
    next_one = following.replaces_id == start.c.id if newer else following.id == start.c.replaces_id
    versions = start.union_all(
        select(following.id, following.replaces_id, start.c.steps + 1).where(
            next_one, owned(following, principal), start.c.steps < MOST_VERSIONS
        )
    )
    query = select(versions.c.id).where(versions.c.steps > 0).order_by(versions.c.steps)
    return list(session.scalars(query))
