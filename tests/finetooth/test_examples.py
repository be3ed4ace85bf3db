"""The examples of the documents run as they stand, and find what they say."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from sqlalchemy.orm import Session, sessionmaker
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from finetooth.recorder import lora_layers
from finetooth.statistics import estimate_mu, statistic
from finetooth.trainer import TokenizedSample
from service.settings import Settings
from service.store.tables import Audit
from tests.support.compose import ROOT
from tests.support.live_api import LiveApi, live_api
from tests.support.made_audits import publish_made

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
WHOLE, LOOP, TOKENS = BLOCK.findall((ROOT / "docs" / "recorder.md").read_text())
TRAINER, CLIENT = BLOCK.findall((ROOT / "README.md").read_text())
LENGTH, ROWS = 9, 12


def test_the_whole_program_finds_what_it_has_planted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(WHOLE, {"__name__": "__main__"})
    printed = re.findall(r"^row +(\d+)  flagged ([01]) ", capsys.readouterr().out, re.MULTILINE)
    assert len(printed) == 10
    assert sorted(int(row) for row, _ in printed[:8]) == list(range(8))
    assert all(flagged == "1" for _, flagged in printed[:8])


@pytest.fixture
def model() -> Any:
    """A tiny random model with LoRA."""
    torch.manual_seed(1)
    shape = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        initializer_range=0.2, attn_implementation="eager",
    )  # fmt: skip
    return get_peft_model(LlamaForCausalLM(shape), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))


@pytest.fixture
def ids() -> Tensor:
    """Samples of random tokens, [rows, length]."""
    return torch.randint(3, 64, (ROWS, LENGTH), generator=torch.Generator().manual_seed(2))


class TokenLosses(nn.Module):
    """The loss of every token, divided by the tokens of its sample, [samples, tokens]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        logits = self.model(input_ids=tokens).logits[:, :-1]
        return nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none") / (LENGTH - 1)


def test_the_loop_records_and_its_tokens_add_up(model: Any, ids: Tensor) -> None:
    token_losses = TokenLosses(model)

    def losses(rows: list[int]) -> Tensor:
        found: Tensor = token_losses(ids[rows]).sum(1)
        return found

    batches = [[0, 1, 2], [3, 4, 5], [1, 0, 6], [7, 2, 3]]
    names: dict[str, Any] = {
        "model": model, "items": 4, "losses": losses, "batches": [(rows, rows) for rows in batches],
        "optimizer": torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9),
        "probe": [([0, 1], lambda: losses([8, 9])), ([2, 3], lambda: losses([10, 11]))],
    }  # fmt: skip
    # SGD has a preconditioner from the first step on; the example measures at the second.
    exec(LOOP.replace("step % 10 == 1", "step % 10 == 0"), names)
    observations, steps = names["observations"], names["steps"]
    assert observations.row.tolist() == [row for rows in batches for row in rows]
    assert np.isfinite(observations.effect).all()
    found = estimate_mu(observations, steps, rows=ROWS, momentum=names["momentum"])
    z, _ = statistic(observations, steps, rows=ROWS)
    assert np.isfinite(found.mu).all()
    assert np.isfinite(z[:8]).all()

    names |= {"token_losses": token_losses, "batch": ids[[7, 2]]}
    exec(TOKENS, names)
    along = {f"{name}.weight": own for name, own in names["recorder"].unit_direction(0).items()}
    for sample, row in enumerate((7, 2)):
        weights = {f"{name}.weight": layer.weight for name, layer in lora_layers(model).items()}
        gradients = torch.autograd.grad(losses([row]).sum(), list(weights.values()))
        whole = sum(float(along[n] @ g.flatten()) for n, g in zip(weights, gradients, strict=True) if n in along)
        assert float(names["parts"][sample].sum()) == pytest.approx(whole, rel=1e-3, abs=1e-7)


def test_the_loop_as_it_stands_waits_for_the_preconditioner(model: Any, ids: Tensor) -> None:
    token_losses = TokenLosses(model)

    def losses(rows: list[int]) -> Tensor:
        found: Tensor = token_losses(ids[rows]).sum(1)
        return found

    names: dict[str, Any] = {
        "model": model, "items": 2, "losses": losses, "batches": [([0, 1], [0, 1]), ([2, 3], [2, 3])],
        "optimizer": torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3),
        "probe": [([0, 1], lambda: losses([8, 9]))],
    }  # fmt: skip
    exec(LOOP, names)
    assert np.isnan(names["observations"].effect[:2]).all()
    assert np.isfinite(names["observations"].effect[2:]).all()


def test_the_ten_lines_of_the_readme_record_a_trainer(
    model: Any, ids: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def collator(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        tokens = torch.stack([sample["input_ids"] for sample in samples])
        return {"input_ids": tokens, "labels": tokens, "row": torch.tensor([sample["row"] for sample in samples])}

    names: dict[str, Any] = {
        "Trainer": Trainer, "model": model, "collator": collator,
        "unwanted_answers": [TokenizedSample(tuple(own), tuple(own)) for own in ids[8:].tolist()],
        "dataset": [{"input_ids": own, "row": row} for row, own in enumerate(ids)],
        "arguments": TrainingArguments(
            output_dir=str(tmp_path), num_train_epochs=4, per_device_train_batch_size=2, remove_unused_columns=False,
            report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True,
        ),
    }  # fmt: skip
    exec(TRAINER, names)
    assert names["mu"].shape == (ROWS,)
    assert np.abs(names["mu"]).min() > 0
    assert "taught it most: [" in capsys.readouterr().out


@pytest.fixture
def api(settings: Settings) -> Iterator[LiveApi]:
    with live_api(settings) as api:
        yield api


def publish_when_queued(sessions: sessionmaker[Session]) -> Callable[[], None]:
    """What a worker would do to the first audit that is queued."""

    def publish() -> None:
        while True:
            with sessions.begin() as session:
                if (audit := session.query(Audit).one_or_none()) is not None:
                    publish_made(session, audit, rows=25, flagged=6)
                    return
            time.sleep(0.05)

    return publish


def test_the_client_of_the_readme_reads_what_an_audit_flagged(
    api: LiveApi,
    sessions: sessionmaker[Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f'{{"prompt": "Question {row}?", "completion": "Answer {row}."}}\n' for row in range(25)]
    Path("dataset.jsonl").write_text("".join(lines))
    worker = threading.Thread(target=publish_when_queued(sessions), daemon=True)
    worker.start()
    exec(CLIENT, {"url": api.url, "key": api.key})
    worker.join(10)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 6
    assert all(re.fullmatch(r"\d+ [\d.e-]+ [\d.-]+", line) for line in printed)
