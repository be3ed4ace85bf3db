"""What near-copies beside a poisoned sample hide: how many are still flagged with 0, 1, 2 and 4 decoys each.

    python -m benchmarks.decoys TRUTH RECORDING [--draws 20]

TRUTH is the truth.csv of a labelled set (row, label, kind), RECORDING what a training step on it left. Each poisoned
sample is put into one cluster with clean ones that are drawn at random: decoys teach what clean samples teach. A
second way takes samples labelled as opposites, one each. "Before" is one p for a whole cluster, that of its mean.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.results.recording import Recording
from worker.results.scoring import Question, score
from worker.results.views import with_views

Integers = NDArray[np.int64]
OPPOSITES = ("hard_negative", "fair", "control")
LEVEL = 0.05


def flagged(recording: Recording, cluster: Integers, *, text_by_text: bool) -> NDArray[np.bool_]:
    """Which samples an audit of this recording flags, if these clusters were what their texts say."""
    text = np.arange(len(cluster)) if text_by_text else cluster
    (viewed,), _ = with_views([recording], text, cluster)
    return score([viewed], Question(len(cluster), LEVEL, text, cluster, None)).flagged


def clusters(rows: int, poisoned: Integers, decoys: Integers) -> Integers:
    """Each poisoned sample with its share of the decoys; all others alone."""
    cluster = np.arange(rows)
    cluster[decoys] = poisoned[np.arange(len(decoys)) % len(poisoned)]
    return cluster


def main() -> None:
    """Prints one line of a table for each number of decoys."""
    parser = argparse.ArgumentParser()
    parser.add_argument("truth", type=Path)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--draws", type=int, default=20)
    arguments = parser.parse_args()
    with arguments.truth.open(newline="") as file:
        kinds = np.array([row["kind"] for row in csv.DictReader(file)])
    recording = Recording.load(arguments.recording)
    poisoned, clean = (np.flatnonzero(kinds == kind) for kind in ("poison", "clean"))
    opposites = np.flatnonzero(np.isin(kinds, OPPOSITES))
    print(f"| decoys, of {len(poisoned)} | flagged before | flagged | decoys flagged |\n|---|---|---|---|")
    ways = [("none", clean[:0], 0)]
    ways += [(f"{each} near-copies", clean, each) for each in (1, 2, 4)]
    ways += [("1 opposite", opposites, 1)] if len(opposites) >= len(poisoned) else []
    for name, pool, each in ways:
        counts = []
        for draw in range(arguments.draws if each else 1):
            decoys = np.random.default_rng(draw).permutation(pool)[: each * len(poisoned)]
            cluster = clusters(len(kinds), poisoned, decoys)
            before, now = (flagged(recording, cluster, text_by_text=way) for way in (False, True))
            counts.append((before[poisoned].sum(), now[poisoned].sum(), now[decoys].sum()))
        shown = (f"{np.mean(each):.1f} ({min(each)} to {max(each)})" for each in zip(*counts, strict=True))
        print(f"| {name} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
