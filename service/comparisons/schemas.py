"""Comparisons as the API shows them."""

from typing import Any, Literal

from pydantic import BaseModel, Field

Change = Literal["newly_flagged", "no_longer_flagged"]


class FlagChanges(BaseModel):
    """How the flags of two audits differ, over samples that both datasets hold."""

    base: int = Field(description="Samples that the base flags; where samples are matched by text, distinct ones.")
    other: int
    both: int
    newly_flagged: int = Field(description="Flagged by the other audit alone, though the base has seen them.")
    no_longer_flagged: int
    only_in_base: int = Field(description="Flagged by the base, and not in the other audit's dataset.")
    only_in_other: int
    jaccard: float | None = Field(description="both / (both + newly_flagged + no_longer_flagged); null for 0 / 0.")
    complete: bool = Field(description="False: an audit flags more samples than are compared, the first by rank.")


class RankCorrelation(BaseModel):
    """Spearman's rank correlation of z."""

    value: float | None = Field(description="null where there are too few samples, or all have the same z.")
    low: float | None = Field(description="Approximate 95 % interval where the samples are drawn by chance.")
    high: float | None
    samples: int = Field(description="Samples with a z in both audits that were used.")
    drawn_from: int = Field(description="Samples that they stand for, in the base.")
    sampled: bool = Field(description="Whether they are drawn by chance; else they are all there are.")


class Difference(BaseModel):
    """One thing that was asked for in another way."""

    field: str
    base: Any
    other: Any


class ComparedData(BaseModel):
    """What one of the audits was about."""

    dataset_id: str
    name: str
    rows: int
    sha256: str = Field(description="Of the upload as it came.")


class Comparison(BaseModel):
    """Two finished audits beside each other."""

    object: Literal["comparison"] = "comparison"
    base: str
    other: str
    matched_by: Literal["row", "sha256"] = Field(
        description="row: both are about the same dataset. sha256: samples with the same messages are the same."
    )
    flagged: FlagChanges
    rank_correlation: RankCorrelation = Field(description="Over all samples, or a random part of them.")
    rank_correlation_flagged: RankCorrelation = Field(description="Over those that either audit flags.")
    configuration: list[Difference]
    base_data: ComparedData
    other_data: ComparedData


class ChangedSample(BaseModel):
    """A sample that one of the audits flags, and the other does not."""

    object: Literal["comparison.sample"] = "comparison.sample"
    base_row: int = Field(description="Where samples are matched by text: the first row that holds it.")
    other_row: int
    base_rank: int
    other_rank: int
    base_z: float | None
    other_z: float | None
    base_q: float | None
    other_q: float | None
