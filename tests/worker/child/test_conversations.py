"""Conversations that are read from the file as they are asked for are those that it holds."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from worker.child import conversations as module
from worker.child.conversations import Conversations

ROWS = [[{"role": "user", "content": f"{row}?"}, {"role": "assistant", "content": f"{row}!"}] for row in range(11)]


@pytest.fixture
def conversations(tmp_path: Path) -> Conversations:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"row": list(range(11)), "messages": ROWS}), path, row_group_size=4)
    return Conversations(path)


def test_in_order(conversations: Conversations, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(conversations) == 11
    assert list(conversations) == ROWS
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 3)
    assert list(conversations) == ROWS, "and again"


def test_one_by_one(conversations: Conversations) -> None:
    order = [10, 0, 3, 4, 7, 8, 1]
    assert [conversations[row] for row in order] == [ROWS[row] for row in order]
    for row in (11, -1):
        with pytest.raises(IndexError, match=f"no row {row}"):
            conversations[row]
