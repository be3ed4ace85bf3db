"""Findings as the API shows them."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.contract.results import ScoreRow, Side
from service.findings.filters import Filter, Outcome, VerdictKind
from service.http.fields import Storable

Note = Annotated[str, Field(max_length=10_000), Storable]


class Result(BaseModel):
    """One sample's result by one probe alone, or by all of them together."""

    probe_no: int = Field(description="0: the headline over all probes; 1, 2, ...: one of the audit's probes alone.")
    row: int = Field(description="Position of the sample in the upload, from 0.")
    rank: int = Field(description="1 is the most suspicious.")
    n: int = Field(description="Times the sample was observed after warm-up, over all seeds.")
    tokens_left_out: int | None = Field(
        None,
        description="Tokens of its answers, or of all its turns where audit_turns is all, behind max_length: they were "
        "not measured. 0: it was measured whole. Null where the sample cannot be encoded for the model, and in older "
        "audits.",
    )
    strongest_probe: int = Field(description="The probe that z, mu and side are of, from 1: the one of the smallest p.")
    mu: float = Field(description="Signed f-influence toward the unwanted behaviour.")
    mu_low: float | None = Field(description="Lower end of the 95 % interval of mu.")
    mu_high: float | None
    mu_composed: float | None = Field(description="The f-INE paper's composition over steps: larger, and unsigned.")
    z: float | None = Field(description="Detection statistic.")
    z_reference: float | None = Field(description="The same toward the reference answers.")
    z_gradient: float | None = Field(
        None, description="By gradients alone, in standard deviations of the bulk. Null for audits with one view."
    )
    z_representation: float | None = Field(None, description="By representations alone, likewise.")
    side: Side | None = Field(
        description="The side of a sample that stands out: toward the unwanted answers, against them, or both."
    )
    probability_unwanted: float | None = Field(
        None, description="That the sample is of the kind of the unwanted answers. Null where it is not tested."
    )
    probability_fair: float | None = Field(
        None, description="That it is of the kind of the reference answers. Null where the probe has none."
    )
    p: float | None
    q: float | None = Field(
        description="Smallest false discovery rate at which the sample is flagged, fair answers being false."
    )
    flagged: bool
    cluster: int = Field(description="First row of the sample's near-duplicates; its own row if it has none.")
    group: str | None


assert list(Result.model_fields) == list(ScoreRow.model_fields)


class ByActor(BaseModel):
    """The key or person that did something."""

    key_id: str | None = Field(description="The key with which it was done; null for a person.")
    user_id: str | None = Field(description="The person who did it; null for a key.")

    @property
    def actor_id(self) -> str:
        """The id of the key or the person; empty if there is none."""
        return self.key_id or self.user_id or ""


class Opinion(ByActor):
    """One reviewer's current verdict on a sample."""

    verdict: VerdictKind
    note: str | None
    decided_at: datetime


class Verdict(ByActor):
    """The verdict that counts for a sample now, and the verdict of each reviewer."""

    object: Literal["verdict"] = "verdict"
    row: int
    verdict: Outcome | None = Field(
        description="The verdict that counts. disputed: reviewers differ, and no verdict has settled it; null: no "
        "verdict was given, or it was withdrawn."
    )
    settled_by: str | None = Field(description="Id of the key or person whose verdict counts because others differ.")
    note: str | None = Field(
        description="Like `key_id`, `user_id` and `decided_at`, from the opinion that settles, otherwise the newest."
    )
    decided_at: datetime | None
    revision: int = Field(description="Changes so far; 0: there never was a verdict.")
    opinions: list[Opinion] = Field(description="The verdict of each reviewer, the oldest first.")


class VerdictSet(BaseModel):
    """A verdict to set."""

    model_config = ConfigDict(extra="forbid")
    verdict: VerdictKind
    note: Note | None = None


class VerdictChange(ByActor):
    """A verdict that was set or withdrawn."""

    object: Literal["verdict.change"] = "verdict.change"
    row: int
    revision: int = Field(description="1, 2, 3, ... for each sample.")
    verdict: VerdictKind | None = Field(description="The reviewer's verdict; null: withdrawn.")
    note: str | None
    changed_at: datetime
    outcome: Outcome | None = Field(description="The verdict that counted from then on.")
    settled_by: str | None = Field(
        description="Id of the key or person whose verdict counted from then on, since others differed."
    )
    bulk_id: str | None = Field(description="The bulk that it was a part of, or that it undid.")
    restores: int | None = Field(
        description="If it undid a bulk: the revision whose state was restored, 0 for no verdict. Otherwise null."
    )


class BulkVerdicts(BaseModel):
    """The same verdict for all samples that a filter keeps: sent twice, the second time with the token of the first."""

    model_config = ConfigDict(extra="forbid")
    filter: Filter = Field(description="As the list takes them.")
    verdict: VerdictKind | None = Field(description="null withdraws the verdicts of the key or person itself.")
    note: Note | None = None
    dry_run: bool = Field(default=False, description="Change nothing: count, and give the token.")
    token: str | None = Field(default=None, max_length=100, description="The token of the dry run that this confirms.")


class BulkSample(BaseModel):
    """One of the samples of a bulk of verdicts."""

    row: int
    rank: int = Field(description="In the headline.")
    flagged: bool
    verdict: Outcome | None = Field(description="The verdict that counted before.")


class BulkResult(BaseModel):
    """What a bulk of verdicts has changed, or would change."""

    object: Literal["verdict.bulk"] = "verdict.bulk"
    id: str | None = Field(description="Id to undo it by; null for a dry run.")
    dry_run: bool
    verdict: VerdictKind | None
    count: int = Field(description="Samples that the filter keeps.")
    changed: int = Field(description="Those on which the key or person had another verdict, or none.")
    disputed: int = Field(description="Of the changed ones, those that are disputed afterwards.")
    sample: list[BulkSample] = Field(description="The first of them by rank.")
    token: str | None = Field(description="After a dry run: send it back to change exactly these samples.")


class Bulk(ByActor):
    """A verdict on many samples at once."""

    object: Literal["verdict.bulk"] = "verdict.bulk"
    id: str
    audit_id: str
    verdict: VerdictKind | None = Field(description="null: verdicts were withdrawn.")
    note: str | None
    filter: dict[str, Any] = Field(description="Which samples were meant.")
    count: int = Field(description="Samples that the filter kept.")
    changed: int
    created_at: datetime
    undone_at: datetime | None
    undone_by: str | None = Field(description="Id of the key or person that undid it.")
    restored: int | None = Field(description="Samples whose verdict was restored by undoing it.")


class BulkUndone(BaseModel):
    """What undoing a bulk of verdicts has changed."""

    object: Literal["verdict.bulk_undone"] = "verdict.bulk_undone"
    id: str
    restored: int = Field(description="Samples whose verdict is again that from before the bulk.")
    kept: int = Field(description="Samples that stay as they are, since their verdict has changed after the bulk.")


class Precision(BaseModel):
    """How many of the first k findings people have confirmed."""

    k: int | Literal["flagged"] = Field(description="The first k of the headline, or all flagged samples.")
    size: int = Field(description="Samples among these.")
    reviewed: int = Field(description="Those with a verdict, unsure and disputed ones too.")
    confirmed: int
    rejected: int
    unsure: int
    disputed: int = Field(description="Those on which reviewers differ and no verdict has settled it.")
    precision: float | None = Field(description="confirmed / (confirmed + rejected).")
    low: float | None = Field(description="Exact 95 % interval of it (Clopper-Pearson).")
    high: float | None
    complete: bool = Field(description="Whether every one of them is confirmed or rejected.")


class AuditPrecision(BaseModel):
    """Precision of an audit's findings, from verdicts."""

    object: Literal["audit.precision"] = "audit.precision"
    audit_id: str
    data: list[Precision]
    confidence: float
    assumes: list[str] = Field(description="What the intervals assume.")


class Finding(Result):
    """One sample's result in an audit."""

    object: Literal["finding"] = "finding"
    messages: list[dict[str, Any]] | None = Field(
        description="The sample's turns. Lists have it for flagged and top-ranked samples, else null."
    )
    extra: dict[str, Any] | None = Field(description="The sample's other columns.")
    verdict: Verdict | None = Field(description="The verdict on it; null without one.")


class Observation(BaseModel):
    """One time that training drew the sample."""

    probe_no: int
    seed: int
    step: int = Field(description="Optimiser step, from 1.")
    effect: float | None
    alignment: float | None
    mu: float | None = Field(description="The observation's own share of the sample's mu in that seed.")


class TokenShare(BaseModel):
    """A token of the sample, by the characters that it represents."""

    message: int = Field(description="Position of the turn, from 0.")
    start: int = Field(description="Characters (Unicode code points) of its content before the token.")
    end: int
    share: float = Field(description="Above zero it pushes toward the unwanted answers.")


class TokenSplit(BaseModel):
    """How the sample's alignment with a probe is split over its tokens, at the end of training."""

    probe_no: int
    tokens: list[TokenShare] = Field(description="Sizes of all shares, `elsewhere` included, add up to 1.")
    elsewhere: float = Field(
        description="Share of tokens that represent nothing in a turn, such as the mark that ends an answer."
    )


class NearSample(BaseModel):
    """A sample with a similar representation in the model."""

    row: int
    similarity: float = Field(description="Cosine of the two representations, each less what all samples share.")
    near_duplicate: bool
    rank: int = Field(description="In the headline, as z, q and flagged.")
    z: float | None
    q: float | None
    flagged: bool


class FindingDetail(Finding):
    """One sample's result, how it came about, and the scores of simpler methods."""

    probes: list[Result] = Field(description="The result of each probe alone, in the audit's order.")
    trace: list[Observation] | None = Field(
        description="Every observation of a flagged or top-ranked sample; null for others."
    )
    baselines: dict[str, float | None] | None = Field(
        description="Scores of a flagged or top-ranked sample by simpler methods, larger is more suspicious; otherwise "
        "null."
    )
    tokens: list[TokenSplit] | None = Field(
        description="Which tokens carry the sample's alignment; null if that was not examined. The summary's "
        "token_split says for how many samples it was, or why for none; it is null for older audits."
    )
    nearest: list[NearSample] | None = Field(
        description="For a flagged or top-ranked sample, those with the most similar representations; null for other "
        "samples and in older audits."
    )
    precision: Precision | None = Field(
        description="Over the reviewed samples down to this one's rank; null if none is reviewed, or the rank is deep."
    )
