"""Rows that were appended in small parts are one tensor in their order."""

import numpy as np
import pytest
import torch

from worker.influence.capture.appended_rows import PARTS, AppendedRows


@pytest.mark.parametrize("count", [1, PARTS - 1, PARTS, 3 * PARTS + 5])
def test_the_whole_is_what_was_appended(count: int) -> None:
    # The first parts of a run are in single precision whatever the model's is: signals that are missing.
    parts = [torch.randn(1 + n % 3, 2, dtype=torch.float32 if n < 7 else torch.float64) for n in range(count)]
    rows = AppendedRows()
    for number, part in enumerate(parts):
        rows.append(part)
        if number in (3, PARTS + 2):
            assert torch.equal(rows.whole(), torch.cat(parts[: number + 1]))  # type: ignore[arg-type]
    found = rows.whole()
    assert found is not None
    assert found.dtype == torch.cat(parts).dtype
    assert torch.equal(found, torch.cat(parts))
    going_on = AppendedRows(found)
    taken = AppendedRows(found)
    taken.append(parts[0])
    assert np.array_equal(taken.take(), torch.cat([found, parts[0]]).double().numpy())  # type: ignore[arg-type]
    assert taken.take() is None
    going_on.append(parts[0])
    assert torch.equal(going_on.whole(), torch.cat([found, parts[0]]))  # type: ignore[arg-type]


def test_few_tensors_are_kept_however_many_parts_there_were() -> None:
    rows = AppendedRows()
    for _ in range(13 * PARTS + 1):
        rows.append(torch.zeros(1))
    assert [len(piece) // PARTS for piece in rows._joined] == [8, 4, 1]
    assert len(rows._parts) == 1


def test_without_rows() -> None:
    assert AppendedRows().whole() is None
