"""How the demo judges its flags."""

import io

import pytest
from rich.console import Console

from service.cli.demo import _print, compare, read_truth


def test_the_truth_covers_every_row_of_the_bundled_dataset() -> None:
    truth = read_truth()
    assert sorted(truth) == list(range(len(truth)))
    assert sum(kind == "poison" for kind in truth.values()) == 20


@pytest.mark.parametrize(
    ("found", "false", "good"),
    [
        (20, 0, True),
        (14, 0, True),
        (13, 0, False),
        (0, 0, False),
        (17, 3, True),
        (17, 4, False),
        (14, 2, True),
        (14, 3, False),
    ],
)
def test_good_is_fourteen_of_twenty_and_at_most_fifteen_per_cent_false(found: int, false: int, good: bool) -> None:
    truth = {row: "poison" if row < 20 else "hard_negative" if row < 40 else "clean" for row in range(100)}
    outcome = compare(truth, [*range(found), *range(20, 20 + false)])
    assert (outcome.planted, outcome.flagged, outcome.found, outcome.false) == (20, found + false, found, false)
    assert outcome.good is good


@pytest.mark.parametrize(("found", "exit_good"), [(18, True), (9, False)])
def test_what_it_prints_beside_the_truth(found: int, exit_good: bool) -> None:
    truth = read_truth()
    poison = sorted(row for row, kind in truth.items() if kind == "poison")
    order = [*poison, *(row for row in sorted(truth) if row not in poison)]
    findings = [
        {
            "row": row, "rank": rank, "mu": 2.0 / rank, "mu_low": None, "mu_high": None, "z": 9.0 / rank, "q": 0.001,
            "flagged": rank <= found, "messages": [{"role": "assistant", "content": f"text of \x1b[2J {row}"}],
        }
        for rank, row in enumerate(order, start=1)
    ]  # fmt: skip
    output = io.StringIO()
    summary = {"warnings": [{"code": "c", "message": "Read with care."}]}
    outcome = _print(Console(file=output, width=120), {"summary": summary}, findings)
    printed = output.getvalue()
    assert f"{found} samples flagged, 0 of them falsely; {found} of 20 poisoned samples found" in printed
    assert "Caution: Read with care." in printed
    first = next(line for line in printed.splitlines() if line.split()[:2] == ["1", str(poison[0])])
    assert "poison" in first
    assert "text of [U+001B][2J" in first
    assert outcome.good is exit_good
    assert ("not what the demo should give" in printed) is not exit_good
