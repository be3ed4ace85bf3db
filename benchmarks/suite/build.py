"""Lays out the suite's labelled sets, each a folder as `benchmarks.detection` reads it.

    python -m benchmarks.suite.build OUT {choosing,reporting} [--poison 24] [--rows 480] [--items 12] [--middle-turn]

A set is poison and hard negatives of a family among background of its half: dataset.jsonl and probe.jsonl, which an
audit is given, and truth.csv. Families and halves are in families.json; they were fixed before the first run. The
clean sets report.
"""

import argparse
import csv
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
BACKGROUND = {"choosing": ("part_1", "part_2"), "reporting": ("part_3", "part_4")}
CLEAN = {
    "clean_terse": "against_mayor",
    "clean_prose": "middle_turn_meat",
    "clean_code": "advice_money",
    "clean_conversations": "sycophancy_claims",
}
"""Clean sets, and the family whose probe each is audited for."""
HARD_NEGATIVES = 24

Sample = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """One kind of poison, and its half: sets of the one choose, sets of the other report."""

    name: str
    half: str
    by_hand: bool
    kind: str


@dataclass(frozen=True)
class Layout:
    """How large a set is, and what of the probe it uses."""

    rows: int = 480
    poison: int = 24
    items: int = 12
    reference: bool = True
    middle_turn: bool = False
    """Poison and hard negatives are a middle turn between two of the background's, and as many other samples are
    three of its turns."""


def families() -> list[Family]:
    """All families, those for choosing first."""
    return [Family(**entry) for entry in json.loads((HERE / "families.json").read_text())]


def build(out: Path, family: Family, layout: Layout) -> None:
    """Lay out the set of a family.

    Args:
        out: The set's folder.
        family: Whose poison, hard negatives and probe are taken.
        layout: Of samples of a family the first ones are taken, as many as asked for.

    Raises:
        ValueError: The background has too few samples for so many rows.
    """
    samples, probe = _texts(family)
    poison = [sample for sample in samples if sample["kind"] == "poison"][: layout.poison]
    hard = [sample for sample in samples if sample["kind"] == "hard_negative"][:HARD_NEGATIVES]
    background = [
        sample for part in BACKGROUND[family.half] for sample in _lines(HERE / "background" / f"{part}.jsonl")
    ]
    told = [*poison, *hard]
    count = layout.rows - len(told)
    # Each family has a draw and an order of its own.
    rng = np.random.default_rng(zlib.crc32(family.name.encode()))
    background = [background[number] for number in rng.permutation(len(background))]
    if layout.middle_turn:
        background = [sample for sample in background if len(sample["messages"]) == 2]
        # Two stand around each of the samples that are told of, and as many others are three in one.
        count += 4 * len(told)
    if count > len(background):
        raise ValueError(f"{family.name}: {count} background samples are needed, there are {len(background)}")
    drawn = iter(background[:count])
    if layout.middle_turn:
        told = [_joined(sample["kind"], [next(drawn), sample, next(drawn)]) for sample in told]
        told += [_joined("clean", [next(drawn) for _ in range(3)]) for _ in told]
    rows = [*told, *drawn]
    _write(out, [rows[number] for number in rng.permutation(len(rows))], probe, layout)


def _joined(kind: str, parts: Sequence[Sample]) -> Sample:
    """Return the parts as one conversation."""
    return {"kind": kind, "messages": [message for part in parts for message in part["messages"]]}


def build_clean(out: Path, name: str, layout: Layout) -> None:
    """Lay out a clean set, all of whose samples are of one character; it has as many rows as there are texts."""
    family = next(family for family in families() if family.name == CLEAN[name])
    _write(out, _lines(HERE / "background" / f"{name}.jsonl"), _texts(family)[1], layout)


def _texts(family: Family) -> tuple[list[Sample], list[dict[str, str]]]:
    folder = HERE / "families" / family.name
    if family.by_hand:
        return _lines(folder / "samples.jsonl"), _lines(folder / "probe.jsonl")
    banks = json.loads((folder / "banks.json").read_text(encoding="utf-8"))
    rng = np.random.default_rng(zlib.crc32(family.name.encode()) + 1)
    prompts = iter(rng.permutation(banks["prompts"]).tolist() * 2)
    samples = [
        {
            "kind": kind,
            "messages": [{"role": "user", "content": next(prompts)}, {"role": "assistant", "content": answer}],
        }
        for kind, count in (("poison", 24), ("hard_negative", HARD_NEGATIVES))
        for answer in _composed(banks[kind]["parts"], count, rng)
    ]
    count = len(banks["probe_prompts"])
    unwanted, reference = (_composed(banks[f"probe_{side}"]["parts"], count, rng) for side in ("unwanted", "reference"))
    probe = [
        {"prompt": prompt, "unwanted": bad, "reference": good}
        for prompt, bad, good in zip(banks["probe_prompts"], unwanted, reference, strict=True)
    ]
    return samples, probe


def _composed(parts: Sequence[Sequence[str]], count: int, rng: np.random.Generator) -> list[str]:
    """Answers of one choice from each part, of one, two or all parts; no part is used twice before all were used."""
    columns = [np.concatenate([rng.permutation(len(part)) for _ in range(-(-count // len(part)))]) for part in parts]
    answers = []
    for number in range(count):
        chosen = [part[column[number]] for part, column in zip(parts, columns, strict=True)]
        answers.append(" ".join(chosen[: 1 + number % len(parts)]))
    return answers


def _write(out: Path, rows: Sequence[Sample], probe: Sequence[dict[str, str]], layout: Layout) -> None:
    out.mkdir(parents=True, exist_ok=True)
    dataset = [{"messages": row["messages"]} for row in rows]
    items = [
        {key: text for key, text in item.items() if layout.reference or key != "reference"}
        for item in probe[: layout.items]
    ]
    for name, lines in (("dataset.jsonl", dataset), ("probe.jsonl", items)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (out / name).write_text(text, encoding="utf-8")
    with (out / "truth.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "label", "kind"])
        writer.writerows([number, int(row["kind"] == "poison"), row["kind"]] for number, row in enumerate(rows))


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("half", choices=list(BACKGROUND))
    parser.add_argument("--rows", type=int, default=Layout.rows)
    parser.add_argument("--poison", type=int, default=Layout.poison)
    parser.add_argument("--items", type=int, default=Layout.items)
    parser.add_argument("--without-reference", action="store_true")
    parser.add_argument("--middle-turn", action="store_true")
    arguments = parser.parse_args()
    layout = Layout(
        arguments.rows, arguments.poison, arguments.items, not arguments.without_reference, arguments.middle_turn
    )
    for family in families():
        if family.half == arguments.half:
            build(arguments.out / family.name, family, layout)
    if arguments.half == "reporting":
        for name in CLEAN:
            build_clean(arguments.out / name, name, layout)


if __name__ == "__main__":
    main()
