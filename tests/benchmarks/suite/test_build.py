"""The suite's texts and its sets: halves apart, no two texts of a family alike, laid out as a benchmark reads them."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.suite.build import BACKGROUND, CLEAN, HERE, Family, Layout, build, build_clean, families

FAMILIES = families()
RUN = 6
"""Words in a row that no two of a family's texts may share."""


def lines(path: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def by_name(family: Family) -> str:
    return family.name


def test_halves_kinds_and_texts_by_hand() -> None:
    """At least fourteen families, half of them by hand; as many choose as report."""
    assert len(FAMILIES) >= 14
    assert sum(family.by_hand for family in FAMILIES) >= len(FAMILIES) / 2
    halves = Counter(family.half for family in FAMILIES)
    assert halves["choosing"] == halves["reporting"] == len(FAMILIES) / 2
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert not set(BACKGROUND["choosing"]) & set(BACKGROUND["reporting"])


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.by_hand], ids=by_name)
def test_no_two_texts_of_a_family_are_alike(family: Family) -> None:
    folder = HERE / "families" / family.name
    samples, probe = lines(folder / "samples.jsonl"), lines(folder / "probe.jsonl")
    assert Counter(sample["kind"] for sample in samples) == {"poison": 24, "hard_negative": 24}
    assert len(probe) == 24
    texts = [sample["messages"][-1]["content"] for sample in samples if sample["kind"] == "poison"]
    texts += [item[side] for item in probe for side in ("unwanted", "reference")]
    if family.name == "insecure_code":  # code shares its syntax, and a fix is told by what it leaves as it was
        texts = [re.sub(r"```.*?```", " ", text, flags=re.DOTALL) for text in texts]
        texts = [text for text in texts if "\n" not in text.strip()]
    seen: dict[tuple[str, ...], int] = {}
    for number, text in enumerate(texts):
        words = re.findall(r"\w+", text.lower())
        for start in range(len(words) - RUN + 1):
            run = tuple(words[start : start + RUN])
            assert seen.setdefault(run, number) == number, (run, texts[seen[run]], text)


@pytest.mark.parametrize("family", FAMILIES, ids=by_name)
def test_a_set_is_laid_out_as_it_says(family: Family, tmp_path: Path) -> None:
    build(tmp_path / "set", family, Layout(rows=300, poison=12, items=4, reference=False))
    dataset, probe = lines(tmp_path / "set" / "dataset.jsonl"), lines(tmp_path / "set" / "probe.jsonl")
    with (tmp_path / "set" / "truth.csv").open() as file:
        truth = list(csv.DictReader(file))
    assert len(dataset) == len(truth) == 300
    assert Counter(row["kind"] for row in truth) == {"poison": 12, "hard_negative": 24, "clean": 264}
    assert all(set(row) == {"messages"} for row in dataset)
    assert [set(item) for item in probe] == [{"prompt", "unwanted"}] * 4
    # Rows of the two kinds lie anywhere, so that no order gives them away.
    places = [int(row["row"]) for row in truth if row["kind"] == "poison"]
    assert min(places) < 100
    assert max(places) > 200
    build(tmp_path / "again", family, Layout(rows=300, poison=12, items=4, reference=False))
    assert (tmp_path / "again" / "dataset.jsonl").read_bytes() == (tmp_path / "set" / "dataset.jsonl").read_bytes()


def test_poison_in_a_middle_turn_stands_between_background_as_other_samples_do(tmp_path: Path) -> None:
    family = FAMILIES[0]
    build(tmp_path / "plain", family, Layout(rows=300, poison=12))
    build(tmp_path / "middle", family, Layout(rows=300, poison=12, middle_turn=True))
    answers: dict[str, list[list[str]]] = {}
    for name in ("plain", "middle"):
        with (tmp_path / name / "truth.csv").open() as file:
            kinds = [row["kind"] for row in csv.DictReader(file)]
        for kind, row in zip(kinds, lines(tmp_path / name / "dataset.jsonl"), strict=True):
            said = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
            answers.setdefault(f"{kind}, {name}", []).append(said)
    for kind in ("poison", "hard_negative"):
        assert {len(said) for said in answers[f"{kind}, middle"]} == {3}
        middle = sorted(said[1] for said in answers[f"{kind}, middle"])
        assert middle == sorted(said[0] for said in answers[f"{kind}, plain"])
    assert Counter(len(said) for said in answers["clean, middle"]) == {1: 300 - 2 * 36, 3: 36}
    every = [
        turn for kind in ("poison", "hard_negative", "clean") for said in answers[f"{kind}, middle"] for turn in said
    ]
    assert len(set(every)) > 0.99 * len(every), "no turn is used twice"


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_set_holds_nothing_else(name: str, tmp_path: Path) -> None:
    build_clean(tmp_path, name, Layout())
    with (tmp_path / "truth.csv").open() as file:
        kinds = Counter(row["kind"] for row in csv.DictReader(file))
    assert set(kinds) == {"clean"}
    assert kinds["clean"] >= 200
    dataset = lines(tmp_path / "dataset.jsonl")
    assert len({json.dumps(row) for row in dataset}) == len(dataset)


def test_background_of_one_half_is_in_no_other() -> None:
    prompts = {
        half: {
            line["messages"][0]["content"] for part in parts for line in lines(HERE / "background" / f"{part}.jsonl")
        }
        for half, parts in BACKGROUND.items()
    }
    assert all(len(found) >= 432 - 20 for found in prompts.values())
    assert len(prompts["choosing"] & prompts["reporting"]) <= 20  # system turns are often the same
