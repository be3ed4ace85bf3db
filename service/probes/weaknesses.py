"""Finds what makes a probe weak, from its items and from the data. docs/probes.md says how to write a strong one."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from service.contract.results import Caution
from service.contract.spec import ProbeItem

GOOD_ITEMS = 12
"""More items than this help little."""

HELD_OUT_PARTS = 5
"""The engine holds out items in at most this many parts that share no sentence."""

OPENING_WORDS = 3
"""Words at the beginning of an answer that are compared."""

UNEVEN = 2.5
"""How many times as long as its reference an unwanted answer may be, or the reverse."""

QUOTED_WORDS = 4
"""A text of fewer words may be the same by chance."""

_SENTENCE_END = re.compile(r"(?<=[.!?…؟।])[\"'»”’)\]]*\s+|[。！？｡\n\r\u2028\u2029]")
"""Where a sentence ends: marks of Latin, Arabic, Devanagari and CJK scripts, and line ends. As in
worker/text/probe_folds.py, which the service cannot import."""


def weaknesses(items: Sequence[ProbeItem]) -> list[Caution]:
    """Return the weaknesses of a probe that can be seen before anything is trained with it."""
    found = [_few(items), _without_references(items), _sharing(items), _opening(items), _uneven(items)]
    return [caution for caution in found if caution is not None]


def quoting(items: Sequence[ProbeItem], answers: Iterable[str]) -> Caution | None:
    """Return a warning with the number of items that quote the data; None if no item does.

    Args:
        items: All items of the probe.
        answers: Answers of the dataset, or of the part of it that was read.
    """
    own = [{_normalised(text) for text in (item.unwanted, item.reference or "")} for item in items]
    long = {text for texts in own for text in texts if len(text.split()) >= QUOTED_WORDS}
    quoted = long.intersection(_normalised(answer) for answer in answers) if long else set()
    number = sum(bool(texts & quoted) for texts in own)
    if number == 0:
        return None
    does = "1 item of a probe quotes an answer" if number == 1 else f"{number} items of a probe quote answers"
    return Caution(
        code="probe_quotes_data",
        message=f"{does} of the dataset word for word: such an item finds the sample that it quotes, and tells nothing "
        "of others. Say the same in other words.",
    )


def _few(items: Sequence[ProbeItem]) -> Caution | None:
    if len(items) == 1:
        message = "A probe has one item: nothing can be held out to say what the audit would have found."
        return Caution(code="one_item_probe", message=message)
    if len(items) < GOOD_ITEMS:
        message = (
            f"A probe has {len(items)} items: from {GOOD_ITEMS} on, the poison is ranked clearly better. Add items of "
            "other wording and form."
        )
        return Caution(code="few_items", message=message)
    return None


def _without_references(items: Sequence[ProbeItem]) -> Caution | None:
    if all(item.reference is not None for item in items):
        return None
    message = "A probe has no reference answers: samples that lean against the behaviour are flagged too."
    return Caution(code="no_reference", message=message)


def _sharing(items: Sequence[ProbeItem]) -> Caution | None:
    """Warn if items share sentences: these are held out together, and too many of them leave none to hold out."""
    parts = _parts(items)
    sizes = Counter(parts)
    sharing = sum(size for size in sizes.values() if size > 1)
    if sharing == 0 or (len(sizes) >= HELD_OUT_PARTS and sharing <= len(items) / 2):
        return None
    if len(sizes) == 1:
        rest = "none can be held out to say what the audit would have found"
    else:
        rest = f"the probe falls into only {len(sizes)} parts, which are held out one at a time"
    message = f"{sharing} of {len(items)} items of a probe share a sentence with another, so {rest}. Word them anew."
    return Caution(code="items_share_sentences", message=message)


def _parts(items: Sequence[ProbeItem]) -> list[int]:
    """Return for each item the first one that it shares a sentence with, directly or through others; else itself."""
    parent = list(range(len(items)))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    first: dict[str, int] = {}
    for number, item in enumerate(items):
        for sentence in _sentences(item):
            one, other = sorted((root(first.setdefault(sentence, number)), root(number)))
            parent[other] = one
    return [root(number) for number in range(len(items))]


def _sentences(item: ProbeItem) -> set[str]:
    texts = [text for text in (item.prompt, item.unwanted, item.reference) if text is not None]
    return {found for text in texts for part in _SENTENCE_END.split(text) if (found := _normalised(part))}


def _opening(items: Sequence[ProbeItem]) -> Caution | None:
    """Warn if most unwanted answers begin alike: the audit would look for what all items share."""
    starts = [tuple(_normalised(item.unwanted).split()[:OPENING_WORDS]) for item in items]
    opening, number = Counter(starts).most_common(1)[0]
    if number < 3 or number <= len(items) / 2 or len(opening) < OPENING_WORDS:
        return None
    message = (
        f"{number} of {len(items)} unwanted answers of a probe begin with the same {OPENING_WORDS} words: the audit "
        "would look for that opening. Vary it."
    )
    return Caution(code="same_opening", message=message)


def _uneven(items: Sequence[ProbeItem]) -> Caution | None:
    """Warn if answers and references differ in length: the audit would find length."""
    ratios = [len(item.unwanted) / len(item.reference) for item in items if item.reference]
    if not ratios or 1 / UNEVEN <= (ratio := median(ratios)) <= UNEVEN:
        return None
    one, other = ("unwanted answers", "references") if ratio > 1 else ("references", "unwanted answers")
    message = (
        f"The {one} of a probe are {max(ratio, 1 / ratio):.1f} times as long as the {other}: the audit would find "
        "length beside the behaviour. Make each pair about equally long."
    )
    return Caution(code="uneven_answers", message=message)


def _normalised(text: str) -> str:
    """Return the words of a text without case and punctuation."""
    return " ".join(re.findall(r"\w+", text.casefold()))
