"""Conversations as one string, and where in it the turns that have loss and the other contents stand.

A chat template is a program of the model's: it may strip a content, drop the thinking of earlier answers, merge turns
or refuse them. So it is not asked for the beginnings of a conversation. It renders the whole as it is, and again with
numbered marks inside the contents; without its marks the second text has to be the first, and the marks say where the
contents have gone. Both take time in proportion to the conversation.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice, takewhile
from typing import Any

from jinja2.exceptions import TemplateSyntaxError

from service.contract.failure import ErrorCode
from service.contract.spec import AuditTurns
from worker.training.errors import TrainingError

Messages = Sequence[Mapping[str, str]]

_TAG = re.compile(r"</?[\w:|.-]+>|\[/?[A-Z_]+\]")

_MARK_CHARACTERS = (*range(0xFDD0, 0xFDF0), *range(0xE000, 0xF900))
"""Noncharacters of Unicode, then its private use area: no template takes them for space or for letters."""

NO_TEMPLATE = "use a model whose chat template is sound, or a base model without a chat template"
"""What to do where a model's chat template cannot be used."""


class RefusedRowError(Exception):
    """A conversation that cannot be made into labelled tokens. Its message is the reason, without the row's text."""


@dataclass(frozen=True)
class TrainedTurn:
    """The place of a turn that has loss in the rendered text, in characters."""

    message: int
    """Which of the conversation's turns it is, from 0."""
    start: int
    content_end: int
    end: int
    """End of an answer's end-of-turn mark, which begins at content_end. Other turns have loss on their content alone.
    """


@dataclass(frozen=True)
class Rendering:
    """A conversation as one string, up to the end of its last answer."""

    text: str
    trained: tuple[TrainedTurn, ...]
    """In the order of the text; none overlaps another."""
    contents: tuple[tuple[int, int], ...]
    """Start and end of every stretch that comes from a turn's content, in the order of the text."""


def render(messages: Messages, tokenizer: Any, turns: AuditTurns = "assistant") -> Rendering:
    """Render a conversation up to its last answer; what follows that has no answer and is left out.

    Args:
        messages: The turns, each with a role and a content.
        tokenizer: Its chat template is used. A base model without one gets a plain form (docs/statistics.md).
        turns: Which have loss: the answers, or all that hold more than white space.

    Returns:
        The text. Answers stand as the template renders them: where it strips one or drops an answer's thinking, the
        rest is the answer; of another turn that has loss nothing but outer white space may be missing. Nothing that
        the template puts before a turn is part of it.

    Raises:
        RefusedRowError: The template does not take this conversation, or leaves out, repeats or changes a turn that has
            loss.
        TrainingError: The template takes no conversation.
    """
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        return Rendering("", (), ())
    kept = messages[: answers[-1] + 1]
    trained = frozenset(
        number
        for number, message in enumerate(kept)
        if message["role"] == "assistant" or (turns == "all" and message["content"].strip())
    )
    make = _templated if getattr(tokenizer, "chat_template", None) else _plain
    return make(kept, tokenizer, trained)


def _plain(messages: Messages, tokenizer: Any, trained: frozenset[int]) -> Rendering:
    parts, length = [tokenizer.bos_token or ""], len(tokenizer.bos_token or "")
    found, contents = [], []
    for number, message in enumerate(messages):
        head, content = f"{message['role'].capitalize()}: ", message["content"]
        tail = (tokenizer.eos_token or "") if message["role"] == "assistant" else ""
        start = length + len(head)
        end = start + len(content)
        contents.append((start, end))
        if number in trained:
            found.append(TrainedTurn(number, start, end, end + len(tail)))
        parts += [head, content, tail, "\n\n"]
        length = end + len(tail) + 2
    return Rendering("".join(parts)[: found[-1].end], tuple(found), tuple(contents))


# ------------------------------------------------------------ by template


@dataclass(frozen=True)
class _Mark:
    message: int
    offset: int
    """Characters of the message's content before the mark."""
    closes: bool


@dataclass(frozen=True)
class _Span:
    message: int
    offset: int
    """Characters of the message's content before what the span shows."""
    start: int
    end: int
    next_start: int
    """Where the next content's first mark stands; the text's end for the last."""


def _templated(messages: Messages, tokenizer: Any, trained: frozenset[int]) -> Rendering:
    tags = _tags(_source(tokenizer))
    text = _apply(messages, tokenizer)
    spans = _located(messages, tokenizer, tags, text, trained)
    final = len(messages) - 1
    answers = {number for number in trained if messages[number]["role"] == "assistant"}
    every, one = ("answer", "an answer") if len(answers) == len(trained) else ("turn", "a turn")
    own = {span.message: span for span in spans if span.message in trained}
    if len(own) < len(trained) or sum(span.message in trained for span in spans) > len(trained):
        raise RefusedRowError(f"the model's chat template does not render every {every} once")
    bounds = {}
    space = _kept_space(messages, tokenizer, tags, text, spans, trained)
    for number, span in own.items():
        content = messages[number]["content"]
        start = _with_tags(text, span, content, tags)
        # Of an answer a template may drop the thinking; another turn it shows whole.
        shown = (text[span.start : span.end], content[span.offset :])
        if number not in answers:
            shown = (text[start : span.end], content)
        if _squeezed(shown[0]) != _squeezed(shown[1]):
            raise RefusedRowError(f"the model's chat template changes the text of {one}")
        before, after = space.get(number, (0, 0))
        bounds[number] = start - before, span.end + after
    # How the last answer ends, the others do as well, as far as the text goes on in the same way there.
    mark = text[bounds[final][1] :]
    found = []
    for number, (start, end) in bounds.items():
        between = text[end : min(own[number].next_start, end + len(mark))]
        found.append(TrainedTurn(number, start, end, end + (_common(mark, between) if number in answers else 0)))
    contents = [bounds.get(span.message, (span.start, span.end)) for span in spans]
    return Rendering(text, _apart(found), tuple(sorted(contents)))


def _apart(turns: Iterable[TrainedTurn]) -> tuple[TrainedTurn, ...]:
    """In the order of the text. White space that two turns claim, one behind the other, is the first one's."""
    found: list[TrainedTurn] = []
    for turn in sorted(turns, key=lambda turn: turn.start):
        start = max(turn.start, found[-1].end) if found else turn.start
        found.append(replace(turn, start=start, content_end=max(start, turn.content_end), end=max(start, turn.end)))
    return tuple(found)


def _apply(messages: Messages, tokenizer: Any) -> str:
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False))
    except TemplateSyntaxError as error:
        raise TrainingError(
            ErrorCode.BAD_CONFIG,
            f"The model's chat template is not valid Jinja: line {error.lineno} cannot be parsed.",
            f"Mend the template in the model's folder, {NO_TEMPLATE}.",
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # A template can raise anything that Python can.
        # Its message may quote the sample, unless it stands in the template word for word.
        told = str(error) if str(error) and str(error) in _source(tokenizer) else type(error).__name__
        raise RefusedRowError(f"the model's chat template refuses the conversation ({told})") from error


def _source(tokenizer: Any) -> str:
    template = tokenizer.chat_template
    return template if isinstance(template, str) else "\n".join(template.values())


@lru_cache(maxsize=4)
def _tags(source: str) -> tuple[str, ...]:
    """What looks like a tag in a template: contents may be cut there, `</think>` above all."""
    return tuple(sorted(set(_TAG.findall(source))))


def _located(
    messages: Messages, tokenizer: Any, tags: Sequence[str], expected: str, trained: frozenset[int]
) -> list[_Span]:
    """Where the contents stand in the rendering, in its order. Raises RefusedRowError where that is not `expected`."""
    marks, marked, (left, right) = _marked(messages, tags, trained)
    pieces = re.split(f"{left}([0-9]+){right}", _apply(marked, tokenizer))
    if "".join(pieces[::2]) != expected:
        raise RefusedRowError("the model's chat template changes with the text, so that turns cannot be located")
    position = 0
    opened: dict[int, tuple[int, int]] = {}
    found: list[tuple[int, int, int, int]] = []
    for piece, number in zip(pieces[:-1:2], pieces[1::2], strict=True):
        position += len(piece)
        mark = marks[int(number)]
        start, offset = opened.setdefault(mark.message, (position, mark.offset))
        if mark.closes:
            found.append((mark.message, offset, start, position))
            del opened[mark.message]
    if opened:
        raise RefusedRowError("the model's chat template cuts off the end of a turn")
    starts = [start for _, _, start, _ in found[1:]] + [len(expected)]
    return [_Span(*own, next_start) for own, next_start in zip(found, starts, strict=True)]


def _marked(
    messages: Messages, tags: Sequence[str], trained: frozenset[int]
) -> tuple[list[_Mark], list[dict[str, str]], tuple[str, str]]:
    """The marks by number, the messages with them, and the two characters that enclose a number."""
    used = set().union(*(message["content"] for message in messages))
    free = tuple(islice((chr(code) for code in _MARK_CHARACTERS if chr(code) not in used), 2))
    if len(free) < 2:
        raise RefusedRowError("it holds every character for private use, so that turns cannot be located")
    left, right = free
    run = re.compile(rf"(?:(?:{'|'.join(map(re.escape, tags))})\s*)+") if tags else None
    marks: list[_Mark] = []
    marked = []
    for number, message in enumerate(messages):
        parts, position = [], 0
        needed = number in trained
        for offset, closes in _places(message["content"], run if needed else None, needed=needed):
            parts += [message["content"][position:offset], f"{left}{len(marks)}{right}"]
            marks.append(_Mark(number, offset, closes))
            position = offset
        marked.append({**message, "content": "".join(parts) + message["content"][position:]})
    return marks, marked, (left, right)


def _places(content: str, run: re.Pattern[str] | None, *, needed: bool) -> Iterator[tuple[int, bool]]:
    """Offsets of a content's marks, and whether it is the last.

    They stand within its outer white space, so that a template strips it as before, and behind its tags, so that it
    finds them as before. Without any text there is a mark only if it is `needed`.
    """
    end = len(content.rstrip())
    if not end and not needed:
        return
    begin = len(content) - len(content.lstrip()) if end else 0
    cuts = [(found.start(), min(found.end(), end)) for found in run.finditer(content)] if run else []
    if not cuts or cuts[0][0] > begin:
        yield begin, False
    for _, cut in cuts:
        yield cut, False
    yield end, True


def _with_tags(text: str, span: _Span, content: str, tags: Sequence[str]) -> int:
    """The turn's start, before the tags that it begins with if the rendering has them too."""
    start, offset = span.start, span.offset
    while True:
        in_text, in_content = _before_space(text, start), _before_space(content, offset)
        tag = next((tag for tag in tags if content.endswith(tag, 0, in_content)), None)
        if tag is None or not text.endswith(tag, 0, in_text):
            return start
        start, offset = in_text - len(tag), in_content - len(tag)


def _kept_space(
    messages: Messages, tokenizer: Any, tags: Sequence[str], text: str, spans: Sequence[_Span], trained: frozenset[int]
) -> dict[int, tuple[int, int]]:
    """How much of each trained turn's outer white space is in the text, before and after it.

    Told by a rendering without it: around a turn there is that much less white space then.
    """

    def outer(message: Mapping[str, str]) -> tuple[int, int]:
        content = message["content"]
        within = content.strip()
        leading = len(content) - len(content.lstrip()) if within else 0
        return leading, len(content) - leading - len(within)

    own = {number: outer(messages[number]) for number in trained}
    if not any(map(any, own.values())):
        return {}
    stripped = [
        {**message, "content": message["content"].strip()} if number in own else message
        for number, message in enumerate(messages)
    ]
    bare = _apply(stripped, tokenizer)
    kept = {}
    for span, without in zip(spans, _located(stripped, tokenizer, tags, bare, trained), strict=True):
        if span.message in own:
            leading, trailing = own[span.message]
            before = (span.start - _before_space(text, span.start)) - (
                without.start - _before_space(bare, without.start)
            )
            after = _after_space(text, span.end) - span.end - (_after_space(bare, without.end) - without.end)
            kept[span.message] = max(0, min(before, leading)), max(0, min(after, trailing))
    return kept


def _before_space(text: str, position: int) -> int:
    while position and text[position - 1].isspace():
        position -= 1
    return position


def _after_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _common(one: str, other: str) -> int:
    """Length of the beginning that both share."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _squeezed(text: str) -> str:
    return "".join(text.split())
