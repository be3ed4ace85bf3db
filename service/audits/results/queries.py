"""Reading parts of a published answer. The database takes the part out of the summary, which may be long."""

import hashlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Integer, Select, String, Text, collate, column, func, literal, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session
from sqlalchemy.sql.selectable import TableValuedAlias

from service.audits.results.schemas import AuditGroup, MetricPoint
from service.contract.results import GroupCurve, GroupSummary, ProbeSummary, Summary
from service.contract.spec import train_step_key
from service.errors import InvalidCursorError, NotFoundError
from service.store.tables import Audit, AuditEvent, AuditStep

FACTS = (
    "rows_scored",
    "seeds",
    "steps",
    "tokens",
    "refreshes",
    "train_loss_first",
    "train_loss_last",
    "seconds",
    "device",
)
"""Fields of a summary that are neither long nor a probe's."""


def find_probe(session: Session, audit: Audit, number: int) -> ProbeSummary:
    """Read the result of one of the audit's probes.

    Args:
        session: An open transaction.
        audit: A succeeded audit that the caller has found.
        number: Which of its probes, from 1.

    Raises:
        NotFoundError: `audit_probe_not_found`.
    """
    probes = _summary()["probes"]
    count, found = _one(session, audit, func.jsonb_array_length(probes), probes[number - 1])
    if found is None:
        have = "1 probe: ask for probe=1" if count == 1 else f"{count} probes: ask for probe=1 to probe={count}"
        detail = f"This audit has {have}."
        raise NotFoundError("audit_probe", detail, errors={"query:probe": detail})
    return ProbeSummary.model_validate(found)


def find_facts(session: Session, audit: Audit) -> dict[str, Any]:
    """Read the FACTS of the audit's summary, by name.

    Args:
        session: An open transaction.
        audit: The row of the audit.
    """
    return dict(zip(FACTS, _one(session, audit, *(_summary()[name] for name in FACTS)), strict=True))


def find_summary(session: Session, audit: Audit) -> Summary:
    """Read the audit's summary without its groups, of which there may be many.

    Args:
        session: An open transaction.
        audit: The row of the audit.
    """
    rest = _summary().op("-", return_type=JSONB())(literal("groups", Text))
    return Summary.model_validate(_one(session, audit, rest)[0])


def leading_groups(session: Session, audit: Audit, limit: int) -> tuple[int, dict[str, GroupSummary]]:
    """Count the audit's groups, and read those with the most flagged samples first, then by name.

    Args:
        session: An open transaction.
        audit: The row of the audit.
        limit: How many groups to read at most.

    Returns:
        The number of all groups, and those that were read, by name.
    """
    each = _each_group()
    flagged = each.c.value["flagged"].astext.cast(Integer)
    query = (
        select(func.count().over(), each.c.key, each.c.value)
        .select_from(Audit)
        .join(each, Audit.id == audit.id)
        .order_by(flagged.desc(), collate(each.c.key, "C"))
        .limit(limit)
    )
    rows = session.execute(query).all()
    return (rows[0][0] if rows else 0), {name: GroupSummary.model_validate(value) for _, name, value in rows}


def find_group_curve(session: Session, audit: Audit, name: str) -> GroupCurve | None:
    """Read a group's trade-off curve; None where the group has none.

    Args:
        session: An open transaction.
        audit: A succeeded audit that the caller has found.
        name: The group's.

    Raises:
        NotFoundError: `audit_group_not_found`.
    """
    group = _summary()["groups"][name]
    curve, known = _one(session, audit, group["curve"], group.is_not(None))
    if not known:
        detail = "This audit has no group of this name. /groups lists them."
        raise NotFoundError("audit_group", detail, errors={"query:group": detail})
    return None if curve is None else GroupCurve.model_validate(curve)


def list_groups(session: Session, audit: Audit, *, after: str | None, limit: int) -> list[AuditGroup]:
    """Read the audit's groups by name, in the order of its code points.

    Args:
        session: An open transaction.
        audit: A succeeded audit that the caller has found.
        after: `group_cursor` of the group behind which to begin; None: at the first.
        limit: The most that are read.

    Raises:
        InvalidCursorError: `after` is of no group of the audit.
    """
    each = _each_group()
    name = collate(each.c.key, "C")

    def groups(*columns: Any) -> Select[Any]:
        return select(*columns).select_from(Audit).join(each, Audit.id == audit.id)

    value = each.c.value
    numbers = [value[field] for field in ("rows", "flagged", "mu", "mu_low", "mu_high")]
    query = groups(each.c.key, *numbers, func.jsonb_typeof(value["curve"]) == "object").order_by(name).limit(limit)
    if after is not None:
        digest = func.encode(func.sha256(func.convert_to(each.c.key, "UTF8")), "hex")
        last = session.scalar(groups(each.c.key).where(digest == after))
        if last is None:
            raise InvalidCursorError
        query = query.where(name > last)
    fields = ("name", "rows", "flagged", "mu", "mu_low", "mu_high", "has_curve")
    return [AuditGroup(**dict(zip(fields, row, strict=True))) for row in session.execute(query)]


def group_cursor(group: AuditGroup) -> str:
    """Stand for the group in a cursor: names may be longer than one, and hold any character."""
    return hashlib.sha256(group.name.encode()).hexdigest()


def metric_points(session: Session, audit: Audit, seed: int, until: int | None = None) -> list[MetricPoint]:
    """Read what is kept of one training run's metrics: some hundred steps.

    Args:
        session: An open transaction.
        audit: The row of the audit.
        seed: The seed of the run.
        until: The last step to read; None: to the end.
    """
    query = select(AuditEvent.data).where(*metrics_of(audit, seed)).order_by(AuditEvent.seq)
    if until is not None:
        query = query.where(AuditEvent.data["step"].astext.cast(Integer) <= until)
    return [MetricPoint.model_validate(data) for data in session.scalars(query)]


def metrics_of(audit: Audit, seed: int) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions on events that hold metrics of one training run, of the attempt that ran it last.

    Args:
        audit: The row of the audit.
        seed: The seed of the run.
    """
    ran = select(AuditStep.attempt).where(AuditStep.audit_id == audit.id, AuditStep.step_key == train_step_key(seed))
    return (
        AuditEvent.audit_id == audit.id,
        AuditEvent.attempt == ran.scalar_subquery(),
        AuditEvent.type == "metric",
        AuditEvent.data["seed"].astext.cast(Integer) == seed,
    )


def _summary() -> Any:
    return Audit.summary


def _each_group() -> TableValuedAlias:
    """The groups of a summary as rows: key is the name, value the GroupSummary."""
    return func.jsonb_each(_summary()["groups"]).table_valued(column("key", String), column("value", JSONB))


def _one(session: Session, audit: Audit, *columns: Any) -> Sequence[Any]:
    """Read columns of the audit's row. Raises NotFoundError where it has gone since it was found."""
    row = session.execute(select(*columns).where(Audit.id == audit.id)).one_or_none()
    if row is None:
        raise NotFoundError("audit")
    return row
