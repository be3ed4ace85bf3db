"""Loads two audits of a workspace with their samples matched, and keeps the match for the next request."""

from functools import partial

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from sqlalchemy.orm import Session

from service.audits.queries import find_succeeded
from service.comparisons.comparing import Match, Matches, Side, load_side, match_sides
from service.http.transactions import Transactions
from service.principal import Principal
from service.store.objects import ObjectStore

_matches = Matches()
"""The matches that this process keeps."""
_readers = CapacityLimiter(2)
"""Reading two large datasets' digests takes seconds of CPU time and some memory, so only this many run at once."""


async def load_matched(
    base: str, other: str, principal: Principal, transactions: Transactions, objects: ObjectStore
) -> tuple[tuple[Side, Side], Match]:
    """Load both audits and match their samples.

    Args:
        base: Id of the audit to compare with.
        other: Id of the audit that is compared.
        principal: Who is asking.
        transactions: Runs what reads the database; no transaction is open while the datasets are read.
        objects: Holds the datasets.

    Returns:
        Both audits, and their match.

    Raises:
        NotFoundError: `audit_not_found`.
        ConflictError: `audit_not_finished`.
        ObjectMissingError: A dataset's rows no longer exist.
        ObjectStoreUnavailableError: The object store does not respond.
    """

    def load(session: Session) -> tuple[Side, Side]:
        return tuple(load_side(session, find_succeeded(session, principal, audit)) for audit in (base, other))  # type: ignore[return-value]

    sides = await transactions.run(load)
    match = _matches.find(*sides)
    if match is None:
        match = await run_sync(partial(match_sides, *sides, objects), limiter=_readers)
        _matches.keep(*sides, match)
    return sides, match
