"""Several probes: one headline whose error rate holds whatever the probes have to do with each other."""

import numpy as np
import pytest

from tests.support.simulation import Tally
from worker.influence.statistics.detection import Detection, detect
from worker.influence.statistics.probes import combine_probes


def probe(z: np.ndarray) -> Detection:
    return detect(z, np.ones(len(z), dtype=np.int64), q=0.05)


def test_headline_is_bonferroni_over_probes_and_names_the_strongest() -> None:
    generator = np.random.default_rng(0)
    z = generator.normal(size=(3, 200))
    z[1, 7] = 12.0
    z[:, 9] = np.nan
    z[0, 11] = np.nan
    probes = [probe(values) for values in z]
    found = combine_probes(probes, q=0.05)
    p = np.array([one.p for one in probes])
    expected = np.minimum(1, 3 * np.nanmin(np.delete(p, 9, axis=1), axis=0))
    np.testing.assert_allclose(np.delete(found.p, 9), expected)
    assert found.probe[7] == 1
    assert found.flagged[7]
    assert np.isnan(found.p[9])
    assert np.isnan(found.q[9])
    assert found.probe[9] == -1
    assert not found.flagged[9]
    assert np.isfinite(found.p[11])


def test_one_probe_is_its_own_headline() -> None:
    one = probe(np.random.default_rng(1).normal(size=100))
    found = combine_probes([one], q=0.05)
    np.testing.assert_array_equal(found.p, one.p)
    np.testing.assert_array_equal(found.q, one.q)
    with pytest.raises(ValueError, match="no probe"):
        combine_probes([], q=0.05)


@pytest.mark.parametrize("correlation", [0.0, 0.8, -0.25])
def test_false_discovery_rate_over_four_probes(correlation: float) -> None:
    """Poison of one probe among four, dependent or not; flagged by the headline."""
    generator = np.random.default_rng(2)
    root = np.linalg.cholesky(np.full((4, 4), correlation) + (1 - correlation) * np.eye(4))
    planted = np.arange(400) < 20
    tally = Tally()
    for _ in range(100):
        z = root @ generator.normal(size=(4, 400))
        z[1, :20] += 5.5
        found = combine_probes([probe(values) for values in z], q=0.05)
        tally.add(found.flagged, ~planted, planted)
    assert tally.fdr <= 0.06
    assert tally.power > 0.8
