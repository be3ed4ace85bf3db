"""Rows in a file are the rows that were appended."""

import resource
from pathlib import Path

import pytest
import torch

from worker.training.spooled_rows import SpooledRows


def test_the_whole_is_what_was_appended(tmp_path: Path) -> None:
    parts = [torch.randn(n, 2, 3).half() for n in (1, 0, 4, 2)]
    rows = SpooledRows(tmp_path)
    assert rows.whole() is None
    for part in parts[:3]:
        rows.append(part)
    before = rows.whole()
    rows.append(parts[3].transpose(1, 2).contiguous().transpose(1, 2))  # not contiguous
    assert before is not None
    assert torch.equal(before, torch.cat(parts[:3])), "what was read stays as it was"
    whole = rows.whole()
    assert whole is not None
    assert torch.equal(whole, torch.cat(parts))
    assert not list(tmp_path.iterdir()), "the file has no name that could outlive the process"
    del rows
    assert torch.equal(whole, torch.cat(parts)), "it outlives the object"


def test_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    rows = SpooledRows(tmp_path)
    rows.append(torch.zeros(2, 3))
    for other in (torch.zeros(2, 4), torch.zeros(2, 3).half()):
        with pytest.raises(ValueError, match="were appended to others"):
            rows.append(other)


def test_what_the_disk_does_not_take_is_kept_and_written_once_it_does(tmp_path: Path) -> None:
    parts = [torch.full((1000, 4), float(number)) for number in range(4)]
    rows = SpooledRows(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The first fits, and half of the second.
    resource.setrlimit(resource.RLIMIT_FSIZE, (24_000, limits[1]))
    try:
        for part in parts[:3]:
            rows.append(part)
        assert torch.equal(rows.whole(), torch.cat(parts[:3]))  # type: ignore[arg-type]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    rows.append(parts[3])
    assert torch.equal(rows.whole(), torch.cat(parts))  # type: ignore[arg-type]
    assert not rows._waiting


def test_without_a_folder_that_can_be_written_to_all_stays_in_memory(tmp_path: Path) -> None:
    rows = SpooledRows(tmp_path / "missing")
    rows.append(torch.ones(2, 3))
    assert torch.equal(rows.whole(), torch.ones(2, 3))  # type: ignore[arg-type]
