"""What an upload can cost that is made to be dear: its parser's time and memory, until it is refused or taken.

    python -m benchmarks.hostile_uploads [--rounds 3]

Each goes through the service's own intake under its default settings, into a folder that is thrown away. There is no
parser before an upload: all that its process has counts, sampled every 20 ms.
"""

import argparse
import io
import json
import random
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import chain, islice, repeat
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.hostile_requests import BOUND_MIB, BOUND_SECONDS, MIB, PeakMemory
from service.datasets.intake import Form, Intake, Parsed, Refused
from service.settings import Settings
from service.store.local_objects import LocalObjects

BLOCK = 2**20


def header_of_columns(mib: int) -> Iterator[bytes]:
    """A header of different names, without an end."""
    names = (
        b"".join(b"column%d," % number for number in range(start, start + 50_000)) for start in range(0, 10**9, 50_000)
    )
    return islice(names, mib * 2)


def turns(count: int) -> Iterator[bytes]:
    """Rows of so many turns each."""
    said = [{"role": ("user", "assistant")[turn % 2], "content": f"word {turn}"} for turn in range(count)]
    return repeat(json.dumps({"messages": said}).encode() + b"\n", 50)


def empty_frames(mib: int) -> Iterator[bytes]:
    frame = b"\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00"
    return repeat(frame * (BLOCK // len(frame)), mib)


def skipped_frames(mib: int) -> Iterator[bytes]:
    return repeat(b"\x50\x2a\x4d\x18\x00\x00\x00\x00" * (BLOCK // 8), mib)


def shared_text(rows: int, length: int, arrow: bool) -> Iterator[bytes]:
    """Each row is the same long text, which the file holds once."""
    text = random.Random(0).randbytes(length // 2).hex()
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
    table, file = pa.table({"prompt": column, "completion": column}), io.BytesIO()
    if arrow:
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    else:
        pq.write_table(table, file, store_schema=False, compression="zstd")
    return iter([file.getvalue()])


def shared_view(rows: int, length: int) -> Iterator[bytes]:
    """As `shared_text`, with a view in place of a dictionary."""
    data = random.Random(0).randbytes(length // 2).hex().encode()
    view = struct.pack("<i4sii", len(data), data[:4], 0, 0)
    column = pa.Array.from_buffers(pa.string_view(), rows, [None, pa.py_buffer(view * rows), pa.py_buffer(data)])
    table, file = pa.table({"prompt": column, "completion": column}), io.BytesIO()
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return iter([file.getvalue()])


def swollen(mib: int) -> Iterator[bytes]:
    """A batch of zeros, which ZSTD makes small."""
    table, file = pa.table({"prompt": ["\0" * BLOCK] * mib, "completion": ["b"] * mib}), io.BytesIO()
    with pa.ipc.new_stream(file, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return iter([file.getvalue()])


ATTACKS: dict[str, Callable[[], Iterator[bytes]]] = {
    "CSV, a header of columns without an end": lambda: header_of_columns(64),
    "CSV, a header of 100,000 columns": lambda: chain(
        [b",".join(b"c%d" % number for number in range(100_000)) + b"\n"], repeat(b"," * 99_999 + b"\n", 100)
    ),
    "JSONL, a row of 20,000 turns": lambda: islice(turns(20_000), 1),
    "JSONL, 50 rows of 20,000 turns": lambda: turns(20_000),
    "JSON, 64 MiB of opening brackets": lambda: repeat(b"[" * BLOCK, 64),
    "zstd, 64 MiB of empty frames": lambda: empty_frames(64),
    "zstd, 64 MiB of frames to skip": lambda: skipped_frames(64),
    "Parquet, one text of 100 kB in 20,000 rows": lambda: shared_text(20_000, 100_000, arrow=False),
    "Parquet, one text of 5 MB in 2,000 rows": lambda: shared_text(2000, 5_000_000, arrow=False),
    "Arrow, one text of 100 kB in 20,000 rows": lambda: shared_text(20_000, 100_000, arrow=True),
    "Arrow, one text of 5 MB in 2,000 rows": lambda: shared_text(2000, 5_000_000, arrow=True),
    "Arrow, a view of 100 kB in 20,000 rows": lambda: shared_view(20_000, 100_000),
    "Arrow, a batch of 100 MiB of zeros": lambda: swollen(100),
}


def upload(data: Iterator[bytes], folder: Path, settings: Settings) -> tuple[str, float, float, float]:
    """How it ended, after how many seconds, how many of its parser's processor, and the most MiB that that had."""
    intake = Intake(LocalObjects(folder / "objects"), settings, workspace_id="ws", dataset_id="ds", form=Form())
    try:
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        intake.start()
        (parser,) = psutil.Process().children()
        with PeakMemory(parser) as memory:
            while (chunk := next(data, None)) is not None and intake.feed([chunk]):
                pass
            report = intake.finish()
        seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        computed = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    finally:
        intake.abort()
    ended = report.code if isinstance(report, Refused) else "taken" if isinstance(report, Parsed) else "dataset_invalid"
    return ended, seconds, computed, memory.most / MIB


def spread(values: list[float], form: str) -> str:
    """The least and the most."""
    return f"{min(values):{form}} to {max(values):{form}}"


def main() -> None:
    """Prints a line of a table for each attack; exit code 1 where a bound is broken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    broken = False
    print("| Upload | Ended | After, s | Processor time, s | Memory of its parser, MiB |\n|---|---|---|---|---|")
    for name, attack in ATTACKS.items():
        ends, seconds, computed, memory = [], [], [], []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                ended, took, busy, most = upload(attack(), Path(folder), Settings(data_dir=Path(folder)))
            ends.append(ended)
            seconds.append(took)
            computed.append(busy)
            memory.append(most)
        broken |= max(seconds) > BOUND_SECONDS or max(memory) > BOUND_MIB
        codes = ", ".join(f"`{code}`" for code in dict.fromkeys(ends))
        cells = (name, codes, spread(seconds, ".1f"), spread(computed, ".1f"), spread(memory, ".0f"))
        print(f"| {' | '.join(cells)} |", flush=True)
    sys.exit(int(broken))


if __name__ == "__main__":
    main()
