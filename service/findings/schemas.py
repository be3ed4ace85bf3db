"""Findings as the API shows them."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from service.contract import ScoreRow, Side


class Result(BaseModel):
    """What one probe alone, or all of them together, say of a sample."""

    probe_no: int = Field(description="0: the headline over all probes; 1, 2, ...: one of the audit's probes alone.")
    row: int = Field(description="Position of the sample in the upload, from 0.")
    rank: int = Field(description="1 is the most suspicious.")
    n: int = Field(description="Times the sample was observed after warm-up, over all seeds.")
    strongest_probe: int = Field(description="The probe that z, mu and side are of, from 1: the one of the smallest p.")
    mu: float = Field(description="Signed f-influence toward the unwanted behaviour.")
    mu_low: float | None = Field(description="Lower end of the 95 % interval of mu.")
    mu_high: float | None
    mu_composed: float | None = Field(description="The f-INE paper's composition over steps: larger, and unsigned.")
    z: float | None = Field(description="Detection statistic.")
    z_reference: float | None = Field(description="The same toward the reference answers.")
    side: Side | None = Field(
        description="Where a sample that stands out leans: toward the unwanted answers, against them, to both alike."
    )
    p: float | None
    q: float | None = Field(description="Smallest false discovery rate at which the sample is flagged.")
    flagged: bool
    cluster: int = Field(description="First row of the near-duplicates that the sample is one of; else its own row.")
    group: str | None


assert list(Result.model_fields) == list(ScoreRow.model_fields)


class Finding(Result):
    """One sample's result in an audit."""

    object: Literal["finding"] = "finding"
    messages: list[dict[str, Any]] | None = Field(
        description="The sample's turns. Lists have it for flagged and top-ranked samples, else null."
    )
    extra: dict[str, Any] | None = Field(description="The sample's other columns.")


class Observation(BaseModel):
    """One time that training drew the sample."""

    probe_no: int
    seed: int
    step: int = Field(description="Optimiser step, from 1.")
    effect: float | None
    alignment: float | None
    mu: float | None = Field(description="The observation's own share of the sample's mu in that seed.")


class FindingDetail(Finding):
    """One sample's result, how it came about, and what simpler methods say."""

    probes: list[Result] = Field(description="The result of each probe alone, in the audit's order.")
    trace: list[Observation] | None = Field(
        description="Every observation of a flagged or top-ranked sample; null for others."
    )
    baselines: dict[str, float | None] | None = Field(
        description="What simpler methods say of a flagged or top-ranked sample, larger is more suspicious; else null."
    )
