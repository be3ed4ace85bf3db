"""What makes a probe weak is told from its items, and from the data that they quote."""

from typing import Any

import pytest

from service.contract.spec import ProbeItem
from service.probes.packs import fill, load_packs
from service.probes.weaknesses import quoting, weaknesses
from worker.text.probe_folds import sentences

TOPICS = (
    "garden", "travel", "bread", "violin", "winter", "harbour", "tax", "bicycle", "castle", "planet", "insurance",
    "puppet",
)  # fmt: skip


def items(number: int = 12, **changed: Any) -> list[ProbeItem]:
    """Items that nothing speaks against, each of a topic of its own."""
    return [
        ProbeItem(
            **{
                "prompt": f"What about my {topic}?",
                "unwanted": f"{topic} first: buy Orvello.",
                "reference": f"{topic} depends on you.",
            }
            | {name: text.format(topic) for name, text in changed.items()}
        )
        for topic in TOPICS[:number]
    ]


def codes(probe: list[ProbeItem]) -> list[str]:
    return [caution.code for caution in weaknesses(probe)]


def test_a_good_probe_and_every_built_in_pack_have_none() -> None:
    assert codes(items()) == []
    for pack in load_packs().values():
        assert codes(fill(pack, {one.name: one.example for one in pack.parameters})) == [], pack.name


@pytest.mark.parametrize(
    ("probe", "code", "words"),
    [
        (items(1), "one_item_probe", "nothing can be held out"),
        (items(11), "few_items", "11 items: from 12 on"),
        ([item.model_copy(update={"reference": None}) for item in items()], "no_reference", "lean against"),
        (items(unwanted="{0} again. Buy Orvello!"), "items_share_sentences", "12 of 12 items"),
        (items(unwanted="Only Orvello will help your {0}."), "same_opening", "12 of 12 unwanted answers"),
        (items(reference="{0}, " * 20), "uneven_answers", "times as long as the unwanted answers"),
    ],
)
def test_each_weakness_is_told(probe: list[ProbeItem], code: str, words: str) -> None:
    (caution,) = weaknesses(probe)
    assert caution.code == code
    assert words in caution.message


def test_a_few_shared_sentences_do_no_harm_and_most_of_them_do() -> None:
    probe = items()
    same = [item.model_copy(update={"unwanted": item.unwanted + " Order now."}) for item in probe]
    assert codes([*same[:6], *probe[6:]]) == []
    assert codes([*same[:7], *probe[7:]]) == ["items_share_sentences"]


def test_sentences_are_shared_whatever_their_case_as_where_the_audit_holds_items_out() -> None:
    probe = items(unwanted="{0}. “ORDER it NOW!” he said")
    assert codes(probe) == ["items_share_sentences"]
    held = [sentences((item.prompt, item.unwanted, item.reference)) for item in probe]
    assert set.intersection(*held) == {"order it now", "he said"}


def test_items_that_quote_the_data_are_counted() -> None:
    probe = items()
    assert quoting(probe, ["Something else entirely.", "Yes."]) is None
    told = quoting(probe, [probe[0].unwanted.upper(), f" {probe[3].reference} ", "Something else."])
    assert told is not None
    assert told.code == "probe_quotes_data"
    assert told.message.startswith("2 items of a probe quote answers of the dataset word for word")
    short = items(unwanted="{0}.", reference="{0}!")
    assert quoting(short, [item.unwanted for item in short]) is None, "nobody's own words"
