"""Reads the inputs of the step `combine` from its folder, and writes its results there."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from service.contract.flags import flag_of
from service.contract.protocol import (
    BASELINES_FILE,
    NEAREST_FILE,
    RECORDINGS_FOLDER,
    ROWS_FILE,
    SCORES_FILE,
    SUMMARY_FILE,
    TOKENS_FILE,
    TRACES_FILE,
)
from service.contract.results import Summary
from service.contract.spec import StepSpec
from worker.influence.directions import Kind
from worker.influence.statistics.contribution import contributions
from worker.result_schemas import baselines_schema, nearest_schema, scores_schema, tokens_schema, traces_schema
from worker.results.nearest import Neighbours, nearest
from worker.results.recording import Recording
from worker.results.scoring import Question, Scores
from worker.results.token_split import SampleSplit, split_over_seeds
from worker.results.views import SampleViews

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

NEAREST_TOP = 200
"""The nearest samples are found for ranks up to this, and for flagged samples at any rank."""


@dataclass(frozen=True)
class Inputs:
    """The recordings of all seeds, and the conversation, group and trust of every sample."""

    recordings: Sequence[Recording]
    messages: Sequence[Sequence[Mapping[str, str]]]
    groups: Sequence[str | None]
    """[rows]: the sample's value in the group column."""
    trusted: Mask | None
    """[rows]: whether the sample is known to be clean; None if none is."""


def read_inputs(folder: Path, spec: StepSpec) -> Inputs:
    """Read the recordings and the rows.

    Args:
        folder: Holds recordings/{seed}.npz of every seed of the audit, and rows.parquet.
        spec: Names the seeds, and the columns of groups and of trusted samples.

    Returns:
        The inputs, recordings in the order of the seeds.

    Raises:
        OSError: A file is missing.
        KeyError: An array is missing from a recording.
        ValueError: A file is not what its name says.
    """
    recordings = [Recording.load(folder / RECORDINGS_FOLDER / f"{seed}.npz") for seed in spec.seeds]
    table = pq.read_table(folder / ROWS_FILE, columns=["messages", "extra"])
    extras = [json.loads(text or "{}") for text in table["extra"].to_pylist()]
    column = spec.trusted_column
    trusted = np.array([column is not None and flag_of(extra.get(column)) is True for extra in extras])
    return Inputs(
        recordings,
        table["messages"].to_pylist(),
        [group_of(extra, spec.group_column) for extra in extras],
        trusted if trusted.any() else None,
    )


def write_tables(
    folder: Path,
    inputs: Inputs,
    scores: Scores,
    views: Sequence[SampleViews],
    baselines: Mapping[str, Floats],
    question: Question,
    spec: StepSpec,
) -> None:
    """Write scores.parquet, traces.parquet, baselines.parquet, tokens.parquet and nearest.parquet.

    Args:
        folder: Where the files go.
        inputs: The recordings and rows that were scored.
        scores: The result of every probe and the headline over them.
        views: The views of each probe.
        baselines: [rows] for each name in BASELINE_COLUMNS.
        question: Says which samples have the same text, and which are near-duplicates.
        spec: Names the seeds.
    """
    cluster = question.cluster
    left_out = inputs.recordings[0].tokens_left_out
    if left_out is None:
        left_out = np.full(len(cluster), np.nan)
    table = score_table(scores, views, cluster, inputs.groups, left_out)
    pq.write_table(table, folder / SCORES_FILE)
    pq.write_table(trace_table(inputs.recordings, spec.seeds), folder / TRACES_FILE)
    columns = {"row": np.arange(len(cluster)), **baselines}
    pq.write_table(pa.table(_null_for_nan(columns), schema=baselines_schema()), folder / BASELINES_FILE)
    splits = split_over_seeds([recording.split for recording in inputs.recordings])
    pq.write_table(token_table(splits), folder / TOKENS_FILE)
    near = nearest(inputs.recordings, question.text, rows_looked_at(table))
    pq.write_table(nearest_table(near, cluster), folder / NEAREST_FILE)


def write_summary(folder: Path, summary: Summary) -> None:
    """Write summary.json.

    Args:
        folder: Where the file goes.
        summary: The summary of the audit.
    """
    (folder / SUMMARY_FILE).write_text(summary.model_dump_json())


def group_of(extra: dict[str, Any], column: str | None) -> str | None:
    """Return a sample's group: the text of a string, the JSON of any other value, None if there is no value.

    Args:
        extra: The sample's columns besides its messages.
        column: Name of the group column; None if the audit has none.
    """
    value = extra.get(column) if column is not None else None
    return value if value is None or isinstance(value, str) else json.dumps(value)


def score_table(
    scores: Scores,
    views: Sequence[SampleViews],
    cluster: Integers,
    groups: Sequence[str | None],
    tokens_left_out: Floats,
) -> pa.Table:
    """Return the headline by rank and, with several probes, the results of each probe by its own rank.

    Args:
        scores: The result of every probe and the headline over them.
        views: The views of each probe.
        cluster: [rows], the first row of each sample's near-duplicates.
        groups: [rows], each sample's group.
        tokens_left_out: [rows], tokens with loss that the limit cut off; NaN if not known.
    """
    headline, rows = scores.headline, len(cluster)
    parts = [_ranked(scores, views, 0, np.maximum(headline.probe, 0), headline.p, scores.q, scores.flagged)]
    if len(scores.probes) > 1:
        for number, probe in enumerate(scores.probes):
            of_probe = np.full(rows, number)
            parts.append(_ranked(scores, views, number + 1, of_probe, probe.detection.p, probe.q, probe.flagged))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    columns["tokens_left_out"] = tokens_left_out[columns["row"]]
    columns["cluster"] = cluster[columns["row"]]
    columns["group"] = np.array(groups, dtype=object)[columns["row"]]
    return pa.table(_null_for_nan(columns), schema=scores_schema())


def _ranked(
    scores: Scores,
    views: Sequence[SampleViews],
    probe_no: int,
    probe_of: Integers,
    p: Floats,
    q: Floats,
    flagged: Mask,
) -> dict[str, NDArray[Any]]:
    """Return one list of results by rank, as columns.

    probe_of [rows] is the probe from which each result is taken.
    """
    row = np.arange(len(probe_of))

    def pick(of_probes: Sequence[Any], dtype: type = float) -> NDArray[Any]:
        return np.array(of_probes, dtype=dtype)[probe_of, row]

    def pick_known(of_probes: Sequence[Floats]) -> Floats:
        return _nan_unless_finite(pick(of_probes))

    probes = scores.probes
    z = pick_known([probe.detection.z for probe in probes])
    rank = np.lexsort((row, *(np.where(np.isfinite(key), key, np.inf) for key in (-z, p, q))))
    columns = {
        "row": row,
        "n": probes[0].detection.n,
        "strongest_probe": probe_of + 1,
        "mu": pick([probe.mu for probe in probes]),
        "mu_low": pick_known([probe.mu_low for probe in probes]),
        "mu_high": pick_known([probe.mu_high for probe in probes]),
        "mu_composed": pick_known([probe.mu_composed for probe in probes]),
        "z": z,
        "z_reference": pick_known([probe.z_reference for probe in probes]),
        "z_gradient": pick_known([own.gradient for own in views]),
        "z_representation": pick_known([own.representation for own in views]),
        "side": pick([probe.side for probe in probes], object),
        "probability_unwanted": pick_known([probe.kinds.of_rows.unwanted for probe in probes]),
        "probability_fair": pick_known([probe.kinds.of_rows.fair for probe in probes]),
        "p": _nan_unless_finite(p),
        "q": _nan_unless_finite(q),
        "flagged": flagged,
    }
    ranked = {name: values[rank] for name, values in columns.items()}
    return {"probe_no": np.full(len(row), probe_no), "rank": row + 1, **ranked}


def trace_table(recordings: Sequence[Recording], seeds: Sequence[int]) -> pa.Table:
    """Return every observation of every sample, sorted by row, probe, seed and step.

    Args:
        recordings: One per seed.
        seeds: The seeds, in the order of the recordings.
    """
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in traces_schema().names}
    for seed, recording in zip(seeds, recordings, strict=True):
        found = recording.observations
        for probe in range(len(recording.held_out)):
            column = recording.column(probe, Kind.UNWANTED)
            assert column is not None
            seen = np.isfinite(found.alignment[:, column])
            count = int(seen.sum())
            draws = contributions(found, recording.steps, momentum=recording.facts.adam_momentum, direction=column)
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


def rows_looked_at(scores: pa.Table) -> list[int]:
    """Return the rows that are flagged or among the first NEAREST_TOP of any list, by their best rank."""
    wanted = scores.filter(pc.or_(scores["flagged"], pc.less_equal(scores["rank"], NEAREST_TOP)))
    return list(dict.fromkeys(wanted.sort_by([("rank", "ascending"), ("probe_no", "ascending")])["row"].to_pylist()))


def token_table(splits: Sequence[SampleSplit]) -> pa.Table:
    """Return the shares of all tokens, sample by sample, each with a last record for the tokens outside any message."""
    records: list[dict[str, Any]] = []
    for own in splits:
        sample = {"row": own.row, "probe_no": own.probe + 1}
        records += [
            {**sample, "message": at.message, "start": at.start, "end": at.end, "share": share}
            for at, share in own.tokens
        ]
        records.append({**sample, "message": None, "start": None, "end": None, "share": own.elsewhere})
    return pa.Table.from_pylist(records, schema=tokens_schema())


def nearest_table(found: Iterable[Neighbours], cluster: Integers) -> pa.Table:
    """Return the nearest samples of each row that was asked for, as a table.

    Args:
        found: The neighbours of each row.
        cluster: [rows], near-duplicates share a number.
    """
    records = [
        {
            "row": own.row,
            "place": place,
            "neighbour": int(row),
            "similarity": float(similarity),
            "near_duplicate": bool(cluster[row] == cluster[own.row]),
        }
        for own in found
        for place, (row, similarity) in enumerate(zip(own.rows, own.similarity, strict=True), start=1)
    ]
    return pa.Table.from_pylist(records, schema=nearest_schema())


def _null_for_nan(columns: Mapping[str, NDArray[Any]]) -> dict[str, pa.Array]:
    return {name: pa.array(values, from_pandas=True) for name, values in columns.items()}


def _nan_unless_finite(values: Floats) -> Floats:
    return np.where(np.isfinite(values), values, np.nan)
