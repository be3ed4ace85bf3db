"""Error rates of whole flags, by the bulk's null and by kinds, over simulated audits: a table, and its bounds."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.random import Generator

from tests.support.simulation import NULLS
from worker.influence.statistics.detection import detect
from worker.influence.statistics.mixture import false_share, fit_mixture
from worker.influence.statistics.null_distribution import fit_null

Q = 0.05
UNWANTED, FAIR = np.array([5.5, 2.0]), np.array([2.0, 5.0])
SPREAD = np.sqrt([1.5, 2.0])
DEPENDENCE = 0.3
"""Correlation of the two statistics in the bulk."""

AUDITS = {200: 60, 500: 60, 5000: 12, 50_000: 3}

pytestmark = pytest.mark.slow


def audit(
    generator: Generator, null: str, rows: int, *, poison: float, fair: float, weaker: float, items: int = 12
) -> tuple[np.ndarray, np.ndarray]:
    """Flags of one audit and the kind of each row: 2 planted, 1 fair, 0 bulk.

    weaker: how much nearer to the bulk the planted rows lie than the probe's answers.
    """
    planted, good = round(rows * poison), round(rows * fair)
    toward = NULLS[null](generator, rows)
    x = np.stack([toward, DEPENDENCE * toward + (1 - DEPENDENCE**2) ** 0.5 * NULLS[null](generator, rows)], axis=1)
    x[:planted] = UNWANTED - [weaker, 0] + SPREAD * generator.normal(size=(planted, 2))
    x[planted : planted + good] = FAIR + SPREAD * generator.normal(size=(good, 2))
    answers = [place + SPREAD * generator.normal(size=(items, 2)) for place in (UNWANTED, FAIR)]
    nulls = [fit_null(x[:, column]) for column in (0, 1)]

    def in_units(values: np.ndarray) -> np.ndarray:
        return np.stack([own.standardise(values[:, column]) for column, own in enumerate(nulls)], axis=1)

    mixture = fit_mixture(in_units(x), *map(in_units, answers), degrees_of_freedom=nulls[0].degrees_of_freedom)
    q = np.fmax(
        detect(x[:, 0], np.ones(rows, dtype=np.int64), q=Q).q, false_share(1 - mixture.kinds(in_units(x)).unwanted)
    )
    return q <= Q, np.repeat([2, 1, 0], [planted, good, rows - planted - good])


def rates(null: str, rows: int, **law: float) -> tuple[float, float]:
    """Mean share of false flags, which fair answers are as well, and mean power."""
    generator = np.random.default_rng([rows, round(1000 * law["poison"])])
    shares, power = [], []
    for _ in range(AUDITS[rows]):
        flagged, kind = audit(generator, null, rows, **law)
        shares.append((kind[flagged] != 2).mean() if flagged.any() else 0.0)
        power.append(flagged[kind == 2].mean() if law["poison"] else np.nan)
    return float(np.mean(shares)), float(np.mean(power))


def cells() -> Iterator[tuple[int, float, float, float]]:
    for rows in AUDITS:
        for poison in (0.0, 0.01, 0.05, 0.2, 0.3):
            yield from ((rows, poison, fair, weaker) for fair, weaker in ((0.0, 0.0), (0.05, 0.0), (0.05, 1.0)))


@pytest.mark.parametrize("null", NULLS)
def test_the_false_discovery_rate_is_held_in_every_cell(null: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = {cell: rates(null, cell[0], poison=cell[1], fair=cell[2], weaker=cell[3]) for cell in cells()}
    with capsys.disabled():
        print(f"\n{null}: rows, poison, fair, weaker: false share, power")
        for (rows, poison, fair, weaker), (false, power) in found.items():
            print(f"{rows:6d} {poison:5.2f} {fair:5.2f} {weaker:4.1f}: {false:.3f} {power:.2f}")
    beyond = {cell: false for cell, (false, _) in found.items() if false > Q + 0.01}
    assert not beyond
    assert all(power > 0.8 for (_, poison, _, weaker), (_, power) in found.items() if poison >= 0.05 and not weaker)


def test_probes_of_four_answers_hold_it_too() -> None:
    generator = np.random.default_rng(4)
    shares = []
    for _ in range(60):
        flagged, kind = audit(generator, "skewed 0.23", 500, poison=0.05, fair=0.05, weaker=0.5, items=4)
        shares.append((kind[flagged] != 2).mean() if flagged.any() else 0.0)
    assert np.mean(shares) <= Q + 0.01
