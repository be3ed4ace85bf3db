"""Trade-off functions: the least type II error beta of any test at type I error alpha (Dong, Roth and Su 2019).

`GaussianTradeOff`, `SubsampledGaussian` and `PiecewiseLinear` are functions of alpha; `compose` is their tensor
product, `central_limit` its Gaussian limit with a bound, `gaussianity` both for the steps of a run.
"""

from worker.influence.tradeoff.composition import ComposedTradeOff, compose
from worker.influence.tradeoff.gaussian import GaussianTradeOff, SubsampledGaussian, gaussian_curve
from worker.influence.tradeoff.gaussianity import Gaussianity, gaussianity, step_influence
from worker.influence.tradeoff.limit import CentralLimit, central_limit
from worker.influence.tradeoff.piecewise import PiecewiseLinear
from worker.influence.tradeoff.protocol import TradeOff

__all__ = [
    "CentralLimit",
    "ComposedTradeOff",
    "GaussianTradeOff",
    "Gaussianity",
    "PiecewiseLinear",
    "SubsampledGaussian",
    "TradeOff",
    "central_limit",
    "compose",
    "gaussian_curve",
    "gaussianity",
    "step_influence",
]
