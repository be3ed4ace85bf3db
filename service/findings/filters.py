"""Filters of a list of findings, as the API accepts them and as conditions of SQL."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import REAL, ColumnElement, and_, bindparam, cast, false, func, select
from sqlalchemy.dialects.postgresql import TSQUERY
from sqlalchemy.orm import Session

from service.contract.results import Side
from service.contract.spec import MAX_PROBES
from service.errors import InvalidError
from service.http.fields import NO_NUL, Storable
from service.store.score_lists import HEADLINE, PublishedAudit
from service.store.tables import Finding as FindingTable
from service.store.verdict_tables import Opinion, Verdict

VerdictKind = Literal["confirmed", "rejected", "unsure"]
Outcome = Literal["confirmed", "rejected", "unsure", "disputed"]
"""The verdict that counts for a sample; disputed if reviewers differ."""
VerdictFilter = Literal["confirmed", "rejected", "unsure", "disputed", "none"]


class Filter(BaseModel):
    """Which samples are wanted: those for which every given condition holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    probe: int = Field(
        default=HEADLINE,
        ge=0,
        le=MAX_PROBES,
        description="0: the headline over all probes; 1, 2, ...: one probe alone.",
    )
    flagged: bool | None = Field(default=None, description="Only flagged samples, or only others.")
    truncated: bool | None = Field(
        default=None,
        description="Only samples with tokens behind max_length, which were not measured; or only those "
        "that were measured in full.",
    )
    max_q: float | None = Field(default=None, ge=0, le=1, description="Only samples whose q is at most this.")
    min_mu: float | None = Field(default=None, ge=-1e30, le=1e30, description="Only samples whose mu is at least this.")
    min_z: float | None = Field(default=None, ge=-1e30, le=1e30, description="Only samples whose z is at least this.")
    group: Annotated[str, Storable] | None = Field(
        default=None,
        max_length=10_000,
        description="Only samples of this group.",
        json_schema_extra=NO_NUL,
    )
    cluster: int | None = Field(
        default=None, ge=0, lt=2**63, description="Only the near-duplicates of which this is the first row."
    )
    side: Side | None = Field(default=None, description="Only samples on this side.")
    verdict: VerdictFilter | None = Field(
        default=None,
        description="Only samples with this verdict; `disputed`: reviewers differ; `none`: samples without a verdict.",
    )
    reviewer: Annotated[str, Storable] | None = Field(
        default=None,
        max_length=100,
        description="Only samples on which this reviewer, by the id of the key or person, has a verdict now.",
        json_schema_extra=NO_NUL,
    )
    text: Annotated[str, Storable] | None = Field(
        default=None,
        max_length=1000,
        description='Only flagged and top-ranked samples whose text matches: `word -without "a phrase" or another`.',
        json_schema_extra=NO_NUL,
    )


@dataclass(frozen=True)
class Listed:
    """One ranked list of an audit's published result."""

    audit_id: str
    attempt: int
    list_id: int
    probe_no: int

    def of(self, table: Any) -> tuple[ColumnElement[bool], ...]:
        """Return the condition that selects this list's samples from `scores`, or from a selection of it."""
        return (table.list_id == self.list_id,)


def listed(audit: PublishedAudit, probe: int) -> Listed:
    """Find the list of scores over all probes, or of one of them.

    An audit of one probe stores its list once, as the headline.

    Args:
        audit: The published audit.
        probe: 0 for the headline over all probes; 1, 2, ... for one probe alone.

    Returns:
        The list to read.

    Raises:
        InvalidError: `invalid_request`: the audit does not have this probe.
    """
    if probe > audit.probes:
        have = "1 probe" if audit.probes == 1 else f"{audit.probes} probes"
        detail = f"The audit has {have}: ask for probe 1 to {audit.probes}, or for 0, the headline over all."
        raise InvalidError("invalid_request", detail, errors={"query:probe": detail})
    probe_no = HEADLINE if audit.probes == 1 else probe
    return Listed(audit.id, audit.attempt, audit.lists[probe_no], probe_no)


def flagged_condition(table: Any, flagged: bool) -> ColumnElement[bool]:
    """Return the condition on the flag in the form of the partial index.

    Args:
        table: `scores`, or a selection of it.
        flagged: True for flagged samples, False for the others.
    """
    column: ColumnElement[bool] = table.flagged
    return column if flagged else ~column


def truncated_condition(table: Any, truncated: bool) -> ColumnElement[bool]:
    """Return the condition on cut samples in the form of the partial index.

    A sample of which the number of cut tokens is not known fulfils neither.

    Args:
        table: `scores`, or a selection of it.
        truncated: True for samples with tokens behind the limit, False for samples measured in full.
    """
    column: ColumnElement[int] = table.tokens_left_out
    return column > 0 if truncated else column == 0


def group_condition(table: Any, group: str) -> ColumnElement[bool]:
    """Return the condition on the group, with the hash that the index holds: a name may be too long for an index.

    Args:
        table: `scores`, or a selection of it.
        group: The name of the group.
    """
    hashed, wanted = (func.hashtext(text) for text in (table.group, group))
    return and_(hashed == wanted, table.group == group)


def at_least(column: Any, value: float, *, real: bool = False) -> ColumnElement[bool]:
    """Return the condition that a column is at least a value.

    Args:
        column: mu or z.
        value: The least value.
        real: True for z, a float4: a value that is shown for a float4 then means that float4, not the nearest float8.
    """
    return column >= (cast(bindparam(None, value), REAL) if real else value)


def conditions(table: Any, wanted: Filter, within: Listed) -> list[ColumnElement[bool]]:
    """Return all conditions of a filter.

    Verdict, reviewer and text are looked up row by row (scalar subqueries, which the planner never turns into a join):
    a page is found by walking along an order, and the walk ends once it is full.

    Args:
        table: `scores`, or a selection of it.
        wanted: The filter.
        within: The list that is read.
    """
    found: list[ColumnElement[bool]] = []
    if wanted.flagged is not None:
        found.append(flagged_condition(table, wanted.flagged))
    if wanted.truncated is not None:
        found.append(truncated_condition(table, wanted.truncated))
    if wanted.max_q is not None:
        found.append(table.q <= wanted.max_q)
    if wanted.min_mu is not None:
        found.append(at_least(table.mu, wanted.min_mu))
    if wanted.min_z is not None:
        found.append(at_least(table.z, wanted.min_z, real=True))
    if wanted.group is not None:
        found.append(group_condition(table, wanted.group))
    if wanted.cluster is not None:
        found.append(table.cluster == wanted.cluster)
    if wanted.side is not None:
        found.append(table.side == wanted.side)
    if wanted.verdict is not None:
        said = (
            select(Verdict.verdict)
            .where(Verdict.audit_id == within.audit_id, Verdict.row == table.row)
            .correlate_except(Verdict)
            .scalar_subquery()
        )
        found.append(said.is_(None) if wanted.verdict == "none" else said == wanted.verdict)
    if wanted.reviewer is not None:
        opinion = (
            select(Opinion.row)
            .where(
                Opinion.audit_id == within.audit_id, Opinion.row == table.row, Opinion.reviewer_id == wanted.reviewer
            )
            .correlate_except(Opinion)
            .scalar_subquery()
        )
        found.append(opinion.is_not(None))
    if wanted.text is not None:
        matches = (
            select(FindingTable.search.op("@@")(_words(wanted.text)))
            .where(
                FindingTable.audit_id == within.audit_id,
                FindingTable.attempt == within.attempt,
                FindingTable.row == table.row,
            )
            .correlate_except(FindingTable)
            .scalar_subquery()
        )
        found.append(func.coalesce(matches, false()))
    return found


def check_text(session: Session, text: str) -> None:
    """Check that a search text has a word: without one it would match nothing, or everything.

    Args:
        session: An open transaction.
        text: What the user searches for.

    Raises:
        InvalidError: `invalid_request`: the text has no word.
    """
    if not session.scalar(select(func.numnode(_words(text)))):
        detail = "Name at least one word to look for."
        raise InvalidError("invalid_request", detail, errors={"query:text": detail})


def matching_texts(within: Listed, text: str) -> list[ColumnElement[bool]]:
    """Return the conditions on `findings` for texts of the audit that match, using the index.

    The index holds the audit's id as a word.

    Args:
        within: The list that is read.
        text: What the user searches for.
    """
    own = cast(f"'{within.audit_id}'", TSQUERY)
    return [
        FindingTable.audit_id == within.audit_id,
        FindingTable.attempt == within.attempt,
        FindingTable.search.op("@@")(own.op("&&")(_words(text))),
    ]


def _words(text: str) -> ColumnElement[Any]:
    """Return the tsquery of any text; what is not valid search syntax counts as the words in it.

    A word, or the text between quotation marks, is a phrase for `search_phrase`; a minus before it means that it must
    be missing, and one of the parts separated by `or` must match.
    """
    either, all_of = None, None
    for minus, quoted, word in _TERM.findall(text):
        if word.lower() == "or":
            either, all_of = _joined(func.tsquery_or, either, all_of), None
            continue
        phrase = func.search_phrase(quoted or word, type_=TSQUERY)
        all_of = _joined(func.tsquery_and, all_of, func.tsquery_not(phrase, type_=TSQUERY) if minus else phrase)
    found = _joined(func.tsquery_or, either, all_of)
    return cast("", TSQUERY) if found is None else found


_TERM = re.compile(r"""(-?)(?:"([^"]*)"?|([^\s"]+))""")
"""A minus or none, and the text between quotation marks or a word."""


def _joined(
    operator: Callable[..., ColumnElement[Any]], one: ColumnElement[Any] | None, other: ColumnElement[Any] | None
) -> ColumnElement[Any] | None:
    if one is None or other is None:
        return other if one is None else one
    return operator(one, other, type_=TSQUERY)
