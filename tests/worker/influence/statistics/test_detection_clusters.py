"""Near-duplicates are one sample each: copies neither multiply findings nor make room for false ones."""

import numpy as np
import pytest
from scipy.stats import kstest

from tests.support.simulation import Tally, epochs_of, observe
from worker.influence.statistics.detection import Detection, cluster_statistic, detect, statistic


def audit(generator: np.random.Generator, person: np.ndarray, cluster: np.ndarray) -> tuple[Detection, Detection]:
    """The same recording with its clusters, and with every row on its own. Two epochs, correlated at 0.5."""
    observations, steps = epochs_of(generator, person, 2)
    z, n = statistic(observations, steps, rows=len(person))
    clusters = cluster_statistic(observations, steps, cluster=cluster)
    return detect(z, n, q=0.05, clusters=clusters), detect(z, n, q=0.05)


def test_clusters_of_one_change_nothing() -> None:
    generator = np.random.default_rng(0)
    together, alone = audit(generator, generator.normal(size=300), 7 * np.arange(300)[::-1])
    np.testing.assert_allclose(together.p, alone.p, rtol=1e-9)
    np.testing.assert_allclose(together.q, alone.q, rtol=1e-9)


def test_a_cluster_is_one_sample_drawn_as_often_as_its_members() -> None:
    """Z = (mean of all draws - median) / sqrt(tau^2 + s^2 / n), with tau^2 = s^2 = 1 by construction."""
    generator = np.random.default_rng(1)
    cluster = np.r_[np.arange(4000), np.full(50, 3)]
    row = np.tile(np.arange(4050), 2)
    signal = generator.normal(size=4000)[cluster][row] + generator.normal(size=8100)
    observations, steps = observe(signal, row, np.zeros(8100, dtype=np.int64))
    found = cluster_statistic(observations, steps, cluster=cluster)
    assert found.n[3] == 2 * 51
    assert (np.delete(found.n, 3) == 2).all()
    np.testing.assert_array_equal(found.index, cluster)
    means = np.bincount(cluster[row], signal) / found.n
    np.testing.assert_allclose(found.z, (means - np.median(means)) / np.sqrt(1 + 1 / found.n), atol=0.15, rtol=0.05)


def test_z_of_exact_duplicates_has_the_null_law() -> None:
    """Pairs of copies beside single rows: both standard normal."""
    generator = np.random.default_rng(2)
    cluster = np.r_[np.arange(3000), np.arange(1500)]
    person = generator.normal(size=3000)[cluster]
    found = cluster_statistic(*epochs_of(generator, person, 2), cluster=cluster)
    assert kstest(found.z[:1500], "norm").pvalue > 0.01
    assert kstest(found.z[1500:], "norm").pvalue > 0.01


def test_every_member_carries_its_clusters_p_q_and_flag() -> None:
    generator = np.random.default_rng(3)
    cluster = np.arange(300)
    cluster[:10] = 0
    person = np.r_[np.full(10, 6.0), generator.normal(size=290)]
    together, alone = audit(generator, person, cluster)
    assert together.flagged[:10].all()
    assert len(set(together.p[:10])) == len(set(together.q[:10])) == 1
    np.testing.assert_array_equal(together.z, alone.z)


def test_a_member_never_observed_gets_no_p() -> None:
    generator = np.random.default_rng(4)
    observations, steps = epochs_of(generator, generator.normal(size=100), 1)
    cluster = np.r_[np.arange(100), 5, 100]
    z, n = statistic(observations, steps, rows=102)
    found = detect(z, n, q=0.05, clusters=cluster_statistic(observations, steps, cluster=cluster))
    assert np.isnan(found.p[100:]).all()
    assert not found.flagged[100:].any()
    assert np.isfinite(found.p[:100]).all()


def test_copies_of_one_poisoned_sample_do_not_make_room_for_false_flags() -> None:
    """80 copies of one sample flagged row by row raise the threshold for all; as one cluster they do not."""
    generator = np.random.default_rng(5)
    cluster = np.r_[np.zeros(80, dtype=np.int64), np.arange(1, 401)]
    null = np.arange(480) >= 80
    together, alone = Tally(), Tally()
    for _ in range(100):
        person = np.r_[np.full(80, 6.0), generator.normal(size=400)]
        for tally, found in zip((together, alone), audit(generator, person, cluster), strict=True):
            distinct = np.r_[0, 80:480]
            tally.add(found.flagged[distinct], null[distinct], ~null[distinct])
    assert together.power > 0.95
    assert together.fdr <= 0.06
    assert alone.fdr > 0.15


def test_false_discovery_rate_with_copies_of_clean_and_of_poisoned_samples() -> None:
    """400 audits, counted in distinct samples: 20 poisoned, half of them tripled, and 40 clean in 5 copies."""
    generator = np.random.default_rng(6)
    distinct = 440
    copies = np.ones(distinct, dtype=np.int64)
    copies[:10], copies[20:60] = 3, 5
    cluster = np.repeat(np.arange(distinct), copies)
    first = np.r_[0, np.cumsum(copies)[:-1]]
    planted = np.arange(distinct) < 20
    tally = Tally()
    for _ in range(400):
        person = generator.normal(size=distinct)
        person[:20] += 6
        observations, steps = epochs_of(generator, person[cluster], 2)
        clusters = cluster_statistic(observations, steps, cluster=cluster)
        z, n = statistic(observations, steps, rows=len(cluster))
        tally.add(detect(z, n, q=0.05, clusters=clusters).flagged[first], ~planted, planted)
    assert tally.power > 0.8
    assert tally.fdr <= 0.06


def test_one_epoch_of_near_duplicates_that_share_little_errs_upward() -> None:
    """Members with values of their own: the mean of five varies less than one sample, and the law says as much."""
    generator = np.random.default_rng(7)
    cluster = np.r_[np.arange(1000), np.repeat(np.arange(1000, 1100), 5)]
    signal = generator.normal(size=1500)
    observations, steps = observe(signal, np.arange(1500), np.zeros(1500, dtype=np.int64))
    found = cluster_statistic(observations, steps, cluster=cluster)
    assert found.z[1000:].std() < 0.6


@pytest.mark.parametrize("decoys", [1, 2, 4, 9])
def test_clean_near_copies_do_not_hide_a_poisoned_sample(decoys: int) -> None:
    """Each of 20 planted samples stands among clean ones that nearly say the same."""
    generator = np.random.default_rng(8)
    planted, rows = 20, 480
    cluster = np.arange(rows)
    decoy = np.arange(planted, planted * (1 + decoys))
    cluster[decoy] = decoy % planted
    found, false = [], []
    for _ in range(20):
        person = generator.normal(size=rows)
        person[:planted] = generator.normal(8, 1, planted)
        observations, steps = epochs_of(generator, person, 2)
        clusters = cluster_statistic(observations, steps, cluster=cluster, text=np.arange(rows))
        z, n = statistic(observations, steps, rows=rows)
        flagged = detect(z, n, q=0.05, clusters=clusters).flagged
        found.append(flagged[:planted].mean())
        false.append(flagged[planted * (1 + decoys) :].mean())
    # The mean over a cluster left none of them from two decoys on.
    assert np.mean(found) > 0.7
    assert np.mean(false) < 0.01


def test_near_duplicates_have_p_values_that_hold_where_nothing_is_planted() -> None:
    """Clusters of four texts with values of their own, and of four that share theirs."""
    generator = np.random.default_rng(9)
    cluster = np.r_[np.arange(1600) // 4, np.arange(400, 1400)]
    for shared in (0.0, 1.0):
        least = []
        for _ in range(10):
            person = generator.normal(size=2600)
            person[:1600] = shared * np.repeat(person[:400], 4) + (1 - shared) * person[:1600]
            observations, steps = epochs_of(generator, person, 2)
            clusters = cluster_statistic(observations, steps, cluster=cluster, text=np.arange(2600))
            z, n = statistic(observations, steps, rows=2600)
            least.append(detect(z, n, q=0.05, clusters=clusters).p[:1600].reshape(400, 4).min(1))
        for level in (0.001, 0.01, 0.05):
            assert np.mean(np.concatenate(least) <= level) <= level * 1.2 + 0.0005


def test_a_trusted_near_copy_hides_nothing_and_a_doubted_one_is_told() -> None:
    generator = np.random.default_rng(10)
    rows = 300
    person = generator.normal(size=rows)
    person[0], person[2] = 9, 9
    cluster, text = np.arange(rows), np.arange(rows)
    cluster[1] = 0
    trusted = np.zeros(rows, dtype=bool)
    trusted[1:3] = True
    observations, steps = epochs_of(generator, person, 2)
    z, n = statistic(observations, steps, rows=rows)
    clusters = cluster_statistic(observations, steps, cluster=cluster, text=text)
    found = detect(z, n, q=0.05, clusters=clusters, trusted=trusted)
    assert found.flagged[0]
    assert not found.flagged[1:3].any()
    assert np.flatnonzero(found.doubted).tolist() == [2]
