"""A short-lived cache of principals, so that several reads in a row ask the database once.

Entries are found by the SHA-256 of the secret, for at most KEPT_SECONDS and never beyond the key's own end. Only reads
use it, and refusals are not kept. In the process that revokes a key or signs a browser out, the cache is cleared with
the commit; in other processes an entry may be used until KEPT_SECONDS are over. docs/decisions/0027 has the reasons.
"""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from service.principal import Principal

KEPT_SECONDS = 1.0
"""How long another process's change of a key's rights may go unseen."""

MOST_KEPT = 10_000
"""The most principals in memory; the one used the longest ago is dropped."""

_CHANGED = "principals_changed"


@dataclass(frozen=True)
class Known:
    """A principal as the database described it."""

    principal: Principal
    until: float
    """Until when it may be used, by this process's monotonic clock."""


class Principals:
    """The cache of one process; safe for threads."""

    def __init__(self) -> None:
        """Begin with an empty cache."""
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        self._lock = threading.Lock()
        self._forgotten = 0

    def find(self, secret_sha256: bytes) -> Principal | None:
        """Return the principal of a secret, or None if it is not known or no longer valid."""
        with self._lock:
            known = self._known.get(secret_sha256)
        return known.principal if known is not None and time.monotonic() < known.until else None

    def ask(self) -> "Question":
        """Note the time before the database is asked: its answer is as old as the question."""
        return Question(time.monotonic(), self._forgotten)

    def keep(self, secret_sha256: bytes, principal: Principal, question: "Question", ends_in: float | None) -> None:
        """Keep what the database answered, unless somebody's rights have changed since it was asked.

        Args:
            secret_sha256: SHA-256 of the key or cookie.
            principal: Whose it is.
            question: From `ask`, before the look-up.
            ends_in: For how many seconds the secret was valid then; None: without end.
        """
        good_for = KEPT_SECONDS if ends_in is None else min(KEPT_SECONDS, ends_in)
        with self._lock:
            if question.forgotten != self._forgotten:
                return
            self._known[secret_sha256] = Known(principal, question.asked_at + good_for)
            self._known.move_to_end(secret_sha256)
            while len(self._known) > MOST_KEPT:
                self._known.popitem(last=False)

    def forget(self) -> None:
        """Forget all entries, since rights change seldom."""
        with self._lock:
            self._forgotten += 1
            self._known.clear()

    def forget_with(self, sessions: sessionmaker[Session]) -> None:
        """Clear the cache with each commit of a session for which `rights_changed` was called."""

        def committed(session: Session) -> None:
            if session.info.get(_CHANGED):
                self.forget()

        event.listen(sessions, "after_commit", committed)


@dataclass(frozen=True)
class Question:
    """When the database was asked for a principal."""

    asked_at: float
    forgotten: int
    """How often the cache had been cleared by then."""


def rights_changed(session: Session) -> None:
    """Mark a transaction that ends or changes what a key, a browser or a workspace may do."""
    session.info[_CHANGED] = True
