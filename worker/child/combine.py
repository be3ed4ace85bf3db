"""The step `combine`: the recordings of all seeds become scores, traces, baselines and the summary."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from service.contract.protocol import (
    BASELINES_FILE,
    RECORDINGS_FOLDER,
    ROWS_FILE,
    SCORES_FILE,
    SUMMARY_FILE,
    TRACES_FILE,
    NoticeEvent,
    Stage,
)
from service.contract.results import ScoreRow, Side
from service.contract.spec import StepSpec
from worker.child.events import Reporter
from worker.influence.directions import Kind
from worker.influence.statistics.contribution import contributions
from worker.result_schemas import baselines_schema, scores_schema, traces_schema
from worker.results.baselines import baselines_of
from worker.results.recording import Recording
from worker.results.scoring import ProbeScores, Question, Scores, score
from worker.results.summary import summarise
from worker.text.duplicate_clusters import sample_clusters

Floats = NDArray[np.float64]
PARTS = 5


def run_combine(folder: Path, spec: StepSpec, reporter: Reporter) -> None:
    """Reads recordings/{seed}.npz and rows.parquet, writes the four files. Raises OSError, ValueError."""
    recordings = [Recording.load(folder / RECORDINGS_FOLDER / f"{seed}.npz") for seed in spec.seeds]
    reporter.stage(Stage.SCORING, PARTS, "parts")
    table = pq.read_table(folder / ROWS_FILE, columns=["messages", "extra"])
    messages = table["messages"].to_pylist()
    extras = [json.loads(text or "{}") for text in table["extra"].to_pylist()]
    groups = [group_of(extra, spec.group_column) for extra in extras]
    trusted = np.array([bool(spec.trusted_column) and extra.get(spec.trusted_column) is True for extra in extras])
    cluster = first_rows(sample_clusters(messages))
    reporter.progress(1, PARTS, "parts")

    question = Question(len(messages), spec.q, cluster, trusted if trusted.any() else None)
    scores = score(recordings, question)
    reporter.progress(2, PARTS, "parts")
    baselines = baselines_of(recordings, messages, [item.unwanted for probe in spec.probes for item in probe.items])
    reporter.progress(3, PARTS, "parts")
    summary = summarise(spec, recordings, question, scores, baselines, groups)
    for caution in summary.warnings:
        reporter.event(NoticeEvent(level="warning", code=caution.code, message=caution.message))
    reporter.progress(4, PARTS, "parts")

    ranked = [row.model_dump(mode="json") for row in score_rows(scores, cluster, groups)]
    pq.write_table(pa.Table.from_pylist(ranked, scores_schema()), folder / SCORES_FILE)
    pq.write_table(traces(recordings, spec.seeds), folder / TRACES_FILE)
    columns = {"row": np.arange(len(messages)), **baselines}
    pq.write_table(pa.table(_null_for_nan(columns), schema=baselines_schema()), folder / BASELINES_FILE)
    reporter.progress(PARTS, PARTS, "parts")
    reporter.close()
    seconds = {**summary.seconds, **{name: summary.seconds.get(name, 0) + s for name, s in reporter.seconds.items()}}
    (folder / SUMMARY_FILE).write_text(summary.model_copy(update={"seconds": seconds}).model_dump_json())


def group_of(extra: dict[str, Any], column: str | None) -> str | None:
    """A sample's group: the text of a string, the JSON of anything else, None where the column is absent or null."""
    value = extra.get(column) if column is not None else None
    return value if value is None or isinstance(value, str) else json.dumps(value)


def first_rows(cluster: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each sample, the first row of its cluster."""
    _, first, inverse = np.unique(cluster, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def score_rows(scores: Scores, cluster: NDArray[np.int64], groups: Sequence[str | None]) -> Iterator[ScoreRow]:
    """The headline by rank and, with several probes, each probe's own rows by rank."""
    rows = np.arange(len(cluster))
    strongest = np.where(scores.headline.probe >= 0, scores.headline.probe, 0)
    yield from _ranked(scores, strongest, 0, scores.headline.p, scores.headline.q, scores.flagged, cluster, groups)
    if len(scores.probes) > 1:
        for number, probe in enumerate(scores.probes):
            own = probe.detection
            of = np.full(len(rows), number)
            yield from _ranked(scores, of, number + 1, own.p, own.q, probe.flagged, cluster, groups)


def _ranked(
    scores: Scores,
    of: NDArray[np.int64],
    probe_no: int,
    p: Floats,
    q: Floats,
    flagged: NDArray[np.bool_],
    cluster: NDArray[np.int64],
    groups: Sequence[str | None],
) -> Iterator[ScoreRow]:
    def pick(name: str) -> Floats:
        return np.array([getattr(probe, name) for probe in scores.probes])[of, np.arange(len(of))]

    z = np.array([probe.detection.z for probe in scores.probes])[of, np.arange(len(of))]
    n = scores.probes[0].detection.n
    mu, low, high, composed, reference = (
        pick(name) for name in ("mu", "mu_low", "mu_high", "mu_composed", "z_reference")
    )
    worst = np.lexsort((np.arange(len(of)), np.where(np.isfinite(z), -z, np.inf), np.where(np.isfinite(p), p, 2.0)))
    for rank, row in enumerate(worst.tolist(), start=1):
        probe: ProbeScores = scores.probes[of[row]]
        side = probe.side[row]
        yield ScoreRow(
            probe_no=probe_no,
            row=row,
            rank=rank,
            n=int(n[row]),
            strongest_probe=int(of[row]) + 1,
            mu=float(mu[row]),
            mu_low=_number(low[row]),
            mu_high=_number(high[row]),
            mu_composed=_number(composed[row]),
            z=_number(z[row]),
            z_reference=_number(reference[row]),
            side=None if side is None else Side(side),
            p=_number(p[row]),
            q=_number(q[row]),
            flagged=bool(flagged[row]),
            cluster=int(cluster[row]),
            group=groups[row],
        )


def traces(recordings: Sequence[Recording], seeds: Sequence[int]) -> pa.Table:
    """Every observation of every sample, by row, probe, seed and step."""
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in traces_schema().names}
    for seed, recording in zip(seeds, recordings, strict=True):
        found = recording.observations
        for probe in range(len(recording.held_out)):
            column = recording.column(probe, Kind.UNWANTED)
            assert column is not None
            seen = np.isfinite(found.alignment[:, column])
            count = int(seen.sum())
            draws = contributions(found, recording.steps, momentum=recording.facts.momentum, direction=column)
            mu = np.full(len(found), np.nan)
            mu[draws.draw] = draws.value
            for name, values in {
                "row": found.row[seen],
                "probe_no": np.full(count, probe + 1),
                "seed": np.full(count, seed),
                "step": found.step[seen] + 1,
                "effect": found.effect[seen, column],
                "alignment": found.alignment[seen, column],
                "mu": mu[seen],
            }.items():
                parts[name].append(values)
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    order = np.lexsort((columns["step"], columns["seed"], columns["probe_no"], columns["row"]))
    return pa.table(_null_for_nan({name: values[order] for name, values in columns.items()}), schema=traces_schema())


def _null_for_nan(columns: dict[str, NDArray[Any]]) -> dict[str, pa.Array]:
    return {name: pa.array(values, from_pandas=True) for name, values in columns.items()}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
