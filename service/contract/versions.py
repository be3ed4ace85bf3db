"""The differences between one version of a dataset and the next."""

from pydantic import Field

from service.contract.closed import Closed


class ChangedRow(Closed):
    """A prompt whose answer has changed."""

    before: int = Field(description="Its row in the version before.")
    after: int = Field(description="Its row in this version.")


class VersionChanges(Closed):
    """How the rows of a dataset differ from those of the one that it replaces.

    Rows are compared by the SHA-256 of their messages, each occurrence of a repeated row for itself: the first one here
    matches the first one there. Of the remaining rows, those with the same prompt (all turns but the last) are paired,
    again in their order, and count as changed; rows without a partner were added or removed.
    """

    replaces_id: str = Field(description="The version before, with which this one was compared.")
    kept: int = Field(description="Rows whose messages are in both.")
    moved: int = Field(description="Of these, how many have a different row number now.")
    changed: int = Field(description="Rows with the prompt of an earlier row and a different last turn.")
    added: int = Field(description="Rows that are only in this version.")
    removed: int = Field(description="Rows that were only in the version before.")
    first_changed: list[ChangedRow] = Field(description="The first 100 changed rows, by their row in this version.")
    first_added: list[int] = Field(description="The first 100 added rows of this version.")
    first_removed: list[int] = Field(description="The first 100 removed rows of the version before.")
