"""How many metrics of a run are kept."""

import pytest

from service.contract.protocol import MetricEvent
from worker.supervisor.audit.metric_sampling import POINTS, MetricSampler


@pytest.mark.parametrize("steps", [1, 7, 100, 101, 999, 100_000])
@pytest.mark.parametrize("probe_every", [1, 7, 1000])
def test_the_run_is_covered_evenly_whatever_its_length(steps: int, probe_every: int) -> None:
    sampler = MetricSampler(steps)
    kept = [
        step
        for step in range(1, steps + 1)
        if sampler.keep(
            MetricEvent(
                step=step, loss=1, learning_rate=1, grad_norm=1, probe_loss=1 if step % probe_every == 0 else None
            )
        )
    ]
    assert kept[0] == 1
    assert len(kept) <= 2 * POINTS + 2
    if steps <= POINTS:
        assert len(kept) == steps
    stretch = -(-steps // POINTS)
    gaps = [after - before for before, after in zip([*kept], [*kept[1:], steps], strict=True)]
    assert max(gaps) <= 2 * stretch
    measured = steps // probe_every
    kept_measured = sum(step % probe_every == 0 for step in kept)
    assert kept_measured >= min(measured, POINTS // 2)
