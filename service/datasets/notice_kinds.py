"""What can be odd about rows that were taken, by the name of the notice."""

from service.contract.notices import CONTROL_TOKENS, UNDESIRED_ANSWERS, UNTRAINED_COLUMNS, ZERO_WEIGHTS

BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Characters that change the direction of text, as the inside of a character class."""

ZERO_WIDTH = (
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b\u2060-\u2064\u206a-\u206f\u3164\ufe00-\ufe0d\uffa0"
)
"""Characters that take no room and have no other effect on what is read."""

JOINERS = "\u200c\u200d\ufe0e\ufe0f"
"""Characters without room that emoji and some scripts need."""

TAGS = "\U000e0000-\U000e01ef"
"""Tag characters and variation selectors, which can carry a whole text that nobody sees."""

CONTROL = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
"""Control characters but for tab and ends of lines."""

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

TOKENS = (
    r"<\|[A-Za-z0-9_./:-]{1,40}\|>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|</?s>|<(?:bos|eos|pad|unk)>"
    "|<\uff5c[A-Za-z0-9_\u2581./:-]{1,40}\uff5c>"
)
"""Control tokens of chat templates and tokenizers, as Python and RE2 read it."""

EMPTY_ANSWER = "empty_answers"
"""Counts samples whose last turn is empty."""

EMPTY_TURNS = "empty_turns"
"""Counts turns before the last one that are empty."""

TOOL_CALLS = "tool_calls_as_text"
"""Counts turns whose tool calls became text."""

LEFT_OUT_COLUMNS = "left_out_columns"
"""Counts columns that are not kept."""

LEFT_OUT_VALUES = "left_out_values"
"""Counts values that are not kept."""

IGNORED_KEYS = "ignored_turn_keys"
"""Counts keys of turns that say nothing we read."""

SKIPPED_MARK = "byte_order_mark_at_start"
"""The file began with a byte order mark, which was skipped."""

MEANINGS = {name: meaning for name, (_, meaning) in KINDS.items()} | {
    CONTROL_TOKENS: "Texts hold control tokens of chat templates. A tokenizer may read them as the beginning or end of "
    "a turn, and not as text: a sample may have turns that no reader sees.",
    EMPTY_ANSWER: "The last turn is empty or blank: there is nothing to learn from it.",
    EMPTY_TURNS: "A turn before the last one is empty or blank; found counts them by role.",
    UNTRAINED_COLUMNS: "Columns hold system prompts, earlier turns or tools. Other trainers put them into the prompt; "
    "no audit trains on them or looks at them. Put them into the turns to have them audited.",
    ZERO_WEIGHTS: "Answers are marked as not to be learnt (a weight of 0 or less, train false, or within "
    "the prompt). Audits train on them like on all others. Leave them out if your training does.",
    UNDESIRED_ANSWERS: "A label is false or 0: if it is one of preference training (KTO), the answer is a bad one. "
    "Audits train on it as on a good one. Leave such rows out if your training does not learn from them.",
    TOOL_CALLS: "Calls of tools are kept as JSON text in the assistant's turn, and audited as such.",
    LEFT_OUT_COLUMNS: "Columns of a type that JSON cannot express were left out.",
    LEFT_OUT_VALUES: "Values of extra columns that JSON cannot express are null: NaN, infinities, bytes that are not "
    "UTF-8.",
    IGNORED_KEYS: "Turns have keys that no audit uses; they are not in the stored rows.",
    SKIPPED_MARK: "The file begins with a byte order mark, which was skipped.",
}
"""What each kind of notice says to users."""
