"""Datasets as the API shows them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from service.contract.results import NearDuplicates
from service.contract.spec import Message
from service.datasets.notice_kinds import MEANINGS
from service.store.tables import Dataset as DatasetTable


class Dataset(BaseModel):
    """An uploaded dataset. Immutable, but for `replaces_id` where an older version is deleted."""

    object: Literal["dataset"] = "dataset"
    id: str
    name: str
    format: str = Field(description="Record format: messages, alpaca, sharegpt, prompt_completion or mapped.")
    container: str = Field(description="jsonl, json, csv, parquet or arrow, as it was uploaded.")
    encoding: str = Field(description="identity, gzip or zstd, as it was uploaded.")
    bytes: int = Field(description="Of the upload as it came.")
    sha256: str = Field(description="Of the upload as it came.")
    rows: int
    columns: list[str] = Field(description="Extra columns; any of them can be an audit's group_column.")
    replaces_id: str | None = Field(description="The dataset of which it is the next version.")
    created_at: datetime


class Sample(BaseModel):
    """One row of a dataset."""

    object: Literal["dataset.row"] = "dataset.row"
    row: int = Field(description="Position in the upload, from 0.")
    messages: list[Message]
    extra: dict[str, Any] = Field(description="The row's other columns.")


class Lengths(BaseModel):
    """Characters of texts. histogram.counts[i] of them have edges[i] <= characters < edges[i + 1]."""

    min: int | None
    mean: float | None
    max: int | None
    histogram: "LengthHistogram"


class LengthHistogram(BaseModel):
    """Bins that double in width."""

    edges: list[int]
    counts: list[int]


class Turns(BaseModel):
    """How many rows have this many turns; 64 stands for 64 and more."""

    turns: int
    rows: int


class ColumnValue(BaseModel):
    """One value of a column. Untrusted text."""

    value: Any
    rows: int


class Column(BaseModel):
    """An extra column: in how many rows it stands; its values where they are short and at most 200 different ones."""

    name: str
    rows: int
    distinct: int | None
    values: list[ColumnValue] | None = Field(description="The 20 most frequent.")


class Statistics(BaseModel):
    """A dataset in numbers."""

    object: Literal["dataset.statistics"] = "dataset.statistics"
    dataset_id: str
    rows: int
    roles: dict[str, int] = Field(description="Turns a role.")
    turns: list[Turns]
    prompt_characters: Lengths = Field(description="Of all turns but the last.")
    answer_characters: Lengths = Field(description="Of the last turn.")
    exact_duplicates: int = Field(description="Rows whose messages equal an earlier row's.")
    near_duplicates: NearDuplicates | None = Field(description="Counted in the background; null until then.")
    columns: list[Column] = Field(description="At most the first 100.")
    ignored_turn_keys: dict[str, int] = Field(description="Keys of turns that no audit uses, and how often they stand.")


class Notice(BaseModel):
    """One kind of oddity."""

    kind: str
    meaning: str
    rows: int = Field(description="Rows that have it; 0 for one of the whole file.")
    first_rows: list[int] = Field(description="The first 20 of them.")
    found: dict[str, int] = Field(
        description="What it was, at most 20 kinds, and how often: code points, keys, columns."
    )


class Validation(BaseModel):
    """What was noticed in an upload although it was accepted, and what of it was left out or read otherwise."""

    object: Literal["dataset.validation"] = "dataset.validation"
    dataset_id: str
    rows: int
    notices: list[Notice] | None = Field(description="null where the upload came before notices were taken.")


def render_dataset(dataset: DatasetTable) -> Dataset:
    """Return the dataset as the API shows it."""
    return Dataset.model_validate(dataset, from_attributes=True)


def render_validation(dataset: DatasetTable) -> Validation:
    """Return the dataset's notices with what they mean."""
    notices = None
    if dataset.notices is not None:
        notices = [Notice(**notice, meaning=MEANINGS[notice["kind"]]) for notice in dataset.notices]
    return Validation(dataset_id=dataset.id, rows=dataset.rows, notices=notices)
