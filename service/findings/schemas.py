"""Findings as the API shows them."""

from typing import Any, Literal

from pydantic import BaseModel, Field


class Finding(BaseModel):
    """One sample's result in an audit."""

    object: Literal["finding"] = "finding"
    row: int = Field(description="Position of the sample in the upload, from 0.")
    rank: int = Field(description="1 is the most suspicious.")
    n: int = Field(description="Times the sample was observed after warm-up.")
    mu: float = Field(description="Signed f-influence toward the unwanted behaviour.")
    mu_low: float | None = Field(description="Lower end of the 95 % interval of mu.")
    mu_high: float | None
    z: float | None = Field(description="Detection statistic.")
    z_reference: float | None = Field(description="The same toward the reference answers.")
    p: float | None
    q: float | None = Field(description="Smallest false discovery rate at which the sample is flagged.")
    flagged: bool
    group: str | None
    messages: list[dict[str, Any]] | None = Field(
        description="The sample's turns. Lists have it for flagged and top-ranked samples, else null."
    )
    extra: dict[str, Any] | None = Field(description="The sample's other columns.")
