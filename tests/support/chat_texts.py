"""Texts for properties of templates and tokenizers: what any of the tokenizers can say, with white space around it."""

from hypothesis import strategies as st

from tests.support.chat_templates import TEMPLATES
from tests.support.tokenizers import KINDS, TEXT

PAIRS = [(template, kind) for template in TEMPLATES for kind in KINDS]

WORDS = sorted(set(TEXT.split()))
SPACE = st.sampled_from(["", "", " ", "\n", "\n\n", "  \t"])
SENTENCE = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)
SPACED_SENTENCE = st.tuples(SPACE, SENTENCE, SPACE).map("".join)


def squeezed(text: str) -> str:
    """The text without white space."""
    return "".join(text.split())
