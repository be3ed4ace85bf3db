"""Exports as the API accepts and shows them."""

from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.audits.schemas import Progress
from service.contract.failure import Failure
from service.lifecycle.exports import Filter, Format, Kind
from service.lifecycle.transitions import State


class ExportCreate(BaseModel):
    """An export to create."""

    model_config = ConfigDict(extra="forbid")
    kind: Kind = Field(
        description="cleaned: the dataset without the samples that the filter selects; flagged: those samples, with "
        "text and numbers; scores: the numbers of every sample."
    )
    format: Format = "jsonl"
    filter: Filter = Field(
        default="flagged",
        description="Which samples cleaned leaves out and flagged holds. flagged: those that are flagged; confirmed: "
        "those that people have confirmed; not_rejected: those that are flagged or confirmed, except rejected ones. "
        "Verdicts count as they are when the export is created.",
    )
    max_q: float | None = Field(
        default=None, gt=0, lt=1, description="Flag at this false discovery rate instead of the audit's."
    )

    @model_validator(mode="after")
    def _scores_are_of_all(self) -> Self:
        if self.kind == "scores" and self.model_fields_set & {"filter", "max_q"}:
            raise ValueError("scores are those of every sample: leave out filter and max_q, or export flagged")
        if self.filter == "confirmed" and self.max_q is not None:
            raise ValueError("confirmed goes by verdicts alone: leave out max_q")
        return self


class Export(BaseModel):
    """A file made from an audit's samples or scores."""

    object: Literal["export"] = "export"
    id: str
    audit_id: str
    kind: Kind
    format: Format
    filter: Filter | None = Field(description="Null for scores.")
    max_q: float | None
    status: State
    progress: Progress | None
    attempt: int
    created_at: datetime
    key_id: str | None = Field(description="The key that asked for it; null for a person, and for older exports.")
    user_id: str | None = Field(description="The person who asked for it; null for a key.")
    started_at: datetime | None = Field(description="When the last attempt started.")
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    rows: int | None = Field(description="Records in the file, once there is one.")
    bytes: int | None
    sha256: str | None
    rows_truncated: int | None = Field(
        description="Of cleaned, once there is a file: samples in it that the audit cut at max_length, so that it did "
        "not measure them to their end. Null for other kinds, and where audit or export is older than this count."
    )
    error: Failure | None
