"""What an audit finds: the records of the result files, and their summary."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from service.contract.closed import Closed


class Side(StrEnum):
    """The side of a sample that stands out from the bulk, for probes with reference answers."""

    TOWARD = "toward"
    """Toward the unwanted answers."""
    AGAINST = "against"
    """Toward the reference answers."""
    BOTH = "both"
    """Toward both alike: it is on the probe's topic, but its side is open."""


class ScoreRow(Closed):
    """One sample's result. See docs/statistics.md."""

    probe_no: int
    """0 for the headline over all probes. With several probes, 1 and up hold the result of each alone."""
    row: int
    rank: int
    """1 is the most suspicious: by q, then p, then z, then row."""
    n: int
    """How often the sample was observed after warm-up, over all seeds."""
    tokens_left_out: int | None = None
    """Tokens of its audited turns behind the limit, which were not measured; 0 if it was measured in full. None if the
    sample cannot be encoded, and for audits from before this was kept."""
    strongest_probe: int
    """The probe that z, mu and side refer to, counted from 1: in a headline, the one with the smallest p."""
    mu: float
    """Signed f-influence toward the unwanted behaviour."""
    mu_low: float | None
    """Lower end of the 95 % interval of mu; None if no sample was seen twice."""
    mu_high: float | None
    mu_composed: float | None
    """The f-INE paper's composition over steps, inclusion known: a different number than mu, larger and unsigned."""
    z: float | None
    """Detection statistic; None for a sample never observed (truncated to nothing)."""
    z_reference: float | None
    """The same statistic toward the reference answers; None if the probe has none."""
    z_gradient: float | None = None
    """z by the gradient view alone, in standard deviations of the bulk; None for audits from before there were two."""
    z_representation: float | None = None
    """z by the representation view alone."""
    side: Side | None
    probability_unwanted: float | None = None
    """Probability that the sample is of the kind of the probe's unwanted answers; None if it is not tested."""
    probability_fair: float | None = None
    """Probability that it is of the kind of the reference answers; None if the probe has none."""
    p: float | None
    q: float | None
    """Smallest false discovery rate at which the sample is flagged: the larger of the one from the bulk's null
    (Benjamini-Hochberg) and the one from the kinds, which counts fair answers on the topic as false."""
    flagged: bool
    """Whether q is at most the audit's."""
    cluster: int
    """First row of the sample's near-duplicates; its own row if it has none."""
    group: str | None = None


class NearDuplicates(Closed):
    """Number of a dataset's samples that are near-duplicates of an earlier one. See docs/api.md."""

    rows: int = Field(ge=0)
    """Samples whose prompt and answer are both near-duplicates of those of an earlier sample; includes exact ones."""
    exact: int = Field(ge=0)
    """Near-duplicates whose prompt and answer equal, once normalised, those of an earlier sample."""
    threshold: float
    """Texts with at least this Jaccard similarity of word trigrams are near-duplicates."""
    method: str
    """How the similarity was computed, in words."""


SCORE_COLUMNS = {
    "probe_no": "int16",
    "row": "int64",
    "rank": "int64",
    "n": "int32",
    "tokens_left_out": "int32",
    "strongest_probe": "int16",
    "mu": "float64",
    "mu_low": "float64",
    "mu_high": "float64",
    "mu_composed": "float64",
    "z": "float64",
    "z_reference": "float64",
    "z_gradient": "float64",
    "z_representation": "float64",
    "side": "string",
    "probability_unwanted": "float64",
    "probability_fair": "float64",
    "p": "float64",
    "q": "float64",
    "flagged": "bool",
    "cluster": "int64",
    "group": "string",
}
"""Columns of scores.parquet, the fields of ScoreRow, with their Arrow types."""

NULLABLE_SCORE_COLUMNS = frozenset(
    name for name, field in ScoreRow.model_fields.items() if type(None) in getattr(field.annotation, "__args__", ())
)
"""Columns of scores.parquet that may be null: the fields of ScoreRow that may be None."""

TRACE_COLUMNS = {
    "row": "int64",
    "probe_no": "int16",
    "seed": "int64",
    "step": "int64",
    "effect": "float64",
    "alignment": "float64",
    "mu": "float64",
}
"""Columns of traces.parquet: one record for each observation of each sample; probe_no counts from 1, step from 1;
mu is the observation's own share of the sample's mu in that seed. Values may be null."""

BASELINE_COLUMNS = (
    "bm25",
    "repeated_output",
    "ngram_count",
    "length",
    "loss",
    "gradient_norm",
    "representation_similarity",
    "tracin",
)
"""float64 columns of baselines.parquet beside `row` (int64), one record per sample in the order of rows: scores by
simpler methods, larger is more suspicious; null if a method has none. With several probes, the largest."""


TOKEN_COLUMNS = {
    "row": "int64",
    "probe_no": "int16",
    "message": "int32",
    "start": "int32",
    "end": "int32",
    "share": "float64",
}
"""Columns of tokens.parquet: how the alignment of the first samples is split over their tokens. A record is a stretch
of one message's characters (`message` from 0, `start` and `end` in code points). In one record of each sample and probe
these are null: that of the tokens without characters, such as the mark that ends an answer. probe_no counts from 1. The
sizes of a sample's shares add up to 1 for each probe; positive shares push toward the unwanted answers."""

NEAREST_COLUMNS = {
    "row": "int64",
    "place": "int16",
    "neighbour": "int64",
    "similarity": "float64",
    "near_duplicate": "bool",
}
"""Columns of nearest.parquet: the samples whose representations are most like those of a flagged or top-ranked one, by
row and `place` from 1 on; `similarity` is a cosine."""


class SplitObstacle(StrEnum):
    """Why an audit has no shares of tokens."""

    NO_FORWARD_MODE = "no_forward_mode"
    """The model has an operation without forward-mode differentiation."""
    OUT_OF_MEMORY = "out_of_memory"
    """The memory did not suffice, not even for one sample at a time."""


class TokenSplit(Closed):
    """Number of samples with shares of their tokens, and why there are no more."""

    samples: int
    obstacle: SplitObstacle | None = None
    """Why there are none, or none from some seed."""


class Histogram(Closed):
    """Counts of z in equal bins; `edges` has one more entry than `counts`."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class NullFit(Closed):
    """The null distribution of z: location and scale, and a Student t tail of `degrees_of_freedom`."""

    family: Literal["student_t", "conformal"] = "student_t"
    """With conformal, p-values are ranks among the trusted samples; location and scale are still given for plots."""
    location: float
    scale: float
    degrees_of_freedom: float


class Caution(Closed):
    """A reason to read the result with care. `code` is stable."""

    code: str
    message: str


class TailCount(Closed):
    """Number of p-values at or below `p`, and the 95 % range of what the null predicts."""

    p: float
    observed: int
    expected: float
    low: int
    high: int


class Calibration(Closed):
    """How well a null fits: tail counts and the points of a QQ plot."""

    samples: int
    tails: tuple[TailCount, ...]
    qq_expected: tuple[float, ...]
    qq_observed: tuple[float, ...]


class Placebo(Closed):
    """Result of the same analysis on directions that represent no behaviour."""

    directions: int
    flagged_per_direction: float
    """Mean number of flagged samples."""
    calibration: Calibration


class SensitivityPoint(Closed):
    """The share of hidden tracers that is flagged, with its 95 % Clopper-Pearson interval over tracer clusters."""

    strength: float = 1.0
    """Share of a probe's answer in each hidden tracer: 1 is the answer itself, the rest a sample of the bulk."""
    inserted: int
    """Number of tracers hidden at a time."""
    flagged: float
    low: float
    high: float


class Sensitivity(Closed):
    """What the audit would have found: probe answers, held out of the direction, hidden among the samples."""

    tracers: int
    clusters: int
    points: tuple[SensitivityPoint, ...]
    effect_mu: tuple[float, ...] = ()
    """Values of mu, rising."""
    flagged_given_mu: tuple[float, ...] = ()
    """For each of them the estimated probability that a sample with that mu is flagged."""


class Drift(Closed):
    """Change of the probe loss between refreshes of its gradient: predicted from the recorded effects, and realised."""

    step: tuple[int, ...]
    """Optimiser steps at which an interval ends."""
    predicted: tuple[float, ...]
    realised: tuple[float, ...]
    slope: float | None
    """Realised over predicted, by least squares through the origin."""
    correlation: float | None


class ViewWeights(Closed):
    """How much each view of a sample counts in z: weights of standardised scores, whose squares add up to 1."""

    gradient: float
    """Weight of the gradient view: whether the sample's gradient points where the probe's does."""
    representation: float
    """Weight of the representation view: whether the model represents the sample's answer like the probe's answers."""


class KindCounts(Closed):
    """Expected number of samples of each kind: sums of their probabilities, copies counted individually.

    The unwanted ones that are not flagged are `unwanted - flagged_unwanted`; the flagged ones of neither kind belong to
    the bulk.
    """

    unwanted: float
    """In all of the data."""
    fair: float | None
    """Good answers on the probe's topic, in all of the data; None if the probe has no reference answers."""
    flagged_unwanted: float
    flagged_fair: float | None


class ProbeSummary(Closed):
    """One probe's result. Over several seeds z, null and flags are pooled; views, losses, drift are of the first."""

    name: str
    items: int
    has_reference: bool
    views: ViewWeights | None = None
    """None for audits from before there was more than one view."""
    kinds: KindCounts | None = None
    """None for audits from before kinds were distinguished."""
    flagged: int
    threshold_z: float | None
    """Smallest z that is flagged; None if none is."""
    null: NullFit
    histogram: Histogram
    calibration: Calibration
    placebo: Placebo | None
    sensitivity: Sensitivity | None
    """None for probes whose items all share sentences."""
    loss_first: float
    """Mean loss of the unwanted answers before training."""
    loss_last: float
    """The same after training."""
    drift: Drift


class GroupCurve(Closed):
    """The empirical trade-off curve of a group: error rates of distinguishing its rows from the others by statistic."""

    alpha: tuple[float, ...]
    beta: tuple[float, ...]
    mu_fit: float | None
    """mu of the Gaussian curve fitted to it."""
    mu_mean_difference: float | None
    mu_lower_bound: float | None
    """At 95 %: Clopper-Pearson on rows, Bonferroni over thresholds."""
    mu_threshold_max: float | None
    """The paper's estimator, for comparison only: it is far from zero even if there is no effect."""
    asymmetry: float | None
    """Largest distance between the curve and its inverse."""


class GroupSummary(Closed):
    """One declared group: number of rows, of flagged rows, and the signed group influence toward the first probe."""

    rows: int
    flagged: int
    mu: float | None
    """N / (N - |S|) times the sum of its rows' mu; None if the group holds all rows."""
    mu_low: float | None
    mu_high: float | None
    curve: GroupCurve | None


class Gaussianity(Closed):
    """How close the composition of the run's steps is to a Gaussian curve, for the sample with the largest mu.

    See Dong, Roth and Su 2019, theorem 3.4.
    """

    mu_clt: float
    gamma: float
    """G_mu(alpha + gamma) - gamma <= f(alpha) <= G_mu(alpha - gamma) + gamma; at 0.5 and above it bounds nothing."""
    exact_gap: float | None
    """Largest distance between the exact composition and G_mu."""


class Consistency(Closed):
    """Agreement of the seeds, means over pairs."""

    seeds: int
    spearman_z: float
    jaccard_flagged: float | None
    spearman_tracin: float
    jaccard_tracin: float | None
    """Overlap of two seeds' top samples by TracIn; each seed counts as many as it flags by z."""


class BaselineComparison(Closed):
    """A simpler method compared with the audit's result. See BASELINE_COLUMNS."""

    name: str
    spearman: float | None
    """Rank correlation with the headline z."""
    top_overlap: float | None
    """Share of the flagged samples among the method's own top k, with k the number of flagged samples."""
    auc: float | None
    """Probability that a flagged sample outranks one that is not."""


class Summary(Closed):
    """The result of one audit in numbers."""

    contract: Literal[2] = 2
    """The version of the contract that last changed this class. Stored summaries of that version stay readable."""
    rows: int
    rows_scored: int
    rows_truncated: int
    """Samples with tokens of audited turns behind the limit, which were not measured."""
    clusters: int
    """Number of distinct samples, near-duplicates counted as one."""
    flagged: int
    q: float
    probes: tuple[ProbeSummary, ...]
    reference_law: Literal["independent_draws"] = "independent_draws"
    """How draws are assumed to vary in the denominator of mu: independently between steps, whatever the run used."""
    seeds: tuple[int, ...]
    consistency: Consistency | None
    """None for one seed."""
    gaussianity: Gaussianity | None
    baselines: tuple[BaselineComparison, ...]
    token_split: TokenSplit | None = None
    """None for audits from before tokens were examined."""
    groups: dict[str, GroupSummary] = Field(default_factory=dict)
    steps: int
    """Optimiser steps of one seed. `tokens`, `refreshes` and the losses are those of the first seed."""
    tokens: int
    refreshes: int
    """How often the probe gradient was measured in the first seed's run."""
    train_loss_first: float
    train_loss_last: float
    warnings: tuple[Caution, ...] = ()
    seconds: dict[str, float] = Field(default_factory=dict)
    """Wall time by stage, summed over the steps."""
    device: str
    versions: dict[str, str] = Field(default_factory=dict)
