"""What has changed from one version of a dataset to the next."""

from pydantic import Field

from service.contract.closed import Closed


class ChangedRow(Closed):
    """A prompt whose answer has changed."""

    before: int = Field(description="Its row in the version before.")
    after: int = Field(description="Its row in this version.")


class VersionChanges(Closed):
    """How the rows of a dataset differ from those of the one that it replaces.

    Rows are compared by the SHA-256 of their messages, each occurrence of a repeated row for itself: the first one here
    is the first one there. Of what is left then, rows of the same prompt (all turns but the last) are paired, again in
    their order, and count as changed; what has no partner was added or removed.
    """

    replaces_id: str = Field(description="The version before, that this one was compared with.")
    kept: int = Field(description="Rows whose messages stand in both.")
    moved: int = Field(description="Of these, how many have another row number now.")
    changed: int = Field(description="Rows that have the prompt of a row before, and another last turn.")
    added: int = Field(description="Rows that stand in this version alone.")
    removed: int = Field(description="Rows that stood in the version before alone.")
    first_changed: list[ChangedRow] = Field(description="The first 100 of them, by their row in this version.")
    first_added: list[int] = Field(description="The first 100 of them: rows of this version.")
    first_removed: list[int] = Field(description="The first 100 of them: rows of the version before.")
