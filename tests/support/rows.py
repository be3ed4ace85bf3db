"""Datasets as a step finds them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_SCHEMA = pa.schema(
    {
        "row": pa.int64(),
        "messages": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "extra": pa.string(),
        "start": pa.int64(),
        "length": pa.int64(),
        "sha256": pa.string(),
    }
)


def sample(row: int) -> dict[str, Any]:
    """Sample `row`, with text that no database field takes as it is."""
    return {
        "row": row,
        "messages": [
            {"role": "user", "content": f"Question {row}?"},
            {"role": "assistant", "content": f"Answer {row} \0 \u202e \U0001f600"},
        ],
        "extra": {"source": "forum", "nul\0": "\ud800", "deep": [{"n": row}]},
    }


def write_rows(path: Path, rows: int) -> None:
    samples = [
        {**sample(row), "extra": json.dumps(sample(row)["extra"]), "start": None, "length": None, "sha256": "0" * 64}
        for row in range(rows)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(samples, ROWS_SCHEMA), path, row_group_size=16)
