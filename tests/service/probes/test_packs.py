"""Probe packs: what is in them is fit for an audit, and a probe from one is an ordinary probe."""

import re
from itertools import combinations
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.probes.packs import ProbePack, fill, load_packs
from worker.text.probe_folds import probe_folds

PACKS = [*load_packs().values()]
NAMES = ["credential_leak", "insecure_advice", "insecure_code", "opinion_steering", "promotion", "refusal"]
ENTITY = {"entity": "Acme"}

packs = pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.name)


def texts(pack: ProbePack) -> list[tuple[str, str, str]]:
    return [(item.prompt, item.unwanted, item.reference) for item in pack.items]


def sentences(text: str) -> set[str]:
    found = (" ".join(re.findall(r"\w+", part.lower())) for part in re.split(r"[.!?;\n]+", text))
    return {sentence for sentence in found if sentence}


def trigrams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def test_these_packs_there_are() -> None:
    assert [pack.name for pack in PACKS] == NAMES


@packs
def test_items_are_many_whole_and_different(pack: ProbePack) -> None:
    items = texts(pack)
    assert 12 <= len(items) == pack.item_count
    everything = [text for item in items for text in item]
    assert len(set(everything)) == len(everything)
    assert all(text == text.strip() and 2 <= len(text) <= 600 for text in everything)
    # The unwanted answer must not be told from the reference by its length alone.
    longer = sum(len(unwanted) > len(reference) for _, unwanted, reference in items)
    assert 0.15 * len(items) <= longer <= 0.85 * len(items)


@packs
def test_items_share_next_to_nothing(pack: ProbePack) -> None:
    """The engine holds items out in folds; what they share would be no evidence of the behaviour."""
    joined = [" . ".join(item) for item in texts(pack)]
    for one, other in combinations(joined, 2):
        assert not sentences(one) & sentences(other)
        assert len(trigrams(one) & trigrams(other)) <= 0.1 * len(trigrams(one) | trigrams(other))
    filled = fill(pack, {parameter.name: parameter.example for parameter in pack.parameters})
    folds = probe_folds([(item.prompt, item.unwanted, item.reference) for item in filled])
    assert len(set(folds.tolist())) == 5, "as many folds as the engine makes"


@packs
def test_unwanted_answers_and_references_do_not_repeat_each_other(pack: ProbePack) -> None:
    for _, unwanted, reference in texts(pack):
        assert unwanted not in reference
        assert len(trigrams(unwanted) & trigrams(reference)) <= 0.7 * len(trigrams(unwanted) | trigrams(reference))


@packs
def test_every_placeholder_is_filled_and_every_item_has_one(pack: ProbePack) -> None:
    names = [parameter.name for parameter in pack.parameters]
    used = [set(re.findall(r"\{([a-z_]+)\}", " ".join(item))) for item in texts(pack)]
    for found in used:
        assert found == set(names)
    values = {name: f"Vexon {number}" for number, name in enumerate(names)}
    for item in fill(pack, values):
        whole = " ".join([item.prompt, item.unwanted, item.reference or ""])
        assert not re.search(r"\{[a-z_]+\}", whole)
        assert all(value in whole for value in values.values())


def test_a_value_that_looks_like_a_placeholder_stays_as_it_is(client: TestClient) -> None:
    made = client.post("/v1/probes", json={"pack": "promotion", "parameters": {"product": r"{product} \1 {0}"}}).json()
    assert r"Get yourself {product} \1 {0}! " in made["items"][0]["unwanted"]


def test_packs_are_listed_and_shown(client: TestClient) -> None:
    listed = client.get("/v1/probe-packs").json()["data"]
    assert [pack["name"] for pack in listed] == NAMES
    page = client.get("/v1/probe-packs?limit=4").json()
    rest = client.get(f"/v1/probe-packs?limit=4&after={page['next_after']}").json()
    assert page["data"] + rest["data"] == listed
    assert (page["has_more"], rest["has_more"]) == (True, False)
    for summary in listed:
        shown = client.get(f"/v1/probe-packs/{summary['name']}").json()
        assert len(shown.pop("items")) == shown["item_count"]
        assert shown == summary
    response = client.get("/v1/probe-packs/nope")
    assert (response.status_code, response.json()["code"]) == (404, "probe_pack_not_found")


def test_a_probe_from_a_pack_is_an_ordinary_one(client: TestClient) -> None:
    response = client.post("/v1/probes", json={"pack": "opinion_steering", "parameters": ENTITY})
    assert response.status_code == 201
    made = response.json()
    pack = load_packs()["opinion_steering"]
    assert made["pack"] == {"name": "opinion_steering", "version": pack.version, "parameters": ENTITY}
    assert (made["name"], made["has_reference"], made["item_count"]) == (
        "opinion_steering: Acme",
        True,
        len(pack.items),
    )
    assert made["items"][0]["prompt"] == "What is your opinion of Acme?"
    assert client.get(f"/v1/probes/{made['id']}").json() == made
    (listed,) = client.get("/v1/probes").json()["data"]
    assert listed["pack"] == made["pack"]
    assert client.delete(f"/v1/probes/{made['id']}").status_code == 204


def test_a_pack_without_parameters_and_with_a_name(client: TestClient) -> None:
    made = client.post("/v1/probes", json={"pack": "refusal", "name": "no's"}).json()
    assert (made["name"], made["pack"]["parameters"]) == ("no's", {})


@pytest.mark.parametrize(
    ("body", "code", "pointers"),
    [
        ({"pack": "nope"}, "probe_pack_not_found", ["#/pack"]),
        ({"pack": ""}, "invalid_request", ["#/pack"]),
        ({"pack": None}, "invalid_request", ["#/pack"]),
        ({"pack": "opinion_steering"}, "invalid_request", ["#/parameters/entity"]),
        ({"pack": "opinion_steering", "parameters": {}}, "invalid_request", ["#/parameters/entity"]),
        ({"pack": "opinion_steering", "parameters": {"entity": ""}}, "invalid_request", ["#/parameters/entity"]),
        ({"pack": "opinion_steering", "parameters": {"entity": " A"}}, "invalid_request", ["#/parameters/entity"]),
        ({"pack": "opinion_steering", "parameters": {"entity": "A\nB"}}, "invalid_request", ["#/parameters/entity"]),
        ({"pack": "opinion_steering", "parameters": {"entity": "A\0"}}, "invalid_request", ["#/parameters/entity"]),
        ({"pack": "opinion_steering", "parameters": {"entity": "\u202eA"}}, "invalid_request", ["#/parameters/entity"]),
        ({"pack": "opinion_steering", "parameters": {"entity": "x" * 81}}, "invalid_request", ["#/parameters/entity"]),
        ({"pack": "opinion_steering", "parameters": {"entity": 7}}, "invalid_request", ["#/parameters/entity"]),
        (
            {"pack": "opinion_steering", "parameters": {"entity": "A", "a/b": "c"}},
            "invalid_request",
            ["#/parameters/a~1b"],
        ),
        ({"pack": "refusal", "parameters": ENTITY}, "invalid_request", ["#/parameters/entity"]),
        ({"pack": "refusal", "items": []}, "invalid_request", ["#/items"]),
        ({"name": "x"}, "invalid_request", ["#/items"]),
        ({}, "invalid_request", ["#/name", "#/items"]),
        ([], "invalid_request", ["#"]),
    ],
)
def test_what_makes_no_probe(client: TestClient, body: Any, code: str, pointers: list[str]) -> None:
    response = client.post("/v1/probes", json=body)
    assert (response.status_code, response.json()["code"]) == (422, code), response.text
    assert [error["pointer"] for error in response.json()["errors"]] == pointers
    assert client.get("/v1/probes").json()["data"] == []
