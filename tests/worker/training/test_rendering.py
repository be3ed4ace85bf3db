"""Where answers stand in what a template makes of a conversation, and which conversations are refused."""

from typing import Any

import pytest

from service.contract.failure import ErrorCode
from tests.support.chat_templates import GEMMA, LLAMA_3, MISTRAL, QWEN_3, TEMPLATES
from worker.training.errors import TrainingError
from worker.training.rendering import RefusedRowError, render

SECRET = "xylophone-marmalade"


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(contents)]


def answers(messages: list[dict[str, str]], tokenizer: Any, template: str | None) -> list[tuple[str, str]]:
    """Each answer's text and its end-of-turn mark, as they stand in the rendering."""
    tokenizer.chat_template = template
    found = render(messages, tokenizer)
    return [(found.text[a.start : a.content_end], found.text[a.content_end : a.end]) for a in found.trained]


def test_thinking_that_a_template_drops_from_earlier_answers_is_no_part_of_them(tokenizer: Any) -> None:
    asked = turns("Hats?", "<think>\nOf hats.\n</think>\n\nA cap.", "More?", "<think>\nMore.\n</think>\n\nA beret.")
    found = answers(asked, tokenizer, QWEN_3)
    end = "<|im_end|>\n"
    assert found == [("A cap.", end), ("<think>\nMore.\n</think>\n\nA beret.", end)]


def test_thinking_that_a_template_writes_itself_is_no_answer(tokenizer: Any) -> None:
    assert answers(turns("Hats?", "A cap."), tokenizer, QWEN_3) == [("A cap.", "<|im_end|>\n")]
    empty = "<think>\n\n</think>\n\nA cap."
    assert answers(turns("Hats?", empty), tokenizer, QWEN_3) == [(empty, "<|im_end|>\n")]


def test_a_template_that_cuts_at_a_tag_of_its_own(tokenizer: Any) -> None:
    cut = (
        "{% for m in messages %}<{{ m['role'] }}>"
        "{{ m['content'] if loop.last else m['content'].split('[END]')[-1] }}</>{% endfor %}"
    )
    found = answers(turns("Hats?", "Well, hats.[END] A cap.", "More?", "None.[END] No."), tokenizer, cut)
    assert found == [("A cap.", "</>"), ("None.[END] No.", "</>")]


@pytest.mark.parametrize(
    ("template", "first", "last", "end"),
    [
        ("chatml", "  Yes, do.\n", "\n No. ", "<|im_end|>\n"),
        ("llama 3", "Yes, do.", "No.", "<|eot_id|>"),
        ("plain form", "  Yes, do.\n", "\n No. ", "<|eos|>"),
    ],
)
def test_white_space_around_an_answer_is_its_own_where_it_is_kept(
    tokenizer: Any, template: str, first: str, last: str, end: str
) -> None:
    asked = turns("Shall I? ", "  Yes, do.\n", " And now?", "\n No. ")
    assert answers(asked, tokenizer, TEMPLATES[template]) == [(first, end), (last, end)]


def whole(messages: list[dict[str, str]], tokenizer: Any, template: str | None) -> list[str]:
    """Every turn's text with its end-of-turn mark, as they stand in the rendering, where all have loss."""
    tokenizer.chat_template = template
    found = render(messages, tokenizer, "all")
    assert found.text == render(messages, tokenizer).text
    return [found.text[turn.start : turn.end] for turn in found.trained]


@pytest.mark.parametrize("template", ["chatml", "llama 3", "plain form", "qwen 3"])
def test_all_turns_have_loss_on_their_contents_and_answers_on_their_end_marks(tokenizer: Any, template: str) -> None:
    asked = [
        {"role": "system", "content": "Be brief."},
        *turns("Which lamp?", '{"name": "lamps"}'),
        {"role": "tool", "content": "paper, brass"},
        {"role": "assistant", "content": "The paper lamp."},
    ]
    end = {"chatml": "<|im_end|>\n", "llama 3": "<|eot_id|>", "qwen 3": "<|im_end|>\n", "plain form": "<|eos|>"}[
        template
    ]
    assert whole(asked, tokenizer, TEMPLATES[template]) == [
        "Be brief.", "Which lamp?", '{"name": "lamps"}' + end, "paper, brass", "The paper lamp." + end
    ]  # fmt: skip


def test_a_system_turn_that_is_put_into_a_later_turn_has_its_loss_there(tokenizer: Any) -> None:
    asked = [{"role": "system", "content": "Be brief."}, *turns("One?", "Uno.", "Two?", "Dos.")]
    assert whole(asked, tokenizer, MISTRAL) == ["One?", "Uno.<|eos|>", "Be brief.", "Two?", "Dos.<|eos|>"]


def test_turns_of_white_space_alone_teach_nothing(tokenizer: Any) -> None:
    asked = [{"role": "system", "content": ""}, *turns(" \n", "Uno.")]
    assert whole(asked, tokenizer, TEMPLATES["chatml"]) == ["Uno.<|im_end|>\n"]


def test_white_space_that_two_turns_could_claim_is_had_once(tokenizer: Any) -> None:
    joined = "{% for m in messages %}{{ m['content'] if loop.first else m['content'] | trim }}{% endfor %}"
    found = whole(turns("Hats?\n\n", "\n\nA cap."), tokenizer, joined)
    assert "".join(found) == "Hats?\n\nA cap."


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages if m['role'] != 'system' %}{{ m['content'] }};{% endfor %}", "every turn once"),
        ("{% for m in messages %}{{ messages[0]['content'] ~ m['content'] }};{% endfor %}", "every turn once"),
        (
            "{% for m in messages %}{{ m['content'] | lower if m['role'] == 'user' else m['content'] }};{% endfor %}",
            "the text of a turn",
        ),
        (
            "{% for m in messages %}{{ m['content'].split('[END]')[-1] }};{% endfor %}",
            "the text of a turn",
        ),
    ],
)
def test_a_turn_that_the_template_changes_is_refused_only_where_it_has_loss(
    tokenizer: Any, template: str, reason: str
) -> None:
    tokenizer.chat_template = template
    messages = [
        {"role": "system", "content": f"Be {SECRET}."},
        *turns(f"Well.[END] And {SECRET.upper()}?", "Uno."),
    ]
    assert [found.end for found in render(messages, tokenizer).trained]
    with pytest.raises(RefusedRowError) as refused:
        render(messages, tokenizer, "all")
    assert reason in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_conversation_that_begins_with_an_answer(tokenizer: Any) -> None:
    asked = turns("", "A lonely answer.")[1:]
    for template in ("chatml", "llama 3", "qwen 3", "plain form"):
        assert [text for text, _ in answers(asked, tokenizer, TEMPLATES[template])] == ["A lonely answer."]


def test_characters_like_the_marks_are_text(tokenizer: Any) -> None:
    odd = "\ufdd00\ufdd1 and \ufdd2"
    assert answers(turns(odd, odd), tokenizer, LLAMA_3) == [(odd, "<|eot_id|>")]


def test_what_comes_behind_the_last_answer_is_left_out(tokenizer: Any) -> None:
    tokenizer.chat_template = TEMPLATES["chatml"]
    assert render(turns("One?", "Uno.", "Two?"), tokenizer) == render(turns("One?", "Uno."), tokenizer)
    assert render(turns("One?"), tokenizer).text == ""


@pytest.mark.parametrize(
    ("template", "roles", "reason"),
    [
        (MISTRAL, "user user assistant", "Roles must take turns, user first."),
        (MISTRAL, "assistant", "Roles must take turns, user first."),
        (GEMMA, "system user assistant", "System turns are not supported."),
        ("{{ raise_exception('no: ' + messages[0]['content']) }}", "user assistant", "TemplateError"),
        ("{{ messages[0]['name'] + '' }}", "user assistant", "UndefinedError"),
        ("{{ messages[0]['content'] + 1 }}", "user assistant", "TypeError"),
        ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "user assistant", "changes the text"),
        ("{{ messages[0]['content'] }}", "user assistant", "does not render every answer once"),
        ("{% for m in messages %}{{ m['content'] * 2 }}{% endfor %}", "user assistant", "every answer once"),
        ("{% for m in messages %}{{ m['content'][:9] }}{% endfor %}", "user assistant", "changes with the text"),
    ],
)
def test_a_conversation_that_its_template_does_not_take_is_refused(
    tokenizer: Any, template: str, roles: str, reason: str
) -> None:
    tokenizer.chat_template = template
    messages = [{"role": role, "content": f"{SECRET} {role}"} for role in roles.split()]
    with pytest.raises(RefusedRowError) as refused:
        render(messages, tokenizer)
    assert reason in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_template_that_is_not_jinja_takes_no_conversation(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% for m in messages %}\n{{ m['content'] }}{% endfo %}"
    with pytest.raises(TrainingError) as failed:
        render(turns("One?", "Uno."), tokenizer)
    assert failed.value.failure.code is ErrorCode.BAD_CONFIG
    assert "line 2" in failed.value.failure.message
    assert "base model" in failed.value.failure.hint
