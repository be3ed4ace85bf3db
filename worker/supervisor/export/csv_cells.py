"""Makes text harmless for CSV that a spreadsheet would take for a formula."""

import re

BLANKS = "[^\\S\\r\\n]|[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]"
"""What a spreadsheet may skip before a formula: white space, no-break space too, and invisible characters."""

_FORMULA = re.compile(f"(?:^|(?<=[\\r\\n]))(?=(?:{BLANKS})*[=+\\-@\uff1d\uff0b\uff0d\uff20])|^(?=[\\t\\r])")


def harmless(text: str) -> str:
    """Return the text with an apostrophe before each line that could be a formula.

    That is a line that begins, behind blanks, with = + - @ or their full-width forms, and a text that begins with a
    tab or carriage return (CWE-1236). A program that splits a cell at its line breaks then finds no formula either.
    """
    return _FORMULA.sub("'", text)
