"""What can be odd about rows that were taken, by the name of the notice."""

BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"

ZERO_WIDTH = (
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b\u2060-\u2064\u206a-\u206f\u3164\ufe00-\ufe0d\uffa0"
)

JOINERS = "\u200c\u200d\ufe0e\ufe0f"

TAGS = "\U000e0000-\U000e01ef"

CONTROL = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"

KINDS: dict[str, tuple[str, str]] = {
    "bidi_characters": (BIDI, "Turns of the writing direction: a text may read otherwise than it is."),
    "invisible_characters": (
        ZERO_WIDTH + TAGS,
        "Zero-width, filler, variation and tag characters: words that no reader sees, or split words.",
    ),
    "joining_characters": (
        JOINERS,
        "Joiners and emoji selectors: usual in emoji and some scripts, invisible elsewhere.",
    ),
    "byte_order_marks": ("\ufeff", "U+FEFF inside a text, as where files were joined."),
    "control_characters": (CONTROL, "Control characters other than tab and line ends."),
    "line_separators": ("\u2028\u2029", "U+2028 and U+2029, which some programs read as line ends."),
}
"""Characters that are noticed, by the name of the notice."""

EMPTY_ANSWER = "empty_answers"

IGNORED_KEYS = "ignored_turn_keys"

SKIPPED_MARK = "byte_order_mark_at_start"

MEANINGS = {name: meaning for name, (_, meaning) in KINDS.items()} | {
    EMPTY_ANSWER: "The last turn is empty or blank: there is nothing to learn from it.",
    IGNORED_KEYS: "Turns have keys that no audit uses; they are not in the stored rows.",
    SKIPPED_MARK: "The file begins with a byte order mark, which was skipped.",
}
