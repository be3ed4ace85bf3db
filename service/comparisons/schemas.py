"""Comparisons as the API shows them."""

from typing import Any, Literal

from pydantic import BaseModel, Field

Change = Literal["newly_flagged", "no_longer_flagged"]


class FlagChanges(BaseModel):
    """How the flags of two audits differ, over samples that are in both datasets."""

    base: int = Field(description="Samples that the base flags; distinct ones if samples are matched by text.")
    other: int
    both: int
    newly_flagged: int = Field(description="Flagged only by the other audit, though they are in the base's data.")
    no_longer_flagged: int
    only_in_base: int = Field(description="Flagged by the base, and not in the other audit's dataset.")
    only_in_other: int
    jaccard: float | None = Field(description="both / (both + newly_flagged + no_longer_flagged); null for 0 / 0.")
    complete: bool = Field(
        description="False if an audit flags more samples than are compared, which are the first by rank."
    )


class RankCorrelation(BaseModel):
    """Spearman's rank correlation of z."""

    value: float | None = Field(description="null if there are too few samples, or all have the same z.")
    low: float | None = Field(description="Approximate 95 % interval if the samples are randomly chosen.")
    high: float | None
    samples: int = Field(description="Samples with a z in both audits that were used.")
    drawn_from: int = Field(description="Samples of the base that they were drawn from.")
    sampled: bool = Field(description="Whether they are randomly chosen; otherwise they are all there are.")


class Difference(BaseModel):
    """One setting that differs."""

    field: str
    base: Any
    other: Any


class ComparedData(BaseModel):
    """The dataset of one of the audits."""

    dataset_id: str
    name: str
    rows: int
    sha256: str = Field(description="Of the upload as it was sent.")


class Comparison(BaseModel):
    """A comparison of two finished audits."""

    object: Literal["comparison"] = "comparison"
    base: str
    other: str
    matched_by: Literal["row", "sha256"] = Field(
        description="row: both audits have the same dataset. sha256: samples with the same messages match."
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
    base_row: int = Field(description="If samples are matched by text, the first row with that text.")
    other_row: int
    base_rank: int
    other_rank: int
    base_z: float | None
    other_z: float | None
    base_q: float | None
    other_q: float | None
