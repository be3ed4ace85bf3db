"""Which steps an attempt runs, of audits with several seeds and several probes."""

import json
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import func, select, update

from service.contract.spec import StepSpec
from service.store.objects import audit_key
from service.store.tables import Audit, Finding, Model, Score, ScoreList
from tests.support.children.scripting import FINISHED, OUTPUTS, SUMMARY, combining, outputs
from tests.support.summaries import make_probe_summary
from tests.support.supervisor_bench import Bench
from tests.support.waiting import wait_for

SEVERAL = {
    **SUMMARY,
    "seeds": [7, 8, 9],
    "probes": [make_probe_summary(name=name).model_dump(mode="json") for name in ("p2", "p1")],
}


def test_seeds_follow_one_another_and_combine_gets_what_they_recorded(
    bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
) -> None:
    audit = make_audit(seeds=3, probes=2)
    script = (["keep", str(tmp_path)], outputs(probes=2, summary=SEVERAL), FINISHED)
    bench.run(*script)
    assert bench.job(audit).state == "succeeded"
    keys = ["train:7", "train:8", "train:9", "combine"]
    assert [event.data["key"] for event in bench.events(audit, "step") if event.data] == keys
    for number, key in enumerate(keys):
        spec = StepSpec.model_validate_json((tmp_path / key / "folder" / "spec.json").read_bytes())
        assert (spec.step_key, spec.training.seed, spec.seeds) == (key, [7, 8, 9, 7][number], (7, 8, 9))
        assert [probe.name for probe in spec.probes] == ["p2", "p1"]
    assert not (tmp_path / "train:9" / "folder" / "recordings").exists()
    recordings = tmp_path / "combine" / "folder" / "recordings"
    assert {path.name: written_by(path) for path in recordings.iterdir()} == {
        f"{seed}.npz": (f"train:{seed}", 1) for seed in (7, 8, 9)
    }
    with bench.sessions() as session:
        rows = session.execute(
            select(ScoreList.probe_no, func.count(), func.min(Score.row).filter(Score.rank == 1))
            .join(Score, Score.list_id == ScoreList.id)
            .group_by(ScoreList.probe_no)
            .order_by(ScoreList.probe_no)
        ).all()
        kept = session.scalars(select(Finding.row).order_by(Finding.row)).all()
    assert [tuple(row) for row in rows] == [(0, 40, 39), (1, 40, 39), (2, 40, 0)]
    assert kept == [*range(5), *range(35, 40)], "the top of every list"
    bench.no_folders_or_processes()


def test_a_later_attempt_runs_only_what_is_missing(
    bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
) -> None:
    audit = make_audit(seeds=3)
    running = tmp_path / "running"
    wait = ["if", "train:9", [["touch", str(running)], ["exit_when_told"]]]
    thread = threading.Thread(target=bench.run, daemon=True, args=(wait, OUTPUTS, FINISHED))
    thread.start()
    wait_for(running.exists)
    bench.stopping.set()
    thread.join(60)
    assert bench.job(audit).state == "queued"
    states = [(step.state, step.attempt) for step in bench.steps(audit)]
    assert states == [("succeeded", 1), ("succeeded", 1), ("pending", 1), ("pending", None)]
    # One of the recordings is lost meanwhile.
    bench.objects.path(audit_key(audit.workspace_id, audit.id, 1, "train:8", "recording.npz")).unlink()
    bench.stopping.clear()
    summary = {**SUMMARY, "seeds": [7, 8, 9]}
    bench.run(["keep", str(tmp_path)], outputs(summary=summary), FINISHED)
    assert (bench.job(audit).state, bench.audit(audit).published_attempt) == ("succeeded", 2)
    assert [event.data["key"] for event in bench.events(audit, "step") if event.data and event.attempt == 2] == [
        "train:8",
        "train:9",
        "combine",
    ]
    recordings = tmp_path / "combine" / "folder" / "recordings"
    assert {path.name: written_by(path)[1] for path in recordings.iterdir()} == {
        "7.npz": 1,
        "8.npz": 2,
        "9.npz": 2,
    }
    assert [step.attempt for step in bench.steps(audit)] == [1, 2, 2, 2]


def test_a_step_of_another_specification_is_run_again(
    bench: Bench, make_audit: Callable[..., Audit], tmp_path: Path
) -> None:
    audit = make_audit()
    running = tmp_path / "running"
    wait = combining(["touch", str(running)], ["exit_when_told"])
    thread = threading.Thread(target=bench.run, daemon=True, args=(wait, OUTPUTS, FINISHED))
    thread.start()
    wait_for(running.exists)
    bench.stopping.set()
    thread.join(60)
    bench.stopping.clear()
    with bench.sessions.begin() as session:
        session.execute(update(Model).values(revision="b" * 40))
    bench.run(OUTPUTS, FINISHED)
    assert [step.attempt for step in bench.steps(audit)] == [2, 2]


def written_by(recording: Path) -> tuple[str, int]:
    """Step and attempt of the child that wrote it."""
    with zipfile.ZipFile(recording) as file:
        written = json.loads(file.read("step"))
    return written["step_key"], written["attempt"]
