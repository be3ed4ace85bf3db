"""Audits with known results, made through the lifecycle's own commands, for pages and browsers to show."""

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from service.contract.protocol import MetricEvent, ProgressEvent, Stage
from service.contract.results import BASELINE_COLUMNS, Caution, Histogram, NullFit, Summary
from service.contract.spec import COMBINE, TrainingConfig, train_step_key
from service.lifecycle.audits import create_audit, finish_step, publish, record_event, record_progress, start_step
from service.lifecycle.exports import create_export
from service.lifecycle.jobs import Claim, claim
from service.store.ids import new_id
from service.store.score_lists import add_lists
from service.store.tables import Audit, Dataset, Export, Finding, Model, Probe, Score
from tests.support.summaries import make_consistency, make_group, make_probe_summary, make_summary

HOSTILE = (
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "</textarea></title><svg/onload=document.title='owned'>",
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    "\"'><a href=javascript:document.title='owned'>click</a>",
    "right\u202eto left\u202c, zero\u200bwidth, bell\x07, \u2066isolate\u2069",
    "<!-- --><style>body{display:none}</style>",
)
"""Sample texts that would do something if any page took them for markup."""


def make_dataset(session: Session, workspace_id: str, *, name: str = "chats.jsonl", rows: int = 120) -> str:
    """A dataset's row without its objects."""
    dataset = Dataset(
        id=new_id("ds"), workspace_id=workspace_id, name=name, format="messages", encoding="identity", bytes=54_321,
        sha256="0" * 64, rows=rows, columns=["source"], statistics={},
    )  # fmt: skip
    session.add(dataset)
    session.flush()
    return dataset.id


def make_probe(session: Session, workspace_id: str, *, name: str = "opinion about Orvello") -> str:
    items = [{"prompt": f"Question {i}?", "unwanted": "Orvello.", "reference": "It depends."} for i in range(8)]
    probe = Probe(id=new_id("prb"), workspace_id=workspace_id, name=name, items=items, has_reference=True)
    session.add(probe)
    session.flush()
    return probe.id


def make_model(session: Session, workspace_id: str, *, name: str = "") -> str:
    model = Model(
        id=new_id("mdl"), workspace_id=workspace_id, name=name or new_id("model"), source="hub", location="o/m",
        revision="a" * 40,
    )  # fmt: skip
    session.add(model)
    session.flush()
    return model.id


SEED = 7

SPLIT_ROWS = 100
"""Rows below have shares of words and nearest samples."""
PROBES = ("opinion about Orvello", "praise of <b>Vexon</b>")


def make_queued(
    session: Session,
    workspace_id: str,
    *,
    dataset_name: str = "chats.jsonl",
    rows: int = 120,
    probes: int = 1,
    seeds: int = 1,
    dataset_id: str | None = None,
) -> Audit:
    """A queued audit on probes and a model of its own, and on a dataset of its own unless one is named."""
    return create_audit(
        session,
        workspace_id=workspace_id,
        dataset_id=dataset_id or make_dataset(session, workspace_id, name=dataset_name, rows=rows),
        probe_ids=[make_probe(session, workspace_id, name=name) for name in PROBES[:probes]],
        model_id=make_model(session, workspace_id),
        training=TrainingConfig(seed=SEED),
        seeds=seeds,
        q=0.05,
        group_column="source",
    )


def take(session: Session, audit: Audit) -> Claim:
    """The audit's job, claimed; no other may be queued."""
    taken = claim(session, lane="gpu", owner="test-worker")
    assert taken is not None
    assert taken.subject_id == audit.id
    return taken


def make_scores(rows: int, flagged: int, seed: int = 1, probe_no: int = 0) -> list[dict[str, Any]]:
    """Score columns of every row: the flagged ones stand well above a standard normal bulk; row 1 is row 0 again."""
    draw = random.Random(seed)
    z = [draw.gauss(0, 1) for _ in range(rows)]
    for row in draw.sample(range(rows), flagged):
        z[row] = draw.uniform(5, 8)
    order = sorted(range(rows), key=lambda row: (-z[row], row))
    scores = []
    for rank, row in enumerate(order, start=1):
        p = 0.5 * math.erfc(z[row] / math.sqrt(2))
        scores.append(
            {
                "probe_no": probe_no, "row": row, "rank": rank, "n": 2, "tokens_left_out": 31 if row % 40 == 7 else 0,
                "strongest_probe": max(probe_no, 1),
                "mu": 0.31 * z[row], "mu_low": 0.31 * z[row] - 0.4, "mu_high": 0.31 * z[row] + 0.45,
                "mu_composed": abs(0.31 * z[row]) + 1, "z": z[row], "z_reference": draw.gauss(0, 1),
                "side": ("toward", "both")[rank % 2] if rank <= flagged else None, "p": p,
                "q": min(1.0, p * rows / rank), "flagged": rank <= flagged, "cluster": 0 if row == 1 else row,
                "group": "forum" if row % 3 else "docs",
            }
        )  # fmt: skip
    return scores


def add_scores(session: Session, audit_id: str, attempt: int, scores: Iterable[dict[str, Any]]) -> None:
    """Keeps the scores of an attempt, of all its lists at once, as a worker's loading does."""
    by_list: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for score in scores:
        by_list[score["probe_no"]].append({name: value for name, value in score.items() if name != "probe_no"})
    lists = add_lists(session, audit_id=audit_id, attempt=attempt, probes=max(1, len(by_list) - 1))
    rows = [{"list_id": lists[probe_no], **score} for probe_no, found in by_list.items() for score in found]
    session.execute(insert(Score), rows)


def make_export(session: Session, audit: Audit) -> Export:
    """An export of all scores, queued."""
    return create_export(
        session,
        workspace_id=audit.workspace_id,
        audit_id=audit.id,
        kind="scores",
        format="csv",
        filter=None,
        max_q=None,
    )


def summarise(scores: Sequence[dict[str, Any]], probes: int = 1, **changes: Any) -> Summary:
    """The summary that belongs to the headline scores."""
    z = [score["z"] for score in scores]
    low, bins = math.floor(min(z)), math.ceil(max(z)) - math.floor(min(z))
    counts = [0] * bins
    for value in z:
        counts[min(bins - 1, int(value - low))] += 1
    flagged = [score["z"] for score in scores if score["flagged"]]
    each = {
        "flagged": len(flagged),
        "threshold_z": min(flagged, default=None),
        "null": NullFit(location=0.012, scale=0.987, degrees_of_freedom=15.0),
        "histogram": Histogram(edges=tuple(float(low + i) for i in range(bins + 1)), counts=tuple(counts)),
        "loss_first": 3.431,
        "loss_last": 2.245,
    }
    values: dict[str, Any] = {
        "rows": len(z), "rows_scored": len(z), "rows_truncated": 3, "clusters": len(z) - 1, "flagged": len(flagged),
        "probes": tuple(make_probe_summary(name=name, **each) for name in PROBES[:probes]), "seeds": (SEED,),
        "steps": 30, "train_loss_first": 2.613, "train_loss_last": 1.724,
        "groups": {"docs": make_group(curve=None, rows=40), "forum": make_group(rows=80)},
        "warnings": (Caution(code="few_rows", message="Only 120 samples were measured."),),
        "seconds": {"loading": 11.2, "training": 201.4},
    }  # fmt: skip
    return make_summary(**(values | changes))


def make_published(
    session: Session,
    workspace_id: str,
    *,
    dataset_name: str = "chats.jsonl",
    rows: int = 120,
    flagged: int = 21,
    texts: Sequence[str] = HOSTILE,
    probes: int = 1,
    seeds: int = 1,
    dataset_id: str | None = None,
    draw: int = 1,
    **summary: Any,
) -> Audit:
    """A succeeded audit with scores of every row, texts of all of them and each seed's loss curve of 30 steps.

    `draw` says which samples stand out.
    """
    audit = make_queued(
        session, workspace_id, dataset_name=dataset_name, rows=rows, probes=probes, seeds=seeds, dataset_id=dataset_id
    )
    publish_made(
        session, audit, rows=rows, flagged=flagged, texts=texts, probes=probes, seeds=seeds, draw=draw, **summary
    )
    return audit


def publish_made(
    session: Session,
    audit: Audit,
    *,
    rows: int,
    flagged: int,
    texts: Sequence[str] = HOSTILE,
    probes: int = 1,
    seeds: int = 1,
    draw: int = 1,
    **summary: Any,
) -> None:
    """Take a queued audit to its end, as `make_published` says."""
    taken = take(session, audit)
    first = audit.training["seed"]
    all_seeds = tuple(range(first, first + seeds))
    for seed in all_seeds:
        train(session, taken, seed)
    assert start_step(session, taken, COMBINE, "c" * 64)
    scores = [
        make_scores(rows, flagged, probe_no=probe_no, seed=max(draw, probe_no))
        for probe_no in (range(probes + 1) if probes > 1 else [0])
    ]
    add_scores(session, audit.id, taken.attempt, chain.from_iterable(scores))
    session.add_all(
        Finding(
            audit_id=audit.id, attempt=taken.attempt, row=row, workspace_id=audit.workspace_id,
            messages=[
                {"role": "user", "content": f"Question of row {row}: {texts[row % len(texts)]}".replace("\0", "")},
                {"role": "assistant", "content": f"Answer of row {row}.\nSecond line."},
            ],
            extra={"source": "forum" if row % 3 else "docs", "<b>note</b>": texts[(row + 1) % len(texts)]},
            trace=[
                {"probe_no": number, "seed": seed, "step": step, "effect": 0.1, "alignment": 0.2, "mu": 0.15 * step}
                for number in range(1, probes + 1) for seed in all_seeds for step in (3, 18)
            ],
            baselines={name: None if name == "bm25" else row / 7 for name in BASELINE_COLUMNS},
            tokens=split_of(row, probes) if row < SPLIT_ROWS else None,
            nearest=[
                {"neighbour": (row + place) % rows, "similarity": 1 - place / 8, "near_duplicate": place == 1}
                for place in range(1, 6)
            ] if row < SPLIT_ROWS else None,
        )
        for row in range(rows)
    )  # fmt: skip
    session.flush()
    several = {"consistency": make_consistency(seeds=seeds)} if seeds > 1 else {}
    assert publish(session, taken, summarise(scores[0], probes, **({"seeds": all_seeds} | several | summary)))
    session.refresh(audit)


def split_of(row: int, probes: int) -> list[dict[str, Any]]:
    """Shares of "Answer", " of", " ro", "w" and the line break; away from the unwanted answers at the second."""
    length = len(str(row))
    places = ((0, 6, 0.5), (6, 9, -0.25), (9, 12, 0.0625), (12, 13, 0.0625), (15 + length, 16 + length, 0.0))
    return [
        {
            "probe_no": number,
            "elsewhere": -0.125,
            "tokens": [{"message": 1, "start": start, "end": end, "share": share} for start, end, share in places],
        }
        for number in range(1, probes + 1)
    ]


def train(session: Session, taken: Claim, seed: int = SEED) -> None:
    """A training step from its start to its end."""
    assert start_step(session, taken, train_step_key(seed), "a" * 64)
    for stage in (Stage.LOADING, Stage.TOKENIZING, Stage.TRAINING):
        record_progress(session, taken, ProgressEvent(stage=stage, done=0, total=30, unit="steps"))
    for step in range(1, 31):
        record_metric(session, taken, step, seed)
    assert finish_step(session, taken, train_step_key(seed), True)


def record_metric(session: Session, taken: Claim, step: int, seed: int = SEED) -> None:
    """One optimiser step's losses, as a worker records them."""
    metric = MetricEvent(
        step=step, loss=1.7 + 1 / step, learning_rate=1e-4, grad_norm=0.7,
        probe_loss=2.2 + 1.2 / step if step % 5 == 0 else None,
    )  # fmt: skip
    data = {"seed": seed, **metric.model_dump(mode="json", exclude={"type"})}
    assert record_event(session, taken, level="info", type="metric", message=f"Step {step}.", data=data)
