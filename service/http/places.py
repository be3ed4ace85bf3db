"""Places that requests hold while they last, of which no workspace may take more than half."""

from collections import Counter
from dataclasses import dataclass

from service.errors import UnavailableError


@dataclass(frozen=True)
class Refusal:
    """What somebody is told for whom no place is left."""

    code: str
    detail: str
    """Where it says {places}, their number is put in."""
    retry_after: int
    """In seconds."""

    def error(self, places: int) -> UnavailableError:
        """The error that says so."""
        return UnavailableError(self.code, self.detail.format(places=places), retry_after=self.retry_after)


class Places:
    """Counts the places that are taken; for the tasks of one event loop."""

    def __init__(self, total: int, *, full: Refusal, share_taken: Refusal) -> None:
        """Make places that are all free.

        Args:
            total: How many there are.
            full: For whoever comes when none is left; its number is `total`.
            share_taken: For a workspace that has as many as it may have, which is its number.
        """
        self._total = total
        self._share = (total + 1) // 2
        self._full = full
        self._share_taken = share_taken
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """By all workspaces together."""
        return self._taken.total()

    def take(self, workspace_id: str) -> None:
        """Takes one. Raises UnavailableError where none is left, or none for the workspace."""
        if self.taken >= self._total:
            raise self._full.error(self._total)
        if self._taken[workspace_id] >= self._share:
            raise self._share_taken.error(self._share)
        self._taken[workspace_id] += 1

    def give_back(self, workspace_id: str) -> None:
        """Gives one back."""
        self._taken[workspace_id] -= 1
        if not self._taken[workspace_id]:
            del self._taken[workspace_id]
