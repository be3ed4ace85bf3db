"""An audit's scores and findings."""

from typing import Any

from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Computed,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    SmallInteger,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from service.store.base import Base


class ScoreList(Base):
    """One ranked list of an attempt, whose number stands for audit, attempt and probe in every index of `scores`."""

    __tablename__ = "score_lists"
    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    audit_id: Mapped[str] = mapped_column(ForeignKey("audit_data.audit_id"))
    attempt: Mapped[int]
    probe_no: Mapped[int] = mapped_column(SmallInteger)
    """0: the headline over all probes; with several probes, 1 and up hold the result of each alone."""
    __table_args__ = (UniqueConstraint("audit_id", "attempt", "probe_no"),)


class Score(Base):
    """One sample's result in one attempt: a contract.ScoreRow. Narrow, immutable, loaded by COPY.

    No foreign key: it would be looked up for each of ten million rows, a quarter of the loading. Wide columns come
    first, so that no row has gaps between them.
    """

    __tablename__ = "scores"
    list_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    """The ScoreList that the score belongs to."""
    n: Mapped[int] = mapped_column(Integer)
    rank: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    row: Mapped[int] = mapped_column(BigInteger)
    cluster: Mapped[int] = mapped_column(BigInteger)
    mu: Mapped[float]
    mu_low: Mapped[float | None]
    mu_high: Mapped[float | None]
    mu_composed: Mapped[float | None]
    p: Mapped[float | None]
    q: Mapped[float | None]
    z: Mapped[float | None] = mapped_column(REAL)
    z_reference: Mapped[float | None] = mapped_column(REAL)
    z_gradient: Mapped[float | None] = mapped_column(REAL)
    z_representation: Mapped[float | None] = mapped_column(REAL)
    probability_unwanted: Mapped[float | None] = mapped_column(REAL)
    probability_fair: Mapped[float | None] = mapped_column(REAL)
    tokens_left_out: Mapped[int | None] = mapped_column(Integer)
    strongest_probe: Mapped[int] = mapped_column(SmallInteger)
    flagged: Mapped[bool] = mapped_column(Boolean)
    side: Mapped[str | None]
    group: Mapped[str | None]
    __table_args__ = (
        CheckConstraint("side IN ('toward','against','both')", name="side"),
        Index("uq_scores_row", "list_id", "row", unique=True),
        # Every index costs the loading of a result time; docs/decisions/0020 has what each one is for.
        Index("ix_scores_mu", "list_id", "mu", "row"),
        # Downwards, as scores come from a worker: what grows at its end has full pages.
        Index("ix_scores_z", "list_id", text("z DESC"), text('"row" DESC')),
        Index(
            "ix_scores_group",
            "list_id",
            # Not the name: it may be longer than what fits an index. 32 bits: what they mix up is told apart by name.
            text('hashtext("group")'),
            "rank",
            postgresql_where=text('"group" IS NOT NULL'),
        ),
        Index("ix_scores_side", "list_id", "side", "rank", postgresql_where=text("side IS NOT NULL")),
        Index("ix_scores_cluster", "list_id", "cluster", "row", postgresql_where=text("cluster <> row")),
        Index("ix_scores_truncated", "list_id", "rank", postgresql_where=text("tokens_left_out > 0")),
        Index("ix_scores_flagged", "list_id", "rank", postgresql_where=text("flagged")),
    )


SEARCHED_CHARACTERS = 100_000
"""Characters of a sample's text that search knows. A tsvector has at most 1 MiB: so many stay below, even if all differ
and are of a script without spaces, of which each character and each pair of neighbours is kept."""

_WORDS = "(jsonb_path_query_array(messages, '$[*].\"content\"'))::text"
for _escape in ("\\\\", "\\n", "\\r", "\\t", "\\f", "\\b", '\\"'):
    # In a text of JSON a line break is a backslash and an n, which would become part of the next word.
    _WORDS = f"replace({_WORDS}, '{_escape}', ' ')"
SEARCH = f'array_to_tsvector(ARRAY[audit_id]) || search_words("left"({_WORDS}, {SEARCHED_CHARACTERS}))'
"""The audit's id as a word makes the one index serve each audit alone: it intersects the two lists.
`search_words` is made by migrations; docs/decisions/0035 tells what it does."""


class Finding(Base):
    """The text of one flagged or top-ranked sample of an attempt, and how its numbers came about."""

    __tablename__ = "findings"
    audit_id: Mapped[str] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    row: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    workspace_id: Mapped[str]
    messages: Mapped[list[Any]]
    extra: Mapped[dict[str, Any]]
    trace: Mapped[list[Any]]
    """[{probe_no, seed, step, effect, alignment, mu}]: every observation, as in contract.TRACE_COLUMNS."""
    baselines: Mapped[dict[str, Any]]
    """What simpler methods say: contract.BASELINE_COLUMNS."""
    tokens: Mapped[list[Any] | None]
    """[{probe_no, elsewhere, tokens: [{message, start, end, share}]}]: how its alignment is split over its tokens, as
    in contract.TOKEN_COLUMNS. Null where that was not looked at."""
    nearest: Mapped[list[Any] | None]
    """[{neighbour, similarity, near_duplicate}], the most similar first: contract.NEAREST_COLUMNS; null likewise."""
    search: Mapped[str] = mapped_column(TSVECTOR, Computed(SEARCH, persisted=True), deferred=True)
    """The words of the messages, for full text, and the audit's id."""
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "audit_id"], ["audit_data.workspace_id", "audit_data.audit_id"]),
        Index("ix_findings_search", "search", postgresql_using="gin"),
    )
