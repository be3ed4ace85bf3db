"""Precision at k: the share of confirmed samples among the judged ones of the first k findings."""

from typing import get_args

from sqlalchemy import Integer, case, func, select
from sqlalchemy.orm import Session

from service.findings.filters import Outcome
from service.findings.intervals import clopper_pearson
from service.findings.schemas import AuditPrecision, Precision
from service.store.score_lists import PublishedAudit
from service.store.tables import Audit
from service.store.verdict_tables import Verdict

KS = (10, 20, 50, 100)
"""Depths of the precision of an audit."""
CONFIDENCE = 0.95
"""Level of the intervals."""
DEEPEST_RANK = 10_000
"""The precision down to the rank of a single finding is shown only above this rank: it is counted for each finding."""

ASSUMES = [
    "Samples are reviewed from the top: the reviewed ones among the first k represent all k only if they were chosen "
    "by their rank alone. They are not a random sample, and precision falls with k.",
    "Each verdict is right, and independent of the others: verdicts on near-duplicates (`cluster`) are not, and make "
    "the interval too narrow.",
    "Unsure and disputed samples are left out of both counts.",
    "If `complete` is true, precision is an exact count over these samples; the interval is then about similar audits.",
]
"""What the intervals assume, as the API shows it."""


def audit_precision(session: Session, audit: PublishedAudit) -> AuditPrecision:
    """Return the precision at each depth in KS, and over all flagged samples.

    Args:
        session: An open transaction.
        audit: The published audit.
    """
    sizes = (Audit.summary[name].astext.cast(Integer) for name in ("rows", "flagged"))
    rows, flagged = session.execute(select(*sizes).where(Audit.id == audit.id)).one()
    verdict, rank, by_flag = Verdict.verdict, Verdict.rank, Verdict.flagged
    within = case(*((rank <= k, k) for k in KS), else_=None).cast(Integer)
    query = (
        select(within, by_flag, verdict, func.count())
        .where(Verdict.audit_id == audit.id, verdict.is_not(None), by_flag | (rank <= KS[-1]))
        .group_by(within, by_flag, verdict)
    )
    counts = session.execute(query).all()
    data = []
    for k in KS:
        found: dict[str, int] = {}
        for highest, _, name, count in counts:
            if highest is not None and highest <= k:
                found[str(name)] = found.get(str(name), 0) + count
        data.append(_precision(k, min(k, rows), found))
    found = {}
    for _, is_flagged, name, count in counts:
        if is_flagged:
            found[str(name)] = found.get(str(name), 0) + count
    data.append(_precision("flagged", flagged, found))
    return AuditPrecision(audit_id=audit.id, data=data, confidence=CONFIDENCE, assumes=ASSUMES)


def precision_down_to(session: Session, audit: PublishedAudit, rank: int) -> Precision | None:
    """Return the precision over the samples down to a rank.

    Args:
        session: An open transaction.
        audit: The published audit.
        rank: The last rank that counts.

    Returns:
        The precision; None if none of them is reviewed, or the rank is below DEEPEST_RANK.
    """
    if rank > DEEPEST_RANK:
        return None
    query = (
        select(Verdict.verdict, func.count())
        .where(Verdict.audit_id == audit.id, Verdict.verdict.in_(get_args(Outcome)), Verdict.rank <= rank)
        .group_by(Verdict.verdict)
    )
    found = {str(name): count for name, count in session.execute(query)}
    return _precision(rank, rank, found) if found else None


def _precision(k: int | str, size: int, counts: dict[str, int]) -> Precision:
    confirmed, rejected, unsure, disputed = (counts.get(name, 0) for name in get_args(Outcome))
    judged = confirmed + rejected
    low, high = clopper_pearson(confirmed, judged, CONFIDENCE) if judged else (None, None)
    return Precision(
        k=k,
        size=size,
        reviewed=judged + unsure + disputed,
        confirmed=confirmed,
        rejected=rejected,
        unsure=unsure,
        disputed=disputed,
        precision=confirmed / judged if judged else None,
        low=low,
        high=high,
        complete=size > 0 and judged == size,
    )
