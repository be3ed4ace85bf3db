"""Uploads that nobody writes: valid small files of every form, changed byte by byte, and records of any shape.

`python -m tests.support.parser_fuzz SEED FIRST SECONDS FOLDER` parses one after the other under the limits of the real
child, so that what crashes ends this process alone. Each case is known by its number. It prints one
line {case, fault} for each that ended as no upload may, and at last {cases, parsed, invalid, refused, codes, slowest}.
"""

import gc
import io
import json
import os
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from backports import zstd

from service.http.problems.codes import PROBLEM_CODES
from tests.support.dataset_records import chat, gzipped, jsonl
from tests.support.parser_runs import MIB, rows_of, run

MEMORY_BYTES = 2 * 2**30
LONGEST_SECONDS = 30.0
"""Of processor time: the uploads have a few kilobytes, and the real child would have 60."""

NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**40, 2**63 - 1, 2**63)
SNIPPETS = (
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r\n", b"\\", b"\\u0000", b"\\ud800", b"\0", b"\xff",
    b"\xef\xbb\xbf",    b"NaN", b"1e999", b"-0", b"null", b"true", b'{"a":1}', b'"role"', b'"content"', b"messages",
    b"<|im_end|>", b"PAR1",
    b"ARROW1\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\xff\0\0\0\0", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xe2\x80\xae",
)  # fmt: skip

COLUMNS: dict[str, Callable[[], Any]] = {
    "text": lambda: ["one", None, "drei"] * 4,
    "number": lambda: [1, None, -(2**62)] * 4,
    "share": lambda: [0.5, float("nan"), None] * 4,
    "flag": lambda: [True, False, None] * 4,
    "nested": lambda: [{"a": [1, 2], "b": {"c": "x"}}, None, {"a": [], "b": None}] * 4,
    "category": lambda: pa.array(["left", "right", None] * 4).dictionary_encode(),
    "bytes": lambda: pa.array([b"\xff", b"plain", None] * 4),
    "large": lambda: pa.array(["x", "y" * 50, None] * 4, pa.large_string()),
    "view": lambda: pa.array(["short", "a text that is longer than a view", None] * 4, pa.string_view()),
    "when": lambda: pa.array([0, 2**40, None] * 4, pa.timestamp("us", "Europe/Berlin")),
    "price": lambda: pa.array([1, 2, None] * 4, pa.int64()).cast(pa.decimal128(30, 2)),
    "listed": lambda: pa.array([["a", None], [], None] * 4, pa.list_view(pa.string())),
    "nothing": lambda: pa.nulls(12),
    "fixed": lambda: pa.array([[1, 2], None, [3, 4]] * 4, pa.list_(pa.int8(), 2)),
    "map": lambda: pa.array([[("a", 1)], [], None] * 4, pa.map_(pa.string(), pa.int64())),
}


def records(choose: random.Random, odd: bool) -> list[Any]:
    """Records of one form; where they are to be odd, of any shape beside it."""

    def text() -> str:
        pool = "abc äß 漢字 \u202e\u200b\n\t\"\\,;'<|im_start|>\U0001f600"
        return "".join(choose.choices(pool, k=choose.randrange(12)))

    def value(depth: int = 0) -> Any:
        kind = choose.randrange(9 if depth < 3 else 6)
        if kind < 6:
            return (
                text(),
                None,
                choose.randrange(-(2**70), 2**70),
                choose.random() * 10 ** choose.randrange(-30, 30),
                True,
                text(),
            )[kind]
        if kind == 6:
            return [value(depth + 1) for _ in range(choose.randrange(4))]
        return {
            choose.choice(("role", "content", "from", "value", "weight", "tool_calls", text())): value(depth + 1)
            for _ in range(choose.randrange(4))
        }

    form = choose.choice(("messages", "conversations", "alpaca", "pair"))
    made = []
    for _ in range(choose.randrange(1, 12)):
        if form in ("messages", "conversations"):
            role, said = ("role", "content") if form == "messages" else ("from", "value")
            turns = [{role: name, said: text()} for name in (["user", "assistant"] * choose.randrange(1, 3))]
            record: dict[str, Any] = {form: turns}
        elif form == "alpaca":
            record = {"instruction": text(), "input": text(), "output": text()}
        else:
            record = {"prompt": text(), "completion": text()}
        if odd and choose.random() < 0.5:
            record[choose.choice([*record, text(), "system", "label"])] = value()
        made.append(value() if odd and choose.random() < 0.1 else record)
    return made


def as_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode(errors="replace")


def as_csv(made: list[Any]) -> bytes:
    rows = [record for record in made if isinstance(record, dict)] or [{"prompt": "a", "completion": "b"}]
    names = list(rows[0])

    def cells(values: list[Any]) -> str:
        shown = (value if isinstance(value, str) else json.dumps(value) for value in values)
        return ",".join('"' + text.replace('"', '""') + '"' for text in shown)

    return "\r\n".join([cells(names), *(cells([row.get(name) for name in names]) for row in rows)]).encode(
        errors="replace"
    )


def table_of(choose: random.Random) -> Any:
    picked = choose.sample(sorted(COLUMNS), choose.randrange(4))
    columns = {name: COLUMNS[name]() for name in picked}
    turns = [[{"role": "user", "content": f"q{row}"}, {"role": "assistant", "content": f"a{row}"}] for row in range(12)]
    if choose.random() < 0.5:
        return pa.table({"messages": turns, **columns})
    odd = choose.choice(sorted(COLUMNS))
    return pa.table(
        {"prompt": ["p"] * 12 if choose.random() < 0.7 else COLUMNS[odd](), "completion": ["c"] * 12, **columns}
    )


def as_parquet(choose: random.Random) -> bytes:
    file = io.BytesIO()
    table = table_of(choose)
    options: dict[str, Any] = {
        "compression": choose.choice(("none", "snappy", "gzip", "zstd", "lz4")),
        "use_dictionary": choose.random() < 0.5,
        "row_group_size": choose.choice((1, 5, 100)),
        "data_page_version": choose.choice(("1.0", "2.0")),
    }
    try:
        pq.write_table(table, file, **options)
    except pa.ArrowException:  # a type that Parquet has not
        file = io.BytesIO()
        pq.write_table(pa.table({"prompt": ["a"], "completion": ["b"]}), file)
    return file.getvalue()


def as_arrow(choose: random.Random, form: Any) -> bytes:
    file = io.BytesIO()
    table = table_of(choose)
    options = pa.ipc.IpcWriteOptions(
        compression=choose.choice((None, None, "lz4", "zstd")), unify_dictionaries=form is pa.ipc.new_file
    )
    with form(file, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=choose.choice((1, 5, 100)))
    return file.getvalue()


def whole(choose: random.Random) -> bytes:
    """A file as a writer leaves it."""
    form = choose.randrange(9)
    if form == 6:
        return as_parquet(choose)
    if form > 6:
        return as_arrow(choose, pa.ipc.new_stream if form == 7 else pa.ipc.new_file)
    made = records(choose, odd=choose.random() < 0.6)
    if form < 2:
        data = b"\n".join(map(as_json, made)) + b"\n" * choose.randrange(3)
    elif form == 2:
        data = as_json(made)
    elif form == 3:
        data = "\n".join(json.dumps(record, indent=1) for record in made).encode()
    elif form == 4:
        data = as_csv(made)
    else:
        data = jsonl([chat(f"Question {number}?") for number in range(choose.randrange(300))])
    pack = choose.randrange(5)
    return gzipped(data) if pack == 0 else zstd.compress(data) if pack == 1 else data


@cache
def pool() -> tuple[bytes, ...]:
    """What splices are cut from."""
    return tuple(whole(random.Random(number)) for number in range(60))


def changed(data: bytes, choose: random.Random) -> bytes:
    """The bytes with one change."""
    at, kind = choose.randrange(len(data) + 1), choose.randrange(8)
    length = min(choose.choice((1, 2, 4, 8, 64, 1000)), len(data) - at)
    if kind == 0 and at < len(data):
        return data[:at] + bytes([data[at] ^ 1 << choose.randrange(8)]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + choose.randbytes(length) + data[at + length :]
    if kind == 2:
        return data[:at] if choose.random() < 0.5 else data[at:]
    if kind == 3:
        return data[:at] + data[at + length :]
    if kind == 4:
        return data[:at] + data[at : at + length] * choose.choice((2, 3, 50)) + data[at + length :]
    if kind == 5:
        return data[:at] + choose.choice(SNIPPETS) + data[at + choose.choice((0, 1, 4)) :]
    if kind == 6:
        size = choose.choice((1, 2, 4, 8))
        at -= at % size
        number = (choose.choice(NUMBERS) + choose.randrange(-1, 2)) % 2 ** (8 * size)
        return data[:at] + number.to_bytes(size, "little") + data[at + size :]
    other = choose.choice(pool())
    begin = choose.randrange(len(other) + 1)
    return data[:at] + other[begin : begin + choose.randrange(2000)] + data[at + length :]


def case(seed: int, number: int) -> tuple[bytes, dict[str, Any]]:
    """The upload of that number, and what the parser is told of it."""
    choose = random.Random(f"{seed}/{number}")
    data = whole(choose)
    for _ in range(choose.choice((0, 1, 1, 1, 2, 3, 8))):
        data = changed(data, choose)
    if choose.random() < 0.05:
        data = choose.choice((gzipped, zstd.compress))(data)
    options: dict[str, Any] = {"chunk": choose.choice((1 << 16, 1 << 16, 7, 1000))}
    told = choose.random()
    if told < 0.1:
        options["format"] = choose.choice(("messages", "alpaca", "sharegpt", "prompt_completion"))
    elif told < 0.2:
        options["mapping"] = {"prompt": "prompt", "answer": "text", "system": choose.choice((None, "view"))}
    if choose.random() < 0.05:
        options["encoding"] = choose.choice(("gzip", "zstd"))
    return data, options


def fault_of(report: dict[str, Any], path: Path | None) -> str | None:
    """Why an upload may not end so, or None; `path` is rows.parquet."""
    if report["outcome"] == "refused":
        known = report["code"] in PROBLEM_CODES and report["status"] in PROBLEM_CODES[report["code"]].statuses
        return None if known and report["detail"].endswith((".", ")")) else f"refused: {report['code']}"
    if report["outcome"] == "invalid":
        return None if report["bad"] >= len(report["errors"]) > 0 else "no errors"
    if report["outcome"] != "parsed":
        return str(report)
    orjson.dumps(report)
    if path is not None and len(rows := rows_of(path)) != report["rows"]:
        return f"{len(rows)} rows, and {report['rows']} are reported"
    return None


def main(seed: int, first: int, seconds: float, folder: Path) -> None:
    """Parses cases until the time is over."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ends: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    slowest = (0.0, first)
    until, number = time.monotonic() + seconds, first
    pool()
    gc.disable()
    while time.monotonic() < until:
        (folder / "case").write_text(str(number))
        data, options = case(seed, number)
        path, began = folder / "rows.parquet", time.process_time()
        try:
            report = run(data, path, max_line_bytes=4 * MIB, **options)
            fault = fault_of(report, path)
        except MemoryError:
            report, fault = {"outcome": "refused", "code": "parser_memory_limit"}, None
        except Exception as error:
            frame = error.__traceback__
            while frame is not None and frame.tb_next is not None:
                frame = frame.tb_next
            place = "" if frame is None else f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}"
            report, fault = {"outcome": "raised"}, f"{type(error).__name__} at {place}: {str(error)[:200]}"
        took = time.process_time() - began
        slowest = max(slowest, (took, number))
        if took > LONGEST_SECONDS:
            fault = fault or f"{took:.0f} s of processor time"
        ends[report["outcome"]] += 1
        codes[report.get("code") or ""] += 1
        if fault is not None:
            print(json.dumps({"case": number, "fault": fault}), flush=True)
        number += 1
        if number % 200 == 0:
            gc.collect()
    print(json.dumps({"cases": number - first, **ends, "codes": codes, "slowest": slowest}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
    os._exit(0)
