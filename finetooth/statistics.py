"""Turns what was recorded into mu, z, p and q. Needs `pip install 'finetooth[statistics]'`, and no torch."""

from finetooth.extras import needs_extra

with needs_extra("statistics", "finetooth.statistics"):
    from worker.influence.errors import IndistinguishableError
    from worker.influence.momentum import Momentum
    from worker.influence.observations import Observations, Steps
    from worker.influence.statistics.detection import Detection, detect, statistic
    from worker.influence.statistics.mu import (
        GroupMu,
        MuEstimate,
        estimate_mu,
        group_mu_with_interval,
    )

__all__ = [
    "Detection",
    "GroupMu",
    "IndistinguishableError",
    "Momentum",
    "MuEstimate",
    "Observations",
    "Steps",
    "detect",
    "estimate_mu",
    "group_mu_with_interval",
    "statistic",
]
