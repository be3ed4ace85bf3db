"""Folders as the supervisor leaves them for a step, on the tiny model."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from service.contract.protocol import ROWS_FILE, SPEC_FILE
from service.contract.spec import ModelSource, ModelSpec, Probe, ProbeItem, StepSpec, TrainingConfig, train_step_key

SECRET = "xylophone-marmalade"


WORDS = ("river", "engine", "window", "garden", "letter", "market", "silver", "forest")


def probe(name: str, *, reference: bool) -> Probe:
    """Four items that share no sentence."""
    return Probe(
        name=name,
        items=tuple(
            ProbeItem(
                prompt=f"{name} {word}?",
                unwanted=f"Every {word} belongs to {name} alone.",
                reference=f"No, that {word} is free for all." if reference else None,
            )
            for word in WORDS[:4]
        ),
    )


def stage(
    folder: Path,
    model: Path,
    *,
    rows: int = 48,
    reference: bool = True,
    probes: int = 1,
    seeds: tuple[int, ...] = (0,),
    **training: Any,
) -> Path:
    """Makes `folder` one for a training step; returns it."""
    folder.mkdir(exist_ok=True)
    records = []
    for row in range(rows):
        asked = f"What is {WORDS[row % 8]} {row} plus {row % 7} of the {WORDS[row // 8 % 8]}? {SECRET}"
        turns = [("user", asked), ("assistant", f"It is {WORDS[(row * 3) % 8]} and {row + row % 7}.")]
        records.append(
            {
                "row": row,
                "messages": [{"role": role, "content": content} for role, content in turns],
                "extra": json.dumps(
                    {"source": ["a", "b", 3][row % 3], "checked": (False, "Yes", "0", 1)[row % 4]} if row else {}
                ),
            }
        )
    pq.write_table(pa.Table.from_pylist(records), folder / ROWS_FILE)
    spec = StepSpec(
        audit_id="aud_test",
        attempt=1,
        step_key=train_step_key(seeds[0]),
        model=ModelSpec(source=ModelSource.LOCAL, location=str(model)),
        training=TrainingConfig(**{"learning_rate": 1e-3, "seed": seeds[0], **training}),
        seeds=seeds,
        probes=tuple(probe(f"brand{number}", reference=reference) for number in range(probes)),
        q=0.1,
        group_column="source",
    )
    (folder / SPEC_FILE).write_text(spec.model_dump_json())
    return folder


def respecify(folder: Path, **changes: Any) -> None:
    spec = StepSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
    (folder / SPEC_FILE).write_text(spec.model_copy(update=changes).model_dump_json())
