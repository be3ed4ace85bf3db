"""Findings as the API shows them."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.contract.results import ScoreRow, Side
from service.findings.filters import Filter, Outcome, VerdictKind
from service.http.fields import Storable

Note = Annotated[str, Field(max_length=10_000), Storable]


class Result(BaseModel):
    """What one probe alone, or all of them together, say of a sample."""

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
        description="Where a sample that stands out leans: toward the unwanted answers, against them, to both alike."
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
    cluster: int = Field(description="First row of the near-duplicates that the sample is one of; else its own row.")
    group: str | None


assert list(Result.model_fields) == list(ScoreRow.model_fields)


class ByActor(BaseModel):
    """Who did something."""

    key_id: str | None = Field(description="The key with which it was done; null for a person.")
    user_id: str | None = Field(description="The person who did it; null for a key.")

    @property
    def actor_id(self) -> str:
        """The id of the key or the person; empty where nobody did."""
        return self.key_id or self.user_id or ""


class Opinion(ByActor):
    """What one reviewer says of a sample now."""

    verdict: VerdictKind
    note: str | None
    decided_at: datetime


class Verdict(ByActor):
    """What counts of a sample now, and what each reviewer says of it."""

    object: Literal["verdict"] = "verdict"
    row: int
    verdict: Outcome | None = Field(
        description="What counts. disputed: reviewers differ, and nobody has settled it; null: nothing is said of the "
        "sample, or it was withdrawn."
    )
    settled_by: str | None = Field(description="Id of the key or person whose verdict counts because others differ.")
    note: str | None = Field(
        description="Like `key_id`, `user_id` and `decided_at`, of the opinion that settles, else of the newest one."
    )
    decided_at: datetime | None
    revision: int = Field(description="Changes so far; 0: nothing was ever said.")
    opinions: list[Opinion] = Field(description="What each reviewer says, the oldest first.")


class VerdictSet(BaseModel):
    """What to say of a sample."""

    model_config = ConfigDict(extra="forbid")
    verdict: VerdictKind
    note: Note | None = None


class VerdictChange(ByActor):
    """Something that was said of a sample."""

    object: Literal["verdict.change"] = "verdict.change"
    row: int
    revision: int = Field(description="1, 2, 3, ... for each sample.")
    verdict: VerdictKind | None = Field(description="What the reviewer said; null: withdrawn.")
    note: str | None
    changed_at: datetime
    outcome: Outcome | None = Field(description="What counted of the sample from then on.")
    settled_by: str | None = Field(
        description="Id of the key or person whose verdict counted from then on, since others differed."
    )
    bulk_id: str | None = Field(description="The bulk that it was a part of, or that was undone by it.")
    restores: int | None = Field(
        description="It undid a bulk: all is as at this revision again, 0 before anything was said. Else null."
    )


class BulkVerdicts(BaseModel):
    """The same verdict for all samples that a filter keeps: asked for twice, the second time with the first's token."""

    model_config = ConfigDict(extra="forbid")
    filter: Filter = Field(description="As the list takes them.")
    verdict: VerdictKind | None = Field(description="null withdraws what the key or person itself has said.")
    note: Note | None = None
    dry_run: bool = Field(default=False, description="Change nothing: count, and give the token.")
    token: str | None = Field(default=None, max_length=100, description="Of the dry run whose samples are meant.")


class BulkSample(BaseModel):
    """One of the samples that a bulk of verdicts is about."""

    row: int
    rank: int = Field(description="In the headline.")
    flagged: bool
    verdict: Outcome | None = Field(description="What counted of it before.")


class BulkResult(BaseModel):
    """What a bulk of verdicts has changed, or would change."""

    object: Literal["verdict.bulk"] = "verdict.bulk"
    id: str | None = Field(description="Undo it by this; null: a dry run.")
    dry_run: bool
    verdict: VerdictKind | None
    count: int = Field(description="Samples that the filter keeps.")
    changed: int = Field(description="Those of which the key or person has said something else before, or nothing.")
    disputed: int = Field(description="Of the changed ones, those that are disputed afterwards.")
    sample: list[BulkSample] = Field(description="The first of them by rank.")
    token: str | None = Field(description="Of a dry run: send it back to change these samples and no others.")


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
    restored: int | None = Field(description="Samples that undoing it has given back what was said before.")


class BulkUndone(BaseModel):
    """What undoing a bulk of verdicts has changed."""

    object: Literal["verdict.bulk_undone"] = "verdict.bulk_undone"
    id: str
    restored: int = Field(description="Samples of which the same is said again as before the bulk.")
    kept: int = Field(description="Samples that stay as they are: something was said of them since.")


class Precision(BaseModel):
    """How many of the first k findings people have confirmed."""

    k: int | Literal["flagged"] = Field(description="The first k of the headline, or all flagged samples.")
    size: int = Field(description="Samples among these.")
    reviewed: int = Field(description="Those with a verdict, unsure and disputed ones too.")
    confirmed: int
    rejected: int
    unsure: int
    disputed: int = Field(description="Those of which reviewers differ, while nobody has settled it.")
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
    assumes: list[str] = Field(description="What the intervals take for granted.")


class Finding(Result):
    """One sample's result in an audit."""

    object: Literal["finding"] = "finding"
    messages: list[dict[str, Any]] | None = Field(
        description="The sample's turns. Lists have it for flagged and top-ranked samples, else null."
    )
    extra: dict[str, Any] | None = Field(description="The sample's other columns.")
    verdict: Verdict | None = Field(description="What people say of it; null: nothing.")


class Observation(BaseModel):
    """One time that training drew the sample."""

    probe_no: int
    seed: int
    step: int = Field(description="Optimiser step, from 1.")
    effect: float | None
    alignment: float | None
    mu: float | None = Field(description="The observation's own share of the sample's mu in that seed.")


class TokenShare(BaseModel):
    """A token of the sample, by the characters that it stands for."""

    message: int = Field(description="Position of the turn, from 0.")
    start: int = Field(description="Characters (Unicode code points) of its content before the token.")
    end: int
    share: float = Field(description="Above zero it pushes toward the unwanted answers.")


class TokenSplit(BaseModel):
    """How the sample's alignment with a probe is split over its tokens, at the end of training."""

    probe_no: int
    tokens: list[TokenShare] = Field(description="Sizes of all shares, `elsewhere` included, add up to 1.")
    elsewhere: float = Field(
        description="Share of tokens that stand for nothing in a turn, as the mark that ends an answer."
    )


class NearSample(BaseModel):
    """A sample that the model represents alike."""

    row: int
    similarity: float = Field(description="Cosine of the two representations, each less what all samples share.")
    near_duplicate: bool
    rank: int = Field(description="In the headline, as z, q and flagged.")
    z: float | None
    q: float | None
    flagged: bool


class FindingDetail(Finding):
    """One sample's result, how it came about, and what simpler methods say."""

    probes: list[Result] = Field(description="The result of each probe alone, in the audit's order.")
    trace: list[Observation] | None = Field(
        description="Every observation of a flagged or top-ranked sample; null for others."
    )
    baselines: dict[str, float | None] | None = Field(
        description="What simpler methods say of a flagged or top-ranked sample, larger is more suspicious; else null."
    )
    tokens: list[TokenSplit] | None = Field(
        description="Which tokens carry the sample's alignment; null where that was not looked at. The summary's "
        "token_split says of how many samples it was, or why of none; it is null for older audits."
    )
    nearest: list[NearSample] | None = Field(
        description="Of a flagged or top-ranked sample, others with the most similar representations; null for others "
        "and in older audits."
    )
    precision: Precision | None = Field(
        description="Of the reviewed samples down to this one's rank; null where nothing is reviewed or it lies deep."
    )
