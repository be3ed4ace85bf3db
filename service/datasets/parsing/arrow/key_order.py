"""Finding the keys of each line's object and their order, by walking from one key to the next in all lines at once.

Arrow's reader gives the values by key. It does not tell in which order the keys come, nor, for a null, whether it was
written or the key was missing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Field:
    """A key that lines may have, with what is known of its values."""

    key: bytes
    """The bytes between its quotation marks."""
    strings: NDArray[np.int64]
    """[lines]: how many JSON strings its value holds, keys of inner objects among them; 0 where there is none."""
    optional: NDArray[np.bool_] | None
    """[lines]: whether the key may be missing; None where no line may lack it."""


@dataclass(frozen=True, slots=True)
class Found:
    """The places where a key was found."""

    present: NDArray[np.bool_] | None
    """[lines]; None where all have it."""
    behind: NDArray[np.intp]
    """[lines that have it]: where in the text the key has ended, its quotation mark included."""


def walk(
    text: NDArray[np.uint8], quotes: NDArray[np.intp], starts: NDArray[np.int64], fields: list[Field]
) -> list[Found] | None:
    """Find where each key ends, if every line has exactly these keys in this order.

    The first string of an object is a key. Each value is known to hold a certain number of strings, so the next key is
    found behind it. A second key of the same name, or any other, would leave strings over.

    Args:
        text: [bytes] Lines, each a valid JSON object.
        quotes: Where its strings begin and end, in turn.
        starts: [lines] Where the lines begin.
        fields: The keys in their order.

    Returns:
        A place for each key; None if a line has other keys or another order.
    """
    bounds = np.append(np.searchsorted(quotes, starts), len(quotes))
    at = bounds[:-1]
    # A last line without further keys looks behind the last mark.
    marks = np.append(quotes, [len(text), len(text)])
    found = []
    for field in fields:
        here = np.minimum(at, len(quotes))
        begin, end = marks[here] + 1, marks[here + 1]
        matches = end - begin == len(field.key)
        if not matches.all():
            if field.optional is None:
                return None
            begin, end = begin[matches], end[matches]
        same = _equal(text, begin, field.key)
        if not same.all():
            matches[matches] = same
            end = end[same]
        present = None
        if len(end) < len(matches):
            if field.optional is None or not (matches | field.optional).all():
                return None
            present = matches
        found.append(Found(present, end + 1))
        at = at + matches * 2 * (1 + field.strings)
    return found if (at == bounds[1:]).all() else None


def _equal(text: NDArray[np.uint8], begin: NDArray[np.intp], key: bytes) -> NDArray[np.bool_]:
    """[places] Return whether the key is written there. `text` holds at least as many bytes behind each place."""
    if not key or not len(begin):
        return np.ones(len(begin), bool)
    windows = np.ndarray((len(text) - len(key) + 1,), f"V{len(key)}", text.data, strides=(1,))
    there = windows[begin].tobytes()
    if there == key * len(begin):
        return np.ones(len(begin), bool)
    letters = np.frombuffer(there, np.uint8).reshape(len(begin), len(key))
    same: NDArray[np.bool_] = (letters == np.frombuffer(key, np.uint8)).all(axis=1)
    return same
