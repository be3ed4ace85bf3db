"""Places that requests hold while they last; no workspace may hold more than half of them."""

from collections import Counter
from dataclasses import dataclass

from service.errors import UnavailableError


@dataclass(frozen=True)
class Refusal:
    """The answer to a request for which no place is left."""

    code: str
    detail: str
    """The text; {places} stands for the number of places."""
    retry_after: int
    """Seconds after which to try again."""

    def error(self, places: int) -> UnavailableError:
        """Return the error, with the number of places in its text."""
        return UnavailableError(self.code, self.detail.format(places=places), retry_after=self.retry_after)


class Places:
    """A count of the places that are taken, for the tasks of one event loop."""

    def __init__(self, total: int, *, full: Refusal, share_taken: Refusal) -> None:
        """Make places that are all free.

        Args:
            total: How many places there are.
            full: The refusal when none is left; its number is `total`.
            share_taken: The refusal for a workspace that holds its share; its number is the share.
        """
        self._total = total
        self._share = (total + 1) // 2
        self._full = full
        self._share_taken = share_taken
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """The places taken by all workspaces together."""
        return self._taken.total()

    def take(self, workspace_id: str) -> None:
        """Take a place.

        Args:
            workspace_id: Whose request it is for.

        Raises:
            UnavailableError: No place is left, or none for the workspace.
        """
        if self.taken >= self._total:
            raise self._full.error(self._total)
        if self._taken[workspace_id] >= self._share:
            raise self._share_taken.error(self._share)
        self._taken[workspace_id] += 1

    def give_back(self, workspace_id: str) -> None:
        """Give a place back."""
        self._taken[workspace_id] -= 1
        if not self._taken[workspace_id]:
            del self._taken[workspace_id]
