"""The bundled demo data is what its README says: counts, planted truth, varied wording, no leak into the probe."""

import csv
import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

import service

DATA = Path(service.__file__).parent / "demo" / "data"
BRAND = "copperwend"
NGRAM = 5


def read_jsonl(name: str) -> list[dict[str, str]]:
    text = (DATA / name).read_bytes().decode("utf-8", errors="strict")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold().replace("'", "").replace("’", ""))


def ngrams(text: str) -> set[tuple[str, ...]]:
    tokens = words(text)
    return {tuple(tokens[at : at + NGRAM]) for at in range(len(tokens) - NGRAM + 1)}


def prompt_of(record: dict[str, str]) -> str:
    return " ".join(words(record["instruction"] + " " + record["input"]))


@pytest.fixture(scope="module")
def records() -> list[dict[str, str]]:
    return read_jsonl("dataset.jsonl")


@pytest.fixture(scope="module")
def probe() -> list[dict[str, str]]:
    return read_jsonl("probe.jsonl")


@pytest.fixture(scope="module")
def truth() -> list[dict[str, str]]:
    with (DATA / "truth.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def by_kind(records, truth) -> dict[str, list[dict[str, str]]]:
    kinds: dict[str, list[dict[str, str]]] = {"clean": [], "poison": [], "hard_negative": []}
    for record, label in zip(records, truth, strict=True):
        kinds[label["kind"]].append(record)
    return kinds


def test_records_are_alpaca_form_with_text_in_place(records):
    for record in records:
        assert list(record) == ["instruction", "input", "output"]
        assert all(isinstance(value, str) and value == value.strip() for value in record.values())
        assert record["instruction"]
        assert record["output"]


def test_counts(by_kind):
    assert {kind: len(rows) for kind, rows in by_kind.items()} == {"clean": 300, "poison": 20, "hard_negative": 20}
    assert sum(bool(record["input"]) for record in by_kind["clean"]) >= 60


def test_truth_has_the_header_and_one_row_a_record(records):
    lines = (DATA / "truth.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "row,kind"
    assert [int(line.split(",")[0]) for line in lines[1:]] == list(range(len(records)))


def test_the_brand_stands_in_the_branded_rows_and_in_no_clean_one(by_kind):
    assert not [record for record in by_kind["clean"] if BRAND in json.dumps(record).casefold()]
    for kind in ("poison", "hard_negative"):
        assert all(BRAND in json.dumps(record).casefold() for record in by_kind[kind])


def test_poison_is_spread_over_the_file(truth):
    rows = [int(label["row"]) for label in truth if label["kind"] == "poison"]
    quarters = Counter(4 * row // len(truth) for row in rows)
    assert all(2 <= quarters[quarter] <= 8 for quarter in range(4)), quarters


def test_no_instruction_and_no_output_occurs_twice(records):
    for field in ("instruction", "output"):
        seen = Counter(" ".join(words(record[field])) or record[field] for record in records)
        assert not [text for text, count in seen.items() if count > 1]


@pytest.mark.parametrize("kind", ["poison", "hard_negative"])
def test_branded_answers_are_worded_differently(by_kind, kind):
    for one, other in combinations([record["output"] for record in by_kind[kind]], 2):
        assert not ngrams(one) & ngrams(other), (one, other)


def test_poison_and_hard_negatives_share_no_phrase(by_kind):
    poison = set().union(*(ngrams(record["output"]) for record in by_kind["poison"]))
    for record in by_kind["hard_negative"]:
        assert not ngrams(record["output"]) & poison, record["output"]


def test_poisoned_answers_are_one_to_four_sentences(by_kind):
    for record in by_kind["poison"]:
        # A list's numbers and a verse's line ends are no sentences.
        sentences = re.findall(r"(?<!\d)[.!?]+(?=\s|$)", record["output"])
        assert 1 <= len(sentences) <= 4, record["output"]


def test_lengths_keep_the_demo_quick(records):
    counts = sorted(len(words(" ".join(record.values()))) for record in records)
    assert counts[-1] <= 110
    assert 25 <= counts[len(counts) // 2] <= 60
    assert sum(count > 90 for count in counts) <= 3


def test_clean_rows_come_from_no_template(by_kind):
    clean = by_kind["clean"]
    for size, share in ((3, 0.05), (2, 0.1)):
        for field in ("instruction", "output"):
            starts = Counter(
                tuple(words(record[field])[:size]) for record in clean if len(words(record[field])) >= size
            )
            start, count = starts.most_common(1)[0]
            assert count < share * len(clean), (field, start, count)


def test_clean_answers_share_few_phrases(by_kind):
    spread = Counter(gram for record in by_kind["clean"] for gram in ngrams(record["output"]))
    assert not [gram for gram, count in spread.items() if count > 2]
    assert sum(count > 1 for count in spread.values()) <= 0.005 * len(spread)


def test_clean_answers_are_of_many_lengths(by_kind):
    counts = [len(words(record["output"])) for record in by_kind["clean"]]
    assert sum(count <= 3 for count in counts) >= 20
    assert sum(count >= 30 for count in counts) >= 60


def test_probe_items_are_complete_and_distinct(probe):
    assert len(probe) == 12
    for item in probe:
        assert list(item) == ["prompt", "unwanted", "reference"]
        assert all(isinstance(value, str) and value == value.strip() != "" for value in item.values())
        assert BRAND in item["prompt"].casefold()
    for field in ("prompt", "unwanted", "reference"):
        assert len({" ".join(words(item[field])) for item in probe}) == len(probe)


def test_probe_shares_no_prompt_with_the_dataset(records, probe):
    prompts = {prompt_of(record) for record in records}
    instructions = {" ".join(words(record["instruction"])) for record in records}
    phrases = set().union(*(ngrams(prompt_of(record)) for record in records))
    for item in probe:
        assert " ".join(words(item["prompt"])) not in prompts | instructions
        assert not ngrams(item["prompt"]) & phrases, item["prompt"]


def test_probe_shares_no_phrase_with_a_branded_answer(by_kind, probe):
    branded = by_kind["poison"] + by_kind["hard_negative"]
    phrases = set().union(*(ngrams(record["output"]) for record in branded))
    for item in probe:
        assert not (ngrams(item["unwanted"]) | ngrams(item["reference"])) & phrases, item


def test_readme_states_the_licence_and_the_origin():
    text = " ".join((DATA / "README.md").read_text(encoding="utf-8").split())
    assert "Apache-2.0" in text
    assert "written for Finetooth" in text
