"""Records every sample's influence in a training loop of yours. Needs `pip install 'finetooth[recorder]'`."""

from finetooth.extras import needs_extra

with needs_extra("recorder", "finetooth.recorder"):
    from worker.influence.capture.active_directions import is_aligned
    from worker.influence.capture.directional_derivatives import derivatives_along
    from worker.influence.capture.per_sample_gradients import lora_layers
    from worker.influence.capture.preconditioner import momentum_of, preconditioner_of
    from worker.influence.capture.probe_gradients import ProbeGradients, probe_gradients, undisturbed
    from worker.influence.capture.recorder import Recorder
    from worker.influence.directions import Directions, ProbeShape, plan
    from worker.influence.momentum import Momentum
    from worker.influence.observations import Observations, Steps

__all__ = [
    "Directions",
    "Momentum",
    "Observations",
    "ProbeGradients",
    "ProbeShape",
    "Recorder",
    "Steps",
    "derivatives_along",
    "is_aligned",
    "lora_layers",
    "momentum_of",
    "plan",
    "preconditioner_of",
    "probe_gradients",
    "undisturbed",
]
