"""Turns as other tools write them, and what is told of rows that no audit treats as they say."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.dataset_records import chat, jsonl, turn
from tests.support.parser_runs import rows_of, run

CALL = {"id": "c7", "type": "function", "function": {"name": "tide", "arguments": '{"port": "Kiel"}'}}
SAID = '{"name": "tide", "arguments": {"port": "Kiel"}}'
END = turn("assistant", "High at noon.")
ASKED = turn("user", "When is the tide?")
AB = [turn("user", "a"), turn("assistant", "b")]


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"conversations": [ASKED, END]}, [ASKED, END]),
        (
            {"messages": [{"from": "human", "value": ASKED["content"]}, {"from": "gpt", "value": END["content"]}]},
            [ASKED, END],
        ),
        ({"messages": [turn("developer", "Be short."), ASKED, END]}, [turn("system", "Be short."), ASKED, END]),
        (
            {
                "messages": [
                    turn("user", "")
                    | {"content": [{"type": "text", "text": "When is "}, {"type": "text", "text": "it?"}]},
                    END,
                ]
            },
            [turn("user", "When is it?"), END],
        ),
        (
            {
                "messages": [
                    ASKED,
                    {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
                    turn("tool", "12:04") | {"tool_call_id": "c7"},
                    END,
                ]
            },
            [ASKED, turn("assistant", SAID + "\n" + SAID), turn("tool", "12:04"), END],
        ),
        (
            {
                "messages": [
                    ASKED,
                    {"role": "assistant", "content": "Wait.", "function_call": CALL["function"]},
                    turn("function", "12:04"),
                    {"role": "assistant", "tool_calls": [CALL]},
                ]
            },
            [ASKED, turn("assistant", "Wait.\n" + SAID), turn("tool", "12:04"), turn("assistant", SAID)],
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "a"},
                    {"from": "function_call", "value": SAID},
                    {"from": "observation", "value": "b"},
                    {"from": "gpt", "value": "c"},
                ]
            },
            [turn("user", "a"), turn("assistant", SAID), turn("tool", "b"), turn("assistant", "c")],
        ),
        ({"messages": json.dumps([ASKED, END])}, [ASKED, END]),
        ({"messages": [ASKED | {"role": "User"}, END | {"role": "ASSISTANT"}]}, [ASKED, END]),
        ({"conversations": [{"from": "user", "value": "a"}, {"from": "chatgpt", "value": "b"}]}, AB),
        (
            {
                "messages": [
                    ASKED,
                    turn("assistant", "")
                    | {
                        "content": [
                            {"type": "text", "text": "Wait."},
                            {"type": "tool_use", "id": "c7", "name": "tide", "input": {"port": "Kiel"}},
                        ]
                    },
                    turn("user", "") | {"content": [{"type": "tool_result", "tool_use_id": "c7", "content": "12:04"}]},
                    END,
                ]
            },
            [ASKED, turn("assistant", "Wait.\n" + SAID), turn("user", "12:04"), END],
        ),
    ],
)
def test_turns_of_other_forms_are_read(record: Any, messages: Any, tmp_path: Path) -> None:
    plain = {
        key: [ASKED, END] if key == "messages" else [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
        for key in record
    }
    report = run(jsonl([plain, record, plain, record]), tmp_path / "rows.parquet")
    assert report["outcome"] == "parsed", report
    rows = rows_of(tmp_path / "rows.parquet")
    assert rows[1]["messages"] == rows[3]["messages"] == messages


def parquet(records: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), file)
    return file.getvalue()


@pytest.mark.parametrize("write", [jsonl, parquet])
def test_prompt_and_completion_may_be_lists_of_turns(write: Any, tmp_path: Path) -> None:
    """As TRL's trainers read them; they train on the completion alone, and no audit does."""
    plain = {"prompt": [ASKED], "completion": [END]}
    earlier = {"prompt": [ASKED, END, ASKED | {"content": "And then?"}], "completion": [turn("assistant", "At six.")]}
    found = notices(write([plain, earlier, plain]), tmp_path)
    assert found == {"zero_weights": (1, [1], {"prompt": 1})}
    rows = [row["messages"] for row in rows_of(tmp_path / "rows.parquet")]
    assert rows == [[ASKED, END], [*earlier["prompt"], *earlier["completion"]], [ASKED, END]]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"prompt": ["a", "c"], "completion": ["b", "d"]}, "'prompt' is a list of texts; write one record for each"),
        ({"prompt": "a", "completion": ["b", "d"]}, "'completion' is a list of texts; write one record for each"),
        ({"prompt": [ASKED], "completion": None}, "'completion' must be an array, not null"),
        ({"prompt": [ASKED], "completion": [ASKED]}, "has no assistant turn"),
        ({"prompt": [ASKED] * 600, "completion": [END] * 600}, "has 1200 turns"),
        ({"messages": "Hello."}, "'messages' is not a JSON list of turns: not valid JSON"),
        ({"messages": '{"role": "user"}'}, "'messages' must be an array, not an object"),
    ],
)
def test_lists_of_something_else_are_named(record: Any, said: str, tmp_path: Path) -> None:
    report = run(jsonl([record]), tmp_path / "rows.parquet")
    assert report["errors"][0]["reason"].startswith(said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([{"type": "image_url", "image_url": {"url": "x"}}], "'messages[0].content[0]' is not a part of type text"),
        ([{"type": "text"}], "'messages[0].content[0].text' must be a string, not null"),
        (None, "'messages[0].content' must be a string, not null"),
    ],
)
def test_what_is_no_text_is_named(content: Any, said: str, tmp_path: Path) -> None:
    report = run(jsonl([{"messages": [{"role": "user", "content": content}, END]}]), tmp_path / "rows.parquet")
    assert report["errors"][0]["reason"].startswith(said)


def notices(data: bytes, path: Path) -> dict[str, tuple[int, list[int], dict[str, int]]]:
    report = run(data, path / "rows.parquet")
    assert report["outcome"] == "parsed", report
    return {notice["kind"]: (notice["rows"], notice["first_rows"], notice["found"]) for notice in report["notices"]}


def table(records: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


@pytest.mark.parametrize("write", [jsonl, table, lambda records: json.dumps(records).encode()])
def test_columns_that_other_trainers_read_are_told(write: Any, tmp_path: Path) -> None:
    plain = {"prompt": "a", "completion": "b", "system": "", "tools": "[]", "label": "True"}
    odd = plain | {"system": "Talk like a sailor."}
    bad = plain | {"label": "False", "tools": '[{"name": "tide"}]'}
    assert notices(write([plain, odd, plain, bad, bad]), tmp_path) == {
        "untrained_columns": (3, [1, 3, 4], {"system": 1, "tools": 2}),
        "undesired_answers": (2, [3, 4], {"label": 2}),
    }


def test_earlier_turns_in_a_column_of_their_own_are_told(tmp_path: Path) -> None:
    plain = {"instruction": "a", "output": "b", "history": [], "kto_tag": True}
    odd = plain | {"history": [["Who?", "Me."]], "kto_tag": False}
    assert notices(jsonl([plain, odd]), tmp_path) == {
        "untrained_columns": (1, [1], {"history": 1}),
        "undesired_answers": (1, [1], {"kto_tag": 1}),
    }


def test_answers_that_are_not_to_be_learnt_are_told(tmp_path: Path) -> None:
    unlearnt = {"messages": [ASKED, END | {"weight": 0}, ASKED | {"weight": 0}, END | {"weight": 1}]}
    untrained = {"messages": [ASKED, END | {"train": False}]}
    found = notices(jsonl([chat(), unlearnt, chat(), untrained]), tmp_path)
    assert found["zero_weights"] == (2, [1, 3], {"weight": 1, "train": 1})
    assert found["ignored_turn_keys"] == (2, [1, 3], {"weight": 3, "train": 1})


@pytest.mark.parametrize("write", [jsonl, table, parquet])
def test_rows_that_count_for_nothing_or_less_are_told(write: Any, tmp_path: Path) -> None:
    plain = {"prompt": "a", "completion": "b", "weight": 1.0, "loss_weight": "0.5", "label": 1}
    records = [
        plain,
        plain | {"weight": 0.0},
        plain,
        plain | {"weight": -1.0, "loss_weight": "0"},
        plain | {"label": 0},
    ]
    assert notices(write(records), tmp_path) == {
        "zero_weights": (2, [1, 3], {"weight": 2, "loss_weight": 1}),
        "undesired_answers": (1, [4], {"label": 1}),
    }


def test_a_row_with_two_such_marks_counts_once(tmp_path: Path) -> None:
    record = {"messages": [ASKED, END | {"weight": 0}], "weight": 0}
    assert notices(jsonl([record]), tmp_path)["zero_weights"] == (1, [0], {"weight": 2})


def test_calls_of_tools_are_told(tmp_path: Path) -> None:
    called = {"messages": [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]}]}
    assert notices(jsonl([chat(), called]), tmp_path) == {"tool_calls_as_text": (1, [1], {"calls": 2})}


def test_empty_turns_before_the_last_are_told(tmp_path: Path) -> None:
    empty = {"messages": [turn("user", " \n"), turn("assistant", ""), turn("user", "\u3000"), END]}
    found = notices(jsonl([chat(), chat(""), chat(), empty, chat("\u4e2d")]), tmp_path)
    assert found == {"empty_turns": (2, [1, 3], {"user": 3, "assistant": 1})}


@pytest.mark.parametrize(
    "token",
    [
        "<|im_end|>",
        "<|start_header_id|>",
        "<|reserved_special_token_12|>",
        "[INST]",
        "[/INST]",
        "<<SYS>>",
        "<start_of_turn>",
        "<s>",
        "</s>",
        "<eos>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "[TOOL_CALLS]",
    ],
)
def test_control_tokens_in_texts_are_told(token: str, tmp_path: Path) -> None:
    records = [chat(), chat(f"a{token}b", f"{token}\n{token}"), chat("x < y |> z [1] <sub>", "<|> <| |> [inst]")] * 2
    assert notices(jsonl(records), tmp_path) == {"control_tokens": (2, [1, 4], {token: 6})}
