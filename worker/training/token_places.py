"""Which characters of which message each token with loss stands for."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from service.contract.spec import AuditTurns
from worker.training.rendering import Messages, TrainedTurn
from worker.training.tokenization import CONTENT, read_conversation

UNKNOWN = -1
"""Stands for a place that is not in the content."""


@dataclass(frozen=True)
class Place:
    """A stretch of one message's content, in characters (Unicode code points)."""

    message: int
    """Counted from 0."""
    start: int
    end: int


def token_places(
    messages: Messages, tokenizer: Any, *, max_length: int, turns: AuditTurns = "assistant"
) -> list[Place | None]:
    """Find the characters of each token whose loss is measured, in the order of `Outputs.tokens`.

    Args:
        messages: The turns, each with a role and a content.
        tokenizer: The model's.
        max_length: In tokens; those behind have no loss.
        turns: Which turns have loss.

    Returns:
        One entry a token. None: it stands for nothing that the message holds, as the mark that ends an answer. Where a
        character takes several tokens, each has the whole of it.

    Raises:
        RefusedRowError, TrainingError: As `encode`, with which the arguments are shared.
    """
    read = read_conversation(messages, tokenizer, turns)
    found: list[Place | None] = []
    remaining = iter(read.rendering.trained)
    turn, characters = None, []
    for position, ((_, left, right), part) in enumerate(zip(read.tokens, read.parts, strict=True)):
        if not part:
            continue
        while turn is None or left >= turn.end:
            turn = next(remaining)
            characters = content_characters(read.rendering.text, turn, messages[turn.message]["content"])
        if not 0 < position < max_length:
            continue  # The first token is never predicted.
        own = characters[max(left - turn.start, 0) : right - turn.start] if part == CONTENT else []
        known = [character for character in own if character != UNKNOWN]
        found.append(Place(turn.message, min(known), max(known) + 1) if known else None)
    return found


def content_characters(text: str, turn: TrainedTurn, content: str) -> list[int]:
    """Find where each character of a rendered turn stands in the message's content; UNKNOWN for those of the template.

    A template may drop the beginning of an answer, its thinking, and change white space anywhere; everything else it
    leaves as it is, or the row would have been refused. So the visible characters are paired from the end, and white
    space is paired where it is the same on both sides.

    Args:
        text: The rendered conversation.
        turn: Where the turn stands in it.
        content: The message's content.
    """
    shown = text[turn.start : turn.content_end]
    places = [UNKNOWN] * len(shown)
    visible = [position for position, character in enumerate(shown) if not character.isspace()]
    own = [position for position, character in enumerate(content) if not character.isspace()]
    for here, there in zip(reversed(visible), reversed(own), strict=False):
        if shown[here] != content[there]:
            break
        places[here] = there
    _pair_spaces(shown, content, places)
    return places


def _pair_spaces(shown: str, content: str, places: list[int]) -> None:
    """Fill in the white space beside characters that are paired, where the content has the same there."""
    for space, run in groupby(range(len(shown)), key=lambda position: shown[position].isspace()):
        if not space:
            continue
        positions = list(run)
        first, last = positions[0], positions[-1]
        before = places[first - 1] if first else UNKNOWN
        after = places[last + 1] if last + 1 < len(shown) else UNKNOWN
        if before != UNKNOWN:
            start = before + 1
        elif after != UNKNOWN:
            start = after - len(positions)
        else:
            continue
        end = start + len(positions)
        if start >= 0 and content[start:end] == shown[first : last + 1] and after in (UNKNOWN, end):
            places[first : last + 1] = range(start, end)


def merged(places: Sequence[Place | None], values: Sequence[float]) -> tuple[list[tuple[Place, float]], float]:
    """Add up the values of tokens that share characters.

    Args:
        places: The place of each token, in the order of the text.
        values: One a token.

    Returns:
        Places that do not overlap, with their values, and the sum of the values without a place.
    """
    found: list[tuple[Place, float]] = []
    elsewhere = 0.0
    for place, value in zip(places, values, strict=True):
        if place is None:
            elsewhere += value
            continue
        last = found[-1][0] if found else None
        if last is not None and last.message == place.message and place.start < last.end:
            joined = Place(place.message, min(last.start, place.start), max(last.end, place.end))
            found[-1] = joined, found[-1][1] + value
        else:
            found.append((place, value))
    return found, elsewhere
