"""Who stood behind a key or cookie a moment ago, so that reads in a row ask the database once.

What is kept here is known by the SHA-256 of the secret, for KEPT_SECONDS at most and never beyond the key's own end.
Only reads heed it, and refusals are not kept. In the process that ends a key or signs a browser out, it is forgotten
with the commit; in others it is good until KEPT_SECONDS are over. docs/decisions/0027 has the reasons.
"""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from service.principal import Principal

KEPT_SECONDS = 1.0
MOST_KEPT = 10_000

_CHANGED = "principals_changed"


@dataclass(frozen=True)
class Known:
    """A principal as the database had it."""

    principal: Principal
    until: float
    """By this process's monotonic clock."""


class Principals:
    """Of one process; safe for threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        self._lock = threading.Lock()
        self._forgotten = 0

    def find(self, secret_sha256: bytes) -> Principal | None:
        """Whose secret it is, if that is still good."""
        with self._lock:
            known = self._known.get(secret_sha256)
        return known.principal if known is not None and time.monotonic() < known.until else None

    def ask(self) -> "Question":
        """Call it before the database is asked: what that says is as old as the question."""
        return Question(time.monotonic(), self._forgotten)

    def keep(self, secret_sha256: bytes, principal: Principal, question: "Question", ends_in: float | None) -> None:
        """Keeps what the database answered; ends_in: seconds that the secret was good for, None: without end.

        Nothing is kept that was asked before somebody's rights have changed.
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
        """Everything: rights change seldom."""
        with self._lock:
            self._forgotten += 1
            self._known.clear()

    def forget_with(self, sessions: sessionmaker[Session]) -> None:
        """From now on forgets with each commit of a session for which `rights_changed` was called."""

        def committed(session: Session) -> None:
            if session.info.get(_CHANGED):
                self.forget()

        event.listen(sessions, "after_commit", committed)


@dataclass(frozen=True)
class Question:
    """When the database was asked who somebody is."""

    asked_at: float
    forgotten: int
    """How often everything had been forgotten by then."""


def rights_changed(session: Session) -> None:
    """Call it where a transaction ends or changes what a key, a browser or a workspace may do."""
    session.info[_CHANGED] = True
