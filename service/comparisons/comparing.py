"""Compares two finished audits, at a cost that does not grow with the number of their samples.

It compares the flagged samples, at most MAX_FLAGGED of each audit by rank, and for the rank correlation at most SAMPLE
randomly chosen rows: a correlation over ten million samples would take longer than a request may, and 20,000 of them
give it to about 0.01. Results never change once they are published, so neither does a comparison: which samples match
is kept for the next page of a list.
"""

import random
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BigInteger, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from service.comparisons.correlation import spearman, spearman_interval
from service.comparisons.schemas import (
    Change,
    ChangedSample,
    ComparedData,
    Comparison,
    Difference,
    FlagChanges,
    RankCorrelation,
)
from service.comparisons.texts import digests_of, first_rows
from service.contract.protocol import ROWS_FILE
from service.contract.spec import TrainingConfig
from service.store.objects import ObjectStore, dataset_key
from service.store.score_lists import find_headline
from service.store.tables import Audit, AuditProbe, Dataset, Score

MAX_FLAGGED = 100_000
"""Most flagged samples of each audit that are compared."""
SAMPLE = 20_000
"""Most samples that a rank correlation uses."""
ROWS_AT_ONCE = 5_000
"""Rows looked up in one statement, so that none comes near the statement timeout on a cold disk."""

MIN_CORRELATED = 3
"""With fewer pairs a rank correlation says nothing."""
KEPT_MATCHES = 8
"""Matches that a process keeps; each may hold some hundred thousand rows."""

Key = int | str
"""What identifies a sample in both audits: its row, or the digest of its messages."""


@dataclass(frozen=True)
class Side:
    """One of the two audits."""

    audit: Audit
    headline: int
    """The id of its list of scores over all probes."""
    dataset: Dataset
    probe_ids: tuple[str, ...]
    flagged: dict[int, int]
    """Rank by row, of the first MAX_FLAGGED."""


@dataclass(frozen=True)
class Match:
    """Which sample of one audit is which sample of the other."""

    base: dict[Key, tuple[int, int]]
    """(rank, row) of the base's flagged samples; the first by rank if several have the same key."""
    other: dict[Key, tuple[int, int]]
    base_rows: Mapping[Any, int]
    """Row in the base of each key that was looked up there: flagged by either audit, or drawn."""
    other_rows: Mapping[Any, int]
    drawn: list[Key]
    """Keys of randomly chosen rows of the base, or of all."""
    correlations: list[RankCorrelation] = field(default_factory=list)
    """Rank correlations of two audits, over all samples and over the flagged ones; `compare` fills it in."""

    def changed(self, change: Change) -> list[tuple[int, int, int]]:
        """Return (rank in the audit that flags it, row in the base, row in the other) of changed samples, by rank."""
        own, theirs = (self.other, self.base) if change == "newly_flagged" else (self.base, self.other)
        return sorted(
            (rank, self.base_rows[key], self.other_rows[key])
            for key, (rank, _) in own.items()
            if key not in theirs and key in self.base_rows and key in self.other_rows
        )


class Matches:
    """The last few matches of this process, by the audits' ids and attempts."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], Match] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, base: Side, other: Side) -> Match | None:
        """Return the match of two audits, or None if it is not kept.

        Args:
            base: The audit to compare with.
            other: The audit that is compared.
        """
        with self._lock:
            return self._kept.get(_name(base, other))

    def keep(self, base: Side, other: Side, match: Match) -> None:
        """Keep the match of two audits, and drop the oldest beyond KEPT_MATCHES.

        Args:
            base: The audit to compare with.
            other: The audit that is compared.
            match: Their match.
        """
        with self._lock:
            self._kept[_name(base, other)] = match
            while len(self._kept) > KEPT_MATCHES:
                self._kept.popitem(last=False)


def load_side(session: Session, audit: Audit) -> Side:
    """Load what the database holds of a succeeded audit.

    Args:
        session: An open transaction.
        audit: The audit.

    Returns:
        The audit with its dataset, probes and flagged samples.
    """
    headline = find_headline(session, audit)
    probes = select(AuditProbe.probe_id).where(AuditProbe.audit_id == audit.id).order_by(AuditProbe.probe_no)
    flagged = (
        select(Score.row, Score.rank)
        .where(Score.list_id == headline, Score.flagged)
        .order_by(Score.rank)
        .limit(MAX_FLAGGED)
    )
    return Side(
        audit,
        headline,
        session.get_one(Dataset, audit.dataset_id),
        tuple(session.scalars(probes)),
        {row: rank for row, rank in session.execute(flagged)},  # noqa: C416  # a result is no iterable of pairs to dict()
    )


def match_sides(base: Side, other: Side, objects: ObjectStore) -> Match:
    """Determine which samples are the same, without the database.

    Within one dataset samples match by row. Between two, they match by the digest of their messages, which is read from
    the stored rows of both.

    Args:
        base: The audit to compare with.
        other: The audit that is compared.
        objects: Holds the datasets.

    Returns:
        The match, without correlations.

    Raises:
        ObjectMissingError: A dataset's rows no longer exist.
        ObjectStoreUnavailableError: The object store does not respond.
    """
    drawn = draw_rows(base.dataset.rows, f"{base.audit.id} {other.audit.id}")
    if base.dataset.id == other.dataset.id:
        rows = {row: row for row in {*base.flagged, *other.flagged, *drawn}}
        flags = [{row: (rank, row) for row, rank in side.flagged.items()} for side in (base, other)]
        return Match(flags[0], flags[1], rows, rows, list(drawn))  # type: ignore[arg-type]
    with _rows_of(objects, other) as file:
        other_digests = digests_of(file, other.flagged)
    with _rows_of(objects, base) as file:
        base_digests = digests_of(file, {*base.flagged, *drawn})
        base_rows = first_rows(file, {*base_digests.values(), *other_digests.values()})
    with _rows_of(objects, other) as file:
        other_rows = first_rows(file, {*base_digests.values(), *other_digests.values()})
    return Match(
        _first_by_key(base, base_digests),
        _first_by_key(other, other_digests),
        base_rows,
        other_rows,
        list(dict.fromkeys(base_digests[row] for row in drawn)),
    )


def draw_rows(rows: int, seed: str) -> list[int]:
    """Return SAMPLE randomly chosen rows, rising; all if there are no more.

    Args:
        rows: Number of rows of the dataset.
        seed: Equal seeds give equal rows.
    """
    if rows <= SAMPLE:
        return list(range(rows))
    return sorted(random.Random(seed).sample(range(rows), SAMPLE))  # noqa: S311  # no secret


def compare(session: Session, base: Side, other: Side, match: Match) -> Comparison:
    """Compare two audits.

    It looks up at most 2 * SAMPLE scores of each audit, and only once for a match.

    Args:
        session: An open transaction.
        base: The audit to compare with.
        other: The audit that is compared.
        match: Their match, which afterwards holds the correlations.

    Returns:
        The comparison, as the API shows it.
    """
    correlations = match.correlations or _correlations(session, base, other, match)
    match.correlations[:] = correlations
    return Comparison(
        base=base.audit.id,
        other=other.audit.id,
        matched_by="row" if base.dataset.id == other.dataset.id else "sha256",
        flagged=_flag_changes(base, other, match),
        rank_correlation=correlations[0],
        rank_correlation_flagged=correlations[1],
        configuration=_differences(base, other),
        base_data=_data(base),
        other_data=_data(other),
    )


def list_changed(
    session: Session, base: Side, other: Side, match: Match, change: Change, *, after_rank: int, limit: int
) -> list[ChangedSample]:
    """Return samples whose flag changed, by rank in the audit that flags them.

    Args:
        session: An open transaction.
        base: The audit to compare with.
        other: The audit that is compared.
        match: Their match.
        change: Whether to list newly flagged samples or those no longer flagged.
        after_rank: Rank of the last sample of the page before; 0 for the first page.
        limit: The most samples to return.
    """
    wanted = [found for found in match.changed(change) if found[0] > after_rank][:limit]
    base_scores = _scores(session, base, [base_row for _, base_row, _ in wanted])
    other_scores = _scores(session, other, [other_row for _, _, other_row in wanted])
    listed = []
    for _, base_row, other_row in wanted:
        (base_rank, base_z, base_q), (other_rank, other_z, other_q) = base_scores[base_row], other_scores[other_row]
        listed.append(
            ChangedSample(
                base_row=base_row, other_row=other_row, base_rank=base_rank, other_rank=other_rank, base_z=base_z,
                other_z=other_z, base_q=base_q, other_q=other_q,
            )
        )  # fmt: skip
    return listed


# ---------------------------------------------------------------- parts


def _flag_changes(base: Side, other: Side, match: Match) -> FlagChanges:
    shared = match.base_rows.keys() & match.other_rows.keys()
    both = len(match.base.keys() & match.other.keys())
    newly, gone = len(match.changed("newly_flagged")), len(match.changed("no_longer_flagged"))
    total = both + newly + gone
    return FlagChanges(
        base=len(match.base),
        other=len(match.other),
        both=both,
        newly_flagged=newly,
        no_longer_flagged=gone,
        only_in_base=len(match.base.keys() - shared),
        only_in_other=len(match.other.keys() - shared),
        jaccard=both / total if total else None,
        complete=max(len(base.flagged), len(other.flagged)) < MAX_FLAGGED,
    )


def _correlations(session: Session, base: Side, other: Side, match: Match) -> list[RankCorrelation]:
    common = [key for key in match.drawn if key in match.base_rows and key in match.other_rows]
    either = sorted(
        (key for key in {*match.base, *match.other} if key in match.base_rows and key in match.other_rows), key=str
    )
    part = either if len(either) <= SAMPLE else random.Random("either").sample(either, SAMPLE)  # noqa: S311
    size = base.dataset.rows
    of_all = _correlation(session, base, other, match, common, drawn_from=size, sampled=size > SAMPLE)
    of_flagged = _correlation(session, base, other, match, part, drawn_from=len(either), sampled=len(either) > SAMPLE)
    return [of_all, of_flagged]


def _correlation(
    session: Session, base: Side, other: Side, match: Match, keys: Sequence[Key], *, drawn_from: int, sampled: bool
) -> RankCorrelation:
    base_scores = _scores(session, base, (match.base_rows[key] for key in keys))
    other_scores = _scores(session, other, (match.other_rows[key] for key in keys))
    pairs = [
        (base_z, other_z)
        for key in keys
        if (base_z := base_scores[match.base_rows[key]][1]) is not None
        and (other_z := other_scores[match.other_rows[key]][1]) is not None
    ]
    value = spearman(*zip(*pairs, strict=True)) if len(pairs) >= MIN_CORRELATED else None
    interval = spearman_interval(value, len(pairs)) if sampled and value is not None else None
    low, high = interval or (None, None)
    return RankCorrelation(value=value, low=low, high=high, samples=len(pairs), drawn_from=drawn_from, sampled=sampled)


def _scores(session: Session, side: Side, rows: Iterable[int]) -> dict[int, tuple[int, float | None, float | None]]:
    """Return (rank, z, q) by row."""
    wanted = list(rows)
    found: dict[int, tuple[int, float | None, float | None]] = {}
    for start in range(0, len(wanted), ROWS_AT_ONCE):
        these = bindparam("rows", wanted[start : start + ROWS_AT_ONCE], ARRAY(BigInteger))
        query = select(Score.row, Score.rank, Score.z, Score.q).where(
            Score.list_id == side.headline, Score.row == func.any(these)
        )
        found.update((row, (rank, z, q)) for row, rank, z, q in session.execute(query))
    return found


def _differences(base: Side, other: Side) -> list[Difference]:
    settings = [_settings(side) for side in (base, other)]
    return [
        Difference(field=field, base=settings[0].get(field), other=settings[1].get(field))
        for field in dict.fromkeys([*settings[0], *settings[1]])
        if settings[0].get(field) != settings[1].get(field)
    ]


def _settings(side: Side) -> dict[str, Any]:
    audit = side.audit
    # Settings that an older audit does not have get their defaults.
    training = TrainingConfig.model_validate(audit.training).model_dump(mode="json")
    return {
        "dataset_id": audit.dataset_id,
        "probe_ids": list(side.probe_ids),
        "model_id": audit.model_id,
        "seeds": audit.seeds,
        "q": audit.q,
        "group_column": audit.group_column,
        "trusted_column": audit.trusted_column,
        **{f"training.{name}": value for name, value in training.items()},
    }


def _data(side: Side) -> ComparedData:
    dataset = side.dataset
    return ComparedData(dataset_id=dataset.id, name=dataset.name, rows=dataset.rows, sha256=dataset.sha256)


def _first_by_key(side: Side, digests: dict[int, str]) -> dict[Key, tuple[int, int]]:
    """Return (rank, row) of the flagged samples by key, the first by rank if several have the same text."""
    found: dict[Key, tuple[int, int]] = {}
    for row, rank in side.flagged.items():  # by rank
        found.setdefault(digests[row], (rank, row))
    return found


def _rows_of(objects: ObjectStore, side: Side) -> Any:
    return objects.open(dataset_key(side.audit.workspace_id, side.dataset.id, ROWS_FILE))


def _name(base: Side, other: Side) -> tuple[Any, ...]:
    return base.audit.id, base.audit.published_attempt, other.audit.id, other.audit.published_attempt
