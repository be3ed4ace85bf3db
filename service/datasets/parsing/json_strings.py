"""Writing strings as JSON, many at once, byte for byte as orjson does."""

from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from service.datasets.parsing.columns import bytes_of, strings_of

_ESCAPES = {byte: orjson.dumps(chr(byte))[1:-1] for byte in (*range(32), *b'"\\')}


def special_bytes(text: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return where bytes are that a JSON string must escape."""
    return np.flatnonzero((text < 32) | (text == ord('"')) | (text == ord("\\")))


def escaped(strings: Any) -> Any:
    """Escape an Arrow array of strings without an offset, without adding the quotation marks."""
    bounds, text = bytes_of(strings)
    places = special_bytes(text)
    if not len(places):
        return strings
    found = text[places]
    written = text.tobytes()
    growth = np.zeros(256, np.int64)
    # The backslash comes first, since the other escapes bring in more of them.
    for byte in sorted(set(found.tolist()), key=lambda byte: byte != ord("\\")):
        written = written.replace(bytes([byte]), _ESCAPES[byte])
        growth[byte] = len(_ESCAPES[byte]) - 1
    grown = np.append(0, np.cumsum(growth[found]))
    return strings_of(bounds + grown[np.searchsorted(places, bounds)], written)


def unescaped_quotes(text: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return where strings begin and end in valid JSON, in turn."""
    quotes = np.flatnonzero(text == ord('"'))
    if not (text == ord("\\")).any():
        return quotes
    inside = np.zeros(len(quotes), bool)
    # A quotation mark behind an odd number of backslashes is part of its string. No text begins with a backslash.
    reached, behind = np.arange(len(quotes)), quotes - 1
    while len(reached := reached[backslash := text[behind] == ord("\\")]):
        inside[reached] ^= True
        behind = behind[backslash] - 1
    return quotes[~inside]


def json_of(values: Any) -> Any:
    """Write an Arrow array of null, boolean, int64, float64 or string as JSON texts; NaN and infinities become null."""
    kind = values.type
    if pa.types.is_null(kind):
        return pa.array(["null"] * len(values), pa.string())
    if pa.types.is_string(kind):
        texts = pc.binary_join_element_wise('"', escaped(values), '"', "")
        # Escaping drops the nulls, which have no bytes.
        return pc.if_else(values.is_valid(), texts, "null") if values.null_count else texts
    if pa.types.is_floating(kind):
        written = orjson.dumps(values.to_numpy(zero_copy_only=False), option=orjson.OPT_SERIALIZE_NUMPY)
        return pa.array(written[1:-1].split(b",") if len(values) else [], pa.string())
    texts = pc.if_else(values, "true", "false") if pa.types.is_boolean(kind) else pc.cast(values, pa.string())
    return pc.fill_null(texts, "null")
