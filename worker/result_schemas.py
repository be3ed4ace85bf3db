"""Arrow schemas of the files that a combining child leaves: what it writes and what the supervisor loads are one."""

import pyarrow as pa

from service.contract.results import (
    BASELINE_COLUMNS,
    NEAREST_COLUMNS,
    NULLABLE_SCORE_COLUMNS,
    SCORE_COLUMNS,
    TOKEN_COLUMNS,
    TRACE_COLUMNS,
)

_TYPES = {
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
}

_TRACE_KEYS = frozenset({"row", "probe_no", "seed", "step"})
"""Columns that name the observation and are always known."""


def scores_schema() -> pa.Schema:
    """Return the columns of scores.parquet: the fields of contract.ScoreRow."""
    return pa.schema(
        [pa.field(name, _TYPES[kind], nullable=name in NULLABLE_SCORE_COLUMNS) for name, kind in SCORE_COLUMNS.items()]
    )


def traces_schema() -> pa.Schema:
    """Return the columns of traces.parquet: contract.TRACE_COLUMNS."""
    return pa.schema(
        [pa.field(name, _TYPES[kind], nullable=name not in _TRACE_KEYS) for name, kind in TRACE_COLUMNS.items()]
    )


def tokens_schema() -> pa.Schema:
    """Return the columns of tokens.parquet: contract.TOKEN_COLUMNS."""
    places = {"message", "start", "end"}
    return pa.schema([pa.field(name, _TYPES[kind], nullable=name in places) for name, kind in TOKEN_COLUMNS.items()])


def nearest_schema() -> pa.Schema:
    """Return the columns of nearest.parquet: contract.NEAREST_COLUMNS."""
    return pa.schema([pa.field(name, _TYPES[kind], nullable=False) for name, kind in NEAREST_COLUMNS.items()])


def baselines_schema() -> pa.Schema:
    """Return the columns of baselines.parquet: `row` and contract.BASELINE_COLUMNS."""
    return pa.schema(
        [pa.field("row", pa.int64(), nullable=False), *(pa.field(name, pa.float64()) for name in BASELINE_COLUMNS)]
    )
