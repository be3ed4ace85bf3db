"""Summaries with made-up numbers that belong together, for whatever stores, shows or checks one."""

from typing import Any

from scipy.stats import binom

from service.contract.results import (
    BASELINE_COLUMNS,
    BaselineComparison,
    Calibration,
    Consistency,
    Drift,
    Gaussianity,
    GroupCurve,
    GroupSummary,
    Histogram,
    KindCounts,
    NullFit,
    Placebo,
    ProbeSummary,
    Sensitivity,
    SensitivityPoint,
    Summary,
    TailCount,
    TokenSplit,
    ViewWeights,
)


def make_calibration(samples: int = 3000, **changes: Any) -> Calibration:
    """Tails at 0.05, 0.01 and 0.001 that are as expected, and five points of a QQ plot on its diagonal."""
    tails = []
    for p in (0.05, 0.01, 0.001):
        low, high = binom.interval(0.95, samples, p)
        tails.append(
            TailCount(p=p, observed=round(samples * p) + 1, expected=samples * p, low=int(low), high=int(high))
        )
    values: dict[str, Any] = {
        "samples": samples,
        "tails": tuple(tails),
        "qq_expected": (-2.0, -1.0, 0.0, 1.0, 2.0),
        "qq_observed": (-1.9, -1.0, 0.1, 1.1, 2.2),
    }
    return Calibration(**(values | changes))


def make_probe_summary(**changes: Any) -> ProbeSummary:
    """21 flagged of 340 samples, in 8 bins of width 1 from -3 to 5; the threshold 2.5 cuts a bin."""
    values: dict[str, Any] = {
        "name": "opinion about Orvello",
        "items": 8,
        "has_reference": True,
        "views": ViewWeights(gradient=0.6, representation=0.8),
        "kinds": KindCounts(unwanted=23.4, fair=11.2, flagged_unwanted=20.3, flagged_fair=0.5),
        "flagged": 21,
        "threshold_z": 2.5,
        "null": NullFit(location=0.1, scale=0.9, degrees_of_freedom=15.0),
        "histogram": Histogram(edges=(-3, -2, -1, 0, 1, 2, 3, 4, 5), counts=(7, 45, 110, 115, 40, 8, 10, 5)),
        "calibration": make_calibration(340),
        "placebo": Placebo(directions=20, flagged_per_direction=0.15, calibration=make_calibration()),
        "sensitivity": Sensitivity(
            tracers=16,
            clusters=4,
            points=(
                SensitivityPoint(strength=0.5, inserted=5, flagged=0.12, low=0.02, high=0.34),
                SensitivityPoint(strength=0.75, inserted=5, flagged=0.44, low=0.25, high=0.64),
                SensitivityPoint(strength=1.0, inserted=5, flagged=0.81, low=0.62, high=0.93),
            ),
            effect_mu=(0.0, 0.5, 1.0),
            flagged_given_mu=(0.01, 0.5, 0.97),
        ),
        "loss_first": 3.43,
        "loss_last": 2.24,
        "drift": Drift(
            step=(5, 10, 15),
            predicted=(-0.4, -0.3, -0.1),
            realised=(-0.22, -0.14, -0.05),
            slope=0.52,
            correlation=0.91,
        ),
    }
    return ProbeSummary(**(values | changes))


def make_summary(**changes: Any) -> Summary:
    """340 samples of one probe, trained on with one seed, nothing to warn of."""
    values: dict[str, Any] = {
        "rows": 340,
        "rows_scored": 340,
        "rows_truncated": 2,
        "clusters": 333,
        "flagged": 21,
        "q": 0.05,
        "probes": (make_probe_summary(),),
        "seeds": (7,),
        "consistency": None,
        "gaussianity": Gaussianity(mu_clt=1.31, gamma=0.08, exact_gap=0.004),
        "baselines": tuple(
            BaselineComparison(name=name, spearman=0.1, top_overlap=0.24, auc=0.61) for name in BASELINE_COLUMNS
        ),
        "steps": 85,
        "token_split": TokenSplit(samples=100),
        "tokens": 41_234,
        "refreshes": 9,
        "train_loss_first": 2.61,
        "train_loss_last": 1.72,
        "device": "cpu",
        "seconds": {"training": 201.5},
    }
    return Summary(**(values | changes))


def make_consistency(**changes: Any) -> Consistency:
    """Three seeds that agree better on z than on TracIn."""
    values: dict[str, Any] = {
        "seeds": 3,
        "spearman_z": 0.84,
        "jaccard_flagged": 0.76,
        "spearman_tracin": 0.61,
        "jaccard_tracin": 0.44,
    }
    return Consistency(**(values | changes))


def make_group(**changes: Any) -> GroupSummary:
    """A group that pushes toward the behaviour."""
    values: dict[str, Any] = {
        "rows": 60,
        "flagged": 18,
        "mu": 1.4,
        "mu_low": 0.7,
        "mu_high": 2.1,
        "curve": GroupCurve(
            alpha=(0.0, 0.1, 0.5, 1.0),
            beta=(1.0, 0.55, 0.15, 0.0),
            mu_fit=1.2,
            mu_mean_difference=1.15,
            mu_lower_bound=0.4,
            mu_threshold_max=1.9,
            asymmetry=0.07,
        ),
    }
    return GroupSummary(**(values | changes))
