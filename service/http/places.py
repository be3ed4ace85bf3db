"""Places that requests hold while they last, of which no workspace may take more than half."""

from collections import Counter


class Places:
    """Counts the places that are taken; for the tasks of one event loop.

    Args:
        total: How many there are.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.share = (total + 1) // 2
        """How many of them one workspace may have."""
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """By all workspaces together."""
        return self._taken.total()

    @property
    def full(self) -> bool:
        """None is left for anybody."""
        return self.taken >= self.total

    def share_taken(self, workspace_id: str) -> bool:
        """The workspace has as many as it may have."""
        return self._taken[workspace_id] >= self.share

    def take(self, workspace_id: str) -> None:
        """Takes one, once neither `full` nor `share_taken` holds."""
        self._taken[workspace_id] += 1

    def give_back(self, workspace_id: str) -> None:
        """Gives one back."""
        self._taken[workspace_id] -= 1
        if not self._taken[workspace_id]:
            del self._taken[workspace_id]
