"""Reads findings: a page of them, one by its row, the first ones. `listing` finds which samples a page holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Integer, Row, Select, Text, bindparam, case, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from service.contract.results import ScoreRow
from service.findings.filters import Filter, listed
from service.findings.listing import SCORE, ScoreColumns, find_page
from service.findings.orders import Order, Sort
from service.findings.precision import precision_down_to
from service.findings.schemas import Finding, FindingDetail, NearSample, Observation, Result, TokenSplit
from service.findings.verdicts.queries import find_verdicts, finding_not_found, render_verdict
from service.store.score_lists import HEADLINE, PublishedAudit
from service.store.stored_rows import StoredRows
from service.store.tables import Finding as FindingTable
from service.store.tables import Score

FIELDS = tuple(name for name in ScoreRow.model_fields if name != "probe_no")
"""Fields of a contract.ScoreRow that are columns of `scores`."""

PAGE_TEXT_BYTES = 8 * 2**20
"""A page ends early rather than hold more sample text than this; its first sample is complete whatever its size."""


@dataclass(frozen=True)
class KeptText:
    """The text of a sample that the database keeps."""

    messages: list[Any]
    extra: dict[str, Any]


_KEPT = FindingTable.__table__.c
_ROWS = bindparam("rows", type_=ARRAY(BigInteger))
_THESE = (
    _KEPT.audit_id == bindparam("audit_id"),
    _KEPT.attempt == bindparam("attempt"),
    _KEPT.row == func.any(_ROWS),
)
"""Conditions on `findings` for the given rows of an audit."""


def _select_texts() -> Select[Any]:
    size = func.octet_length(cast(_KEPT.messages, Text)) + func.octet_length(cast(_KEPT.extra, Text))
    place = func.array_position(_ROWS, _KEPT.row)
    sizes = select(
        place.label("place"),
        _KEPT.row,
        _KEPT.messages,
        _KEPT.extra,
        (func.sum(size).over(order_by=place) - size).label("before"),
        size.label("size"),
    ).where(*_THESE)
    measured = sizes.subquery().c
    # Texts beyond the limit are not sent; the first one is, whatever its size.
    fits = (measured.before == 0) | (measured.before + measured.size <= bindparam("most"))
    return select(measured.place, measured.row, case((fits, measured.messages)), case((fits, measured.extra))).order_by(
        measured.place
    )


@dataclass(frozen=True)
class FindingsPage:
    """One page of a list of findings."""

    findings: list[Finding]
    next_key: str | None
    """Where the next page begins; None if the list ends with this one."""


# Built once, since building them takes longer than running them.
_TEXTS = _select_texts()
_SCORES_OF_ROW = select(*SCORE).where(
    Score.list_id == func.any(bindparam("lists", type_=ARRAY(Integer))), Score.row == bindparam("row", type_=BigInteger)
)
_SCORES_OF_ROWS = select(*SCORE).where(Score.list_id == bindparam("list", type_=Integer), Score.row == func.any(_ROWS))
_ONE: Select[Any] = select(
    _KEPT.messages, _KEPT.extra, _KEPT.trace, _KEPT.baselines, _KEPT.tokens, _KEPT.nearest
).where(*_THESE)


def read_page(
    session: Session, audit: PublishedAudit, wanted: Filter, *, sort: Sort = "rank", after: str | None, limit: int
) -> FindingsPage:
    """Read a page of the audit's findings.

    Args:
        session: An open transaction.
        audit: The published audit.
        wanted: Which samples.
        sort: Their order.
        after: `next_key` of the page before; None for the first page.
        limit: The most findings of the page; it has fewer if texts are long or wanted samples are rare.

    Returns:
        The findings, and where the next page begins.

    Raises:
        InvalidCursorError: `after` does not belong to a page of this order.
        InvalidError: `invalid_request`: the audit lacks the probe, or the search text has no word.
    """
    order = Order.of(sort)
    start = None if after is None else order.parse(after)
    within = listed(audit, wanted.probe)
    found = find_page(session, within, wanted, order, start, limit + 1)
    rows = [score.row for score in found.scores[:limit]]
    keep, texts = page_texts(session, audit, rows)
    verdicts = find_verdicts(session, audit, rows[:keep])
    next_position = found.positions[keep - 1] if len(found.scores) > keep else found.resume
    return FindingsPage(
        [
            render_finding(score, texts.get(score.row), verdicts.get(score.row), probe_no=within.probe_no)
            for score in found.scores[:keep]
        ],
        None if next_position is None else next_position.cursor,
    )


class FoundFinding(NamedTuple):
    """One sample's result, as the database has it."""

    audit: PublishedAudit
    row: int
    detail: FindingDetail
    has_text: bool
    """The database keeps the text of flagged and top-ranked samples alone."""


def with_text(found: FoundFinding, stored: StoredRows) -> FindingDetail:
    """Add the text from the dataset. Call it with no session open.

    Args:
        found: A result whose text the database does not keep.
        stored: Reads the dataset's rows.

    Raises:
        ObjectMissingError: The dataset's rows no longer exist.
        ObjectStoreUnavailableError: The object store does not respond.
    """
    sample = stored.row(found.audit.workspace_id, found.audit.dataset_id, found.row)
    return found.detail.model_copy(update={"messages": sample["messages"], "extra": sample["extra"]})


def find_finding(session: Session, audit: PublishedAudit, row: int) -> FoundFinding:
    """Read one sample's result, with its text if the database keeps it.

    Args:
        session: An open transaction.
        audit: The published audit.
        row: The sample.

    Raises:
        NotFoundError: `finding_not_found`.
    """
    scores = find_scores(session, audit, row)
    if not scores:
        raise finding_not_found()
    kept = find_kept(session, audit, row)
    verdict = find_verdicts(session, audit, [row]).get(row)
    detail = FindingDetail(
        **score_fields(scores[0], HEADLINE),
        messages=None if kept is None else kept.messages,
        extra=None if kept is None else kept.extra,
        probes=render_probes(scores),
        trace=None if kept is None else [Observation.model_validate(observation) for observation in kept.trace],
        baselines=None if kept is None else kept.baselines,
        tokens=None if kept is None or kept.tokens is None else [TokenSplit.model_validate(own) for own in kept.tokens],
        nearest=None if kept is None or kept.nearest is None else find_nearest(session, audit, kept.nearest),
        verdict=None if verdict is None else render_verdict(verdict),
        precision=precision_down_to(session, audit, scores[0].rank),
    )
    return FoundFinding(audit, row, detail, has_text=kept is not None)


def find_neighbours(
    session: Session, audit: PublishedAudit, wanted: Filter, sort: Sort, finding: Finding
) -> tuple[int | None, int | None]:
    """Find the rows directly before and after a sample in a list of findings.

    The sample itself need not be in the list: a verdict, for example, may have removed it.

    Args:
        session: An open transaction.
        audit: The published audit.
        wanted: Which samples the list holds.
        sort: Their order.
        finding: The sample.

    Returns:
        The row before and the row after; None if there is none, or if the sample has no value in this order.

    Raises:
        InvalidError: `invalid_request`: the audit lacks the probe, or the search text has no word.
    """
    within = listed(audit, wanted.probe)
    order = Order.of(sort)
    value = finding.verdict and finding.verdict.decided_at if order.by == "decided_at" else getattr(finding, order.by)
    if value is None:
        return None, None

    def first_behind(order: Order) -> int | None:
        found = find_page(session, within, wanted, order, order.position(value, finding.row), 1)
        return found.scores[0].row if found.scores else None

    return first_behind(order.reversed), first_behind(order)


def page_texts(session: Session, audit: PublishedAudit, rows: Sequence[int]) -> tuple[int, dict[int, KeptText]]:
    """Read the texts of a page's rows, up to a limit of their total size.

    Args:
        session: An open transaction.
        audit: The published audit.
        rows: The rows of the page, in order.

    Returns:
        How many of the rows, from the first, fit on the page, and the texts that the database keeps, by row.
    """
    texts: dict[int, KeptText] = {}
    asked = {**_parameters(audit, rows), "most": PAGE_TEXT_BYTES}
    for number, row, messages, extra in session.connection().execute(_TEXTS, asked):
        if messages is None:
            return number - 1, texts
        texts[row] = KeptText(messages, extra)
    return len(rows), texts


def top_scores(session: Session, audit: PublishedAudit, limit: int) -> list[ScoreColumns]:
    """Return the first scores of the headline, by rank.

    Args:
        session: An open transaction.
        audit: The published audit.
        limit: The most scores to return.
    """
    query = select(*SCORE).where(Score.list_id == audit.headline).order_by(Score.rank).limit(limit)
    return list(session.connection().execute(query))


def flagged_scores(session: Session, audit: PublishedAudit, limit: int) -> list[ScoreColumns]:
    """Return the first flagged scores of the headline, by rank.

    Args:
        session: An open transaction.
        audit: The published audit.
        limit: The most scores to return.
    """
    flagged = select(*SCORE).where(Score.list_id == audit.headline, Score.flagged)
    return list(session.connection().execute(flagged.order_by(Score.rank).limit(limit)))


def find_scores(session: Session, audit: PublishedAudit, row: int) -> list[ScoreColumns]:
    """Return the scores of one sample: the headline first, then those of each probe if there are several.

    Args:
        session: An open transaction.
        audit: The published audit.
        row: The sample.

    Returns:
        The scores; empty if the dataset has no such row.
    """
    found = session.connection().execute(_SCORES_OF_ROW, {"lists": list(audit.lists), "row": row})
    return sorted(found, key=lambda score: audit.lists.index(score.list_id))


def find_nearest(session: Session, audit: PublishedAudit, kept: Sequence[dict[str, Any]]) -> list[NearSample]:
    """Return the nearest samples of a finding, with the headline's result for each.

    Args:
        session: An open transaction.
        audit: The published audit.
        kept: The nearest samples as the finding stores them.
    """
    asked = {"list": audit.headline, "rows": [near["neighbour"] for near in kept]}
    scores = {score.row: score for score in session.connection().execute(_SCORES_OF_ROWS, asked)}
    return [
        NearSample(
            row=near["neighbour"],
            similarity=near["similarity"],
            near_duplicate=near["near_duplicate"],
            rank=score.rank,
            z=score.z,
            q=score.q,
            flagged=score.flagged,
        )
        for near in kept
        if (score := scores.get(near["neighbour"])) is not None
    ]


def find_kept(session: Session, audit: PublishedAudit, row: int) -> Row[Any] | None:
    """Return everything that the database keeps of a row besides its scores.

    Args:
        session: An open transaction.
        audit: The published audit.
        row: The sample.

    Returns:
        Text, trace, baselines, tokens and nearest samples; None for a row that is neither flagged nor top-ranked.
    """
    return session.connection().execute(_ONE, _parameters(audit, [row])).one_or_none()


def score_fields(score: ScoreColumns, probe_no: int) -> dict[str, Any]:
    """Return a score as the fields of a `contract.results.ScoreRow`.

    Args:
        score: The score.
        probe_no: 0 for the headline; 1, 2, ... for one probe alone.
    """
    return {"probe_no": probe_no, **{name: getattr(score, name) for name in FIELDS}}


def render_finding(
    score: ScoreColumns, kept: KeptText | None, verdict: Row[Any] | None, *, probe_no: int = HEADLINE
) -> Finding:
    """Return the finding as lists show it.

    Args:
        score: The sample's score in the list.
        kept: Its text, if the database keeps it.
        verdict: What `find_verdicts` found of it; None without a verdict.
        probe_no: The probe of the list; 0 for the headline.
    """
    return Finding(
        **score_fields(score, probe_no),
        messages=None if kept is None else kept.messages,
        extra=None if kept is None else kept.extra,
        verdict=None if verdict is None else render_verdict(verdict),
    )


def render_probes(scores: list[ScoreColumns]) -> list[Result]:
    """Return the result of each probe alone, from what `find_scores` returned."""
    alone = scores[1:] or scores
    return [Result(**score_fields(score, number)) for number, score in enumerate(alone, start=1)]


def _parameters(audit: PublishedAudit, rows: Sequence[int]) -> dict[str, Any]:
    """Return the parameters of _THESE."""
    return {"audit_id": audit.id, "attempt": audit.attempt, "rows": list(rows)}
