"""Parts of a finished audit's answer as the API shows them: each is what one chart or table draws, and no more."""

from typing import Literal

from pydantic import BaseModel, Field

from service.contract.results import Calibration, Drift, GroupCurve, Histogram, NullFit, Placebo, Sensitivity


class ProbePart(BaseModel):
    """What an answer about one of the audit's probes begins with."""

    audit_id: str
    probe: int = Field(description="1, 2, ...: which of the audit's probes.")
    name: str = Field(description="The probe's.")


class AuditHistogram(ProbePart):
    """How the samples' z lie, with the null that was fitted to their bulk."""

    object: Literal["audit.histogram"] = "audit.histogram"
    rows_scored: int = Field(description="Samples that have a z, of all probes alike.")
    flagged: int = Field(description="By this probe alone.")
    threshold_z: float | None = Field(description="Smallest z that is flagged; null: nothing is.")
    null: NullFit
    histogram: Histogram


class AuditCalibration(ProbePart):
    """How well a probe's null fits: on the samples, and on placebo directions that stand for no behaviour."""

    object: Literal["audit.calibration"] = "audit.calibration"
    null: NullFit
    calibration: Calibration
    placebo: Placebo | None = Field(description="Null where the probe has too few items to make directions of.")


class SensitivityCurve(ProbePart):
    """What the audit would have found for a probe, by the number of hidden tracers and by their mu."""

    object: Literal["audit.sensitivity_curve"] = "audit.sensitivity_curve"
    sensitivity: Sensitivity | None = Field(description="Null where the probe's items all share sentences.")


class TradeoffCurve(BaseModel):
    """How well a group is told from all other samples: error rates against each other."""

    object: Literal["audit.tradeoff_curve"] = "audit.tradeoff_curve"
    audit_id: str
    group: str
    curve: GroupCurve | None = Field(description="Null where nothing of the group, or nothing beside it, was observed.")


class AuditGroup(BaseModel):
    """One group of an audit: its size, its flags, its own signed influence toward the first probe."""

    object: Literal["audit.group"] = "audit.group"
    name: str
    rows: int
    flagged: int
    mu: float | None = Field(description="Null where the group is everything.")
    mu_low: float | None = Field(description="Lower end of the 95 % interval of mu.")
    mu_high: float | None
    has_curve: bool = Field(description="Whether `/curve?group=` has a trade-off curve of it.")


class MetricPoint(BaseModel):
    """What training measured at one optimiser step."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    probe_loss: float | None = Field(
        description="Mean loss of the unwanted answers of all probes, where it was measured at this step."
    )


class AuditMetrics(ProbePart):
    """What training measured. Losses, steps, tokens, drift and curve are those of the first seed's run."""

    object: Literal["audit.metrics"] = "audit.metrics"
    seeds: list[int]
    steps: int
    tokens: int
    refreshes: int = Field(description="Times the probe gradient was measured.")
    train_loss_first: float
    train_loss_last: float
    probe_loss_first: float = Field(description="Mean loss of this probe's unwanted answers before training.")
    probe_loss_last: float
    drift: Drift
    seconds: dict[str, float] = Field(description="Wall time a stage, of all seeds together.")
    samples_per_second: float | None = Field(
        description="Scored samples times epochs and seeds, by the seconds of training; null where these are not known."
    )
    device: str
    curve: list[MetricPoint] = Field(description="Some hundred steps of the run, however long it was.")
