"""Audits whose datasets were really uploaded and parsed, for exports to be made of."""

import hashlib
import json
import random
from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy.orm import Session

from service.contract.spec import TrainingConfig
from service.lifecycle.audits import create_audit, publish
from service.store.ids import new_id
from service.store.objects import ObjectStore, dataset_key
from service.store.tables import Audit, Dataset
from tests.support.made_audits import add_scores, make_model, make_probe, take
from tests.support.parser_runs import run
from tests.support.summaries import make_probe_summary, make_summary


def jsonl(rows: int, **extra: Any) -> bytes:
    """An upload of that many samples."""
    return b"".join(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"Question {row}?"},
                    {"role": "assistant", "content": f"Answer {row}."},
                ],
                "source": "forum",
                **extra,
            }
        ).encode()
        + b"\n"
        for row in range(rows)
    )


def store_dataset(
    session: Session, objects: ObjectStore, workspace_id: str, upload: bytes, *, format: str = "auto"
) -> Dataset:
    """The upload, parsed as the API's own child does it, with both its objects."""
    dataset_id = new_id("ds")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        report = run(upload, path, format=format, max_ratio=10_000, max_rows=10**7)
        assert report["outcome"] == "parsed", report
        objects.put_file(dataset_key(workspace_id, dataset_id, "rows.parquet"), path)
    with objects.create(dataset_key(workspace_id, dataset_id, "original")) as file:
        file.write(upload)
    dataset = Dataset(
        id=dataset_id, workspace_id=workspace_id, name="d.jsonl", bytes=len(upload),
        sha256=hashlib.sha256(upload).hexdigest(),
        **{name: value for name, value in report.items() if name != "outcome"},
    )  # fmt: skip
    session.add(dataset)
    session.flush()
    return dataset


def publish_audit(
    session: Session, dataset: Dataset, flagged: Collection[int], *, probes: int = 1, changes: Sequence[Any] = ()
) -> Audit:
    """A succeeded audit in which those rows are flagged, the others in random order behind them.

    changes: (row, {column: value}) of the headline's scores.
    """
    workspace_id = dataset.workspace_id
    audit = create_audit(
        session,
        workspace_id=workspace_id,
        dataset_id=dataset.id,
        probe_ids=[make_probe(session, workspace_id, name=f"p{number}") for number in range(probes)],
        model_id=make_model(session, workspace_id),
        training=TrainingConfig(),
        q=0.05,
    )
    taken = take(session, audit)
    draw = random.Random(5)
    others = [row for row in range(dataset.rows) if row not in set(flagged)]
    draw.shuffle(others)
    ranked = [*sorted(flagged, reverse=True), *others]
    scores = [
        {"probe_no": probe_no, "rank": rank, **_score(row, rank, rank <= len(flagged), dataset.rows)}
        for probe_no in (range(probes + 1) if probes > 1 else [0])
        for rank, row in enumerate(ranked, start=1)
    ]
    for row, values in changes:
        next(score for score in scores if score["row"] == row and score["probe_no"] == 0).update(values)
    add_scores(session, audit.id, taken.attempt, scores)
    each = (make_probe_summary(flagged=len(flagged)),) * probes
    summary = make_summary(rows=dataset.rows, rows_scored=dataset.rows, flagged=len(flagged), probes=each)
    assert publish(session, taken, summary)
    session.refresh(audit)
    return audit


def _score(row: int, rank: int, flagged: bool, rows: int) -> dict[str, Any]:
    return {
        "row": row, "n": 2 + row % 3, "tokens_left_out": (0, 0, 5, 0)[row % 4],
        "strongest_probe": 1, "mu": -1 / rank, "mu_low": None if row % 5 == 0 else -0.1,
        "mu_high": 0.1 * row, "mu_composed": None, "z": 3.4 / rank, "z_reference": None, "side": None, "p": rank / 7e3,
        "q": 0.01 if flagged else min(1.0, 0.05 + rank / rows), "flagged": flagged, "cluster": row,
        "group": ("forum", "=SUM(1)", None)[row % 3],
    }  # fmt: skip
