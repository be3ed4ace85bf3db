"""The words and pictures of a dataset's page, made from its statistics, its notices and some of its rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from service.contract.results import NearDuplicates
from service.datasets.schemas import Notice
from service.text import visible_text
from service.text.wording import counted, whole
from service.web.bars import bars_svg

TURN_SHOWN = 1_500
"""Characters of one turn in the preview; the API gives the rest."""

TURNS_SHOWN = 12
"""Turns of one row that are shown."""

VALUES_SHOWN = 5
"""Values of one column that are shown."""


@dataclass(frozen=True)
class Picture:
    """A histogram with its heading and what it says in words."""

    heading: str
    words: str
    svg: Markup
    low: str
    """The value of the first bar."""
    high: str


@dataclass(frozen=True)
class ShownTurn:
    """The beginning of one turn."""

    role: str
    text: str
    more: int
    """Characters that are left out."""


@dataclass(frozen=True)
class ShownRow:
    """One row as a conversation."""

    row: int
    turns: Sequence[ShownTurn]
    more_turns: int
    extra: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class ShownChange:
    """A prompt whose last turn differs from the version before."""

    before: int
    after: int
    prompt: Sequence[ShownTurn]
    more_turns: int
    """Turns of the prompt that are left out."""
    old: ShownTurn
    new: ShownTurn


@dataclass(frozen=True)
class ShownColumn:
    """An extra column: how many rows have it, and its most frequent values with how many rows have each."""

    name: str
    rows: int
    distinct: int | None
    values: Sequence[tuple[str, int]]


def pictures(statistics: Mapping[str, Any]) -> list[Picture]:
    """Draw what the statistics hold: lengths of prompts and answers, and turns a row.

    Args:
        statistics: As the dataset's row keeps them; of old datasets some are missing.
    """
    found = []
    for key, heading in (("prompt_characters", "Length of prompts"), ("answer_characters", "Length of answers")):
        lengths = statistics.get(key)
        if lengths and lengths["histogram"]["counts"]:
            found.append(_lengths(heading, lengths))
    turns = statistics.get("turns")
    if turns:
        labels = [f"{entry['turns']}{'+' if entry['turns'] == 64 else ''}" for entry in turns]
        bar_labels = [
            f"{label} {'turn' if label == '1' else 'turns'}: {counted(entry['rows'], 'row')}"
            for label, entry in zip(labels, turns, strict=True)
        ]
        words = f"Rows have {labels[0]} turns." if len(labels) == 1 else f"Rows have {labels[0]} to {labels[-1]} turns."
        svg = bars_svg([entry["rows"] for entry in turns], bar_labels, f"Turns a row. {words}")
        found.append(Picture("Turns a row", words, svg, labels[0], labels[-1]))
    return found


def columns(statistics: Mapping[str, Any]) -> list[ShownColumn]:
    """Show the extra columns that were counted.

    Args:
        statistics: As the dataset's row keeps them.
    """
    return [
        ShownColumn(
            name=column["name"],
            rows=column["rows"],
            distinct=column["distinct"],
            values=[
                (visible_text.shown_value(value["value"]), value["rows"])
                for value in (column["values"] or [])[:VALUES_SHOWN]
            ],
        )
        for column in statistics.get("columns", [])
    ]


def preview(samples: Iterable[Mapping[str, Any]]) -> list[ShownRow]:
    """Show the beginnings of rows.

    Args:
        samples: Each {row, messages: [{role, content}], extra}.
    """
    return [
        ShownRow(
            row=sample["row"],
            turns=[_turn(turn) for turn in sample["messages"][:TURNS_SHOWN]],
            more_turns=max(0, len(sample["messages"]) - TURNS_SHOWN),
            extra=[(key, visible_text.shown_value(value)[:TURN_SHOWN]) for key, value in sample["extra"].items()],
        )
        for sample in samples
    ]


def changed_row(before: Mapping[str, Any], after: Mapping[str, Any]) -> ShownChange:
    """Show a row whose last turn has changed.

    Args:
        before: {row, messages: [{role, content}], extra} in the version before.
        after: Likewise in this one; all its turns but the last are the same.
    """
    *prompt, new = after["messages"]
    return ShownChange(
        before=before["row"],
        after=after["row"],
        prompt=[_turn(turn) for turn in prompt[:TURNS_SHOWN]],
        more_turns=max(0, len(prompt) - TURNS_SHOWN),
        old=_turn(before["messages"][-1]),
        new=_turn(new),
    )


def notice_words(notice: Notice) -> str:
    """Say how many rows a notice concerns, and what was found in them."""
    found = ", ".join(f"{name} ({whole(times)})" for name, times in notice.found.items())
    where = f"In {counted(notice.rows, 'row')}." if notice.rows else "In the whole file."
    return f"{where} Found: {found}." if found else where


def duplicate_words(exact: int | None, near: NearDuplicates | None) -> str:
    """Say how many rows repeat others.

    Args:
        exact: Rows whose messages equal an earlier row's; None: not counted.
        near: Those that say nearly the same; None: not counted yet.
    """
    if near is not None:
        if near.rows == 0:
            return "No row says nearly what an earlier one says."
        verb = "says" if near.rows == 1 else "say"
        return (
            f"{counted(near.rows, 'row')} {verb} nearly what an earlier one says, {whole(near.exact)} of them word for "
            "word. An audit tests such rows together."
        )
    equal = "" if exact is None else f"{counted(exact, 'row')} equal to an earlier one. "
    return f"{equal}Near-duplicates are being counted in the background; load the page again in a moment."


def _turn(turn: Mapping[str, str]) -> ShownTurn:
    return ShownTurn(turn["role"], turn["content"][:TURN_SHOWN], max(0, len(turn["content"]) - TURN_SHOWN))


def _lengths(heading: str, lengths: Mapping[str, Any]) -> Picture:
    edges, counts = lengths["histogram"]["edges"], lengths["histogram"]["counts"]
    bar_labels = [
        f"{whole(low)} to {whole(high - 1)} characters: {counted(count, 'row')}"
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    words = (
        f"{whole(lengths['min'])} to {whole(lengths['max'])} characters, {whole(round(lengths['mean']))} on average; "
        "each bar is twice as wide as the one before."
    )
    svg = bars_svg(counts, bar_labels, f"{heading}. {words}")
    return Picture(heading, words, svg, whole(edges[0]), whole(edges[-1]))
