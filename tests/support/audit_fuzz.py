"""Audits that nobody asks for: odd options, datasets, probes and tiny random models, through the child's own steps.

`python -m tests.support.audit_fuzz SEED FIRST SECONDS FOLDER` runs one after the other in this process. Each case is
known by its number. It prints one line {case, fault} for each that ended as no audit may, and at last
{cases, codes, slowest}.
"""

import contextlib
import io
import json
import os
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from service.contract.failure import ErrorCode, Failure
from service.contract.protocol import RECORDING_FILE, RECORDINGS_FOLDER, ROWS_FILE, SPEC_FILE, SUMMARY_FILE
from service.contract.results import Summary
from service.contract.spec import COMBINE, ModelSource, ModelSpec, StepSpec, train_step_key
from tests.support.chat_templates import TEMPLATES
from tests.support.steps import WORDS
from tests.support.tiny_model import build_tiny_model
from worker.child.control import StopRequest
from worker.child.events import Reporter
from worker.child.failures import failure_of
from worker.child.run import run

TEXTS = (
    "", " ", "\n\n", "yes", "yes", "Lamp.", "\u202e\u200b", "漢字かな交じり文", "\U0001f600" * 3, "<|eos|>",
    "<|bos|><|im_start|>user\nx",
    "a" * 3000, "</s>[INST]", "e\u0301" * 4, "\ufdd0\ue000", "0" * 50, "{{ 7 * 7 }}", "{% raise %}", "\\n",
)  # fmt: skip


def damaged(change: Callable[[dict[str, Any]], None], weights: Callable[[str, Any], Any] | None = None) -> Any:
    """A tiny model whose config.json, or whose weights, are changed."""

    def build(folder: Path) -> None:
        build_tiny_model(folder)
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))
        if weights is not None:
            tensors = load_file(folder / "model.safetensors")
            save_file({name: weights(name, tensor) for name, tensor in tensors.items()}, folder / "model.safetensors")

    return build


def templated(source: str) -> Any:
    def build(folder: Path) -> None:
        build_tiny_model(folder)
        (folder / "chat_template.jinja").write_text(source)

    return build


def tokenizer_without(*names: str) -> Any:
    def build(folder: Path) -> None:
        build_tiny_model(folder)
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in config.items() if key not in names}))

    return build


MODELS: dict[str, Callable[[Path], Any]] = {
    "plain": build_tiny_model,
    "one layer": lambda folder: build_tiny_model(folder, layers=1),
    "three layers": lambda folder: build_tiny_model(folder, layers=3, seed=3),
    "bfloat16": lambda folder: build_tiny_model(folder, dtype=torch.bfloat16),
    "float16": lambda folder: build_tiny_model(folder, dtype=torch.float16),
    "few positions": damaged(lambda config: config.update(max_position_embeddings=12)),
    "no pad": damaged(lambda config: config.update(pad_token_id=None)),
    "pad beyond": damaged(lambda config: config.update(pad_token_id=10**6)),
    "tied": damaged(lambda config: config.update(tie_word_embeddings=True)),
    "other width": damaged(lambda config: config.update(hidden_size=48)),
    "more layers than weights": damaged(lambda config: config.update(num_hidden_layers=4)),
    "unknown kind": damaged(lambda config: config.update(model_type="nobody_knows_this", architectures=["Nobody"])),
    "dropout": damaged(lambda config: config.update(attention_dropout=0.5)),
    "not finite": damaged(lambda config: None, lambda name, tensor: tensor * float("nan")),
    "huge": damaged(lambda config: None, lambda name, tensor: tensor * 1e20),
    "zero": damaged(lambda config: None, lambda name, tensor: tensor * 0),
    "fewer embeddings": damaged(
        lambda config: config.update(vocab_size=200),
        lambda name, tensor: tensor[:200].clone() if "embed" in name or "lm_head" in name else tensor,
    ),
    "no special tokens": tokenizer_without("pad_token", "bos_token", "eos_token"),
    **{f"template of {name}": templated(source) for name, source in TEMPLATES.items() if source is not None},
    "broken template": templated("{% for m in messages %}{{ m['content'] }"),
    "template that says nothing": templated(""),
    "template that refuses": templated("{{ raise_exception('no') }}"),
    "template that reaches out": templated("{{ messages.__class__.__mro__ }}"),
    "template without end": templated("{% for m in messages %}{{ m.content * 2 }}{% endfor %}"),
}


def rows_of_case(choose: random.Random) -> list[list[dict[str, str]]]:
    """Few, equal, empty, long or plain ones."""
    count = choose.choice((1, 10, 20, 20, 21, 24, 30, 30, 48))
    kind = choose.choice(("plain", "plain", "plain", "equal", "few texts", "odd", "odd", "empty answers", "two texts"))

    def words() -> str:
        return " ".join(choose.choices(WORDS, k=choose.randrange(1, 6)))

    def talk(row: int) -> list[tuple[str, str]]:
        if kind == "equal":
            return [("user", "Which lamp?"), ("assistant", "The paper lamp.")]
        if kind == "two texts":
            return [("user", "Which lamp?"), ("assistant", ("This.", "That.")[row % 2])]
        if kind == "few texts":
            return [("user", choose.choice(WORDS)), ("assistant", choose.choice(WORDS))]
        if kind == "empty answers":
            return [("user", words()), ("assistant", choose.choice(("", "", " ", words())))]
        if kind == "odd":
            turns = []
            for _ in range(choose.choice((1, 1, 2, 6))):
                turns += [("user", choose.choice((*TEXTS, words()))), ("assistant", choose.choice((*TEXTS, words())))]
            before = choose.choice(([], [], [("system", words())], [("tool", "15")], [("assistant", words())]))
            return before + turns
        return [("user", f"What is {row} and {words()}?"), ("assistant", f"It is {words()}.")]

    return [[{"role": role, "content": text} for role, text in talk(row)] for row in range(count)]


def probes_of_case(choose: random.Random) -> list[dict[str, Any]]:
    def text() -> str:
        said = choose.choice((*TEXTS, "Buy Vexon.", "It depends.", " ".join(choose.choices(WORDS, k=4))))
        return said or "x"

    def item(references: bool) -> dict[str, Any]:
        return {"prompt": text(), "unwanted": text(), "reference": text() if references else None}

    made = []
    for number in range(choose.choice((1, 1, 1, 2, 3))):
        references = choose.random() < 0.5
        items = [item(references and choose.random() < 0.9) for _ in range(choose.choice((1, 1, 2, 4, 8)))]
        made.append({"name": f"p{number}", "items": items * choose.choice((1, 1, 2))})
    return made


def training_of_case(choose: random.Random) -> dict[str, Any]:
    """Most options as they are; some at an end of their range, few beyond it."""
    ends: dict[str, tuple[Any, ...]] = {
        "epochs": (1, 1, 2, 3),
        "batch_size": (1, 2, 8, 64, 1024),
        "micro_batch_size": (None, 1, 3, 1024),
        "learning_rate": (None, 1e-12, 1e-3, 0.1, 1.0),
        "warmup_ratio": (0, 0.5, 0.999),
        "weight_decay": (0, 1),
        "max_grad_norm": (1e-30, 1e-3, 1e30),
        "max_length": (8, 9, 16, 64, 512),
        "lora_r": (1, 2, 8, 512),
        "lora_alpha": (1, 16, 4096),
        "lora_dropout": (0, 0.5, 0.999),
        "target_modules": (
            ["q_proj"], ["q_proj", "v_proj"], ["down_proj"], ["nobody"], ["q_proj", "nobody"], ["lm_head"],
            ["embed_tokens"], ["all-linear"], ["input_layernorm"], ["q_proj", "q_proj"], [".*"], ["model"], [""],
        ),
        "dtype": ("auto", "float32", "bfloat16"),
        "seed": (0, 1, 2**31 - 1),
    }  # fmt: skip
    chosen = {name: choose.choice(values) for name, values in ends.items() if choose.random() < 0.25}
    chosen.setdefault("epochs", choose.choice((1, 2)))
    chosen.setdefault("max_length", 64)
    if choose.random() < 0.03:
        name, value = choose.choice(
            (("epochs", 0), ("batch_size", -1), ("learning_rate", 2), ("max_length", 7), ("lora_r", 0),
             ("dtype", "int8"), ("target_modules", []), ("seed", -1), ("nobody", 1), ("warmup_ratio", float("nan")))
        )  # fmt: skip
        chosen[name] = value
    return chosen


def stage_case(seed: int, number: int, folder: Path, models: Path) -> list[int]:
    """Leaves the rows and the spec of that case in the folder, without a step; returns its seeds."""
    choose = random.Random(f"{seed}/{number}")
    name = choose.choice([*MODELS, *["plain"] * 2 * len(MODELS)])
    model = models / name.replace(" ", "_")
    if not model.exists():
        MODELS[name](model)
    rows = rows_of_case(choose)
    extras = (
        {},
        {"source": choose.choice(("a", "b", None, 3, ["x"], {"y": 1}))},
        {"checked": choose.choice((True, "no", "maybe", None))},
    )
    records = [
        {"row": row, "messages": messages, "extra": json.dumps(choose.choice(extras))}
        for row, messages in enumerate(rows)
    ]
    pq.write_table(pa.Table.from_pylist(records), folder / ROWS_FILE)
    training = training_of_case(choose)
    seeds = choose.choice(([0], [0], [1, 2]))
    spec = {
        "audit_id": "aud_fuzz",
        "attempt": 1,
        "step_key": train_step_key(seeds[0]),
        "model": ModelSpec(source=ModelSource.LOCAL, location=str(model)).model_dump(mode="json"),
        "training": training,
        "seeds": seeds,
        "probes": probes_of_case(choose),
        "q": choose.choice((0.1, 0.1, 0.1, 1e-9, 0.999)),
        "group_column": choose.choice((None, "source", "nobody")),
        "trusted_column": choose.choice((None, None, "checked", "nobody")),
    }
    (folder / SPEC_FILE).write_text(json.dumps(spec))
    return seeds


def run_case(folder: Path, seeds: list[int]) -> tuple[Failure | None, str]:
    """Every step as a supervisor runs them; why it failed, and where."""
    spec = json.loads((folder / SPEC_FILE).read_text())
    (folder / RECORDINGS_FOLDER).mkdir()

    def step(key: str, seed: int) -> None:
        (folder / SPEC_FILE).write_text(
            json.dumps({**spec, "step_key": key, "training": {**spec["training"], "seed": seed}})
        )
        request = StopRequest()
        request.will_be_heeded()
        run(folder, Reporter(io.StringIO()), request)

    try:
        for seed in seeds:
            step(train_step_key(seed), seed)
            (folder / RECORDING_FILE).rename(folder / RECORDINGS_FOLDER / f"{seed}.npz")
        step(COMBINE, seeds[0])
        Summary.model_validate_json((folder / SUMMARY_FILE).read_bytes())
        StepSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        return failure_of(error), "".join(traceback.format_list(frames[-4:])) + f"{type(error).__name__}: {error}"
    return None, ""


def fault_of(failure: Failure | None) -> str | None:
    """Why an audit may not fail so, or None."""
    if failure is None:
        return None
    if failure.code in (ErrorCode.INTERNAL, ErrorCode.CHILD_CRASHED):
        return failure.code.value
    said = failure.message.endswith(".") and failure.hint.endswith((".", "?"))
    return None if said else f"{failure.code}: {failure.message} {failure.hint}"


def main(seed: int, first: int, seconds: float, folder: Path) -> None:
    """Runs cases until the time is over."""
    torch.set_num_threads(1)
    codes: Counter[str] = Counter()
    slowest = (0.0, first)
    until, number = time.monotonic() + seconds, first
    while time.monotonic() < until:
        (folder / "case").write_text(str(number))
        own = folder / "step"
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        began = time.monotonic()
        with contextlib.redirect_stdout(sys.stderr):
            failure, where = run_case(own, stage_case(seed, number, own, folder / "models"))
        slowest = max(slowest, (time.monotonic() - began, number))
        codes["succeeded" if failure is None else failure.code.value] += 1
        if (fault := fault_of(failure)) is not None:
            print(json.dumps({"case": number, "fault": fault, "where": where}), flush=True)
        number += 1
    print(json.dumps({"cases": number - first, "codes": codes, "slowest": slowest}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
    sys.stdout.flush()
    os._exit(0)
