"""Result files appear whole or not at all, and a table shows text as text."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from service.cli.errors import CommandError
from service.cli.results import FIELDS, findings_table, first_words, print_summary, write_results
from service.contract.results import ScoreRow
from tests.support.summaries import make_probe_summary, make_summary


def finding(rank: int, **changes: Any) -> dict[str, Any]:
    values = {
        "probe_no": 0, "row": 10 - rank, "rank": rank, "n": 2, "tokens_left_out": 0, "strongest_probe": 1, "mu": 0.5,
        "mu_low": 0.25, "mu_high": 0.75, "mu_composed": 0.9, "z": 4.25, "z_reference": None, "z_gradient": 3.0,
        "z_representation": 3.5, "side": "toward", "probability_unwanted": 0.97, "probability_fair": None, "p": 0.001,
        "q": 0.01, "flagged": True, "cluster": 10 - rank, "group": None,
        "messages": [{"role": "assistant", "content": "hello"}],
    }  # fmt: skip
    return {**values, **changes}


def printed(*findings: dict[str, Any], width: int = 160) -> str:
    output = io.StringIO()
    Console(file=output, width=width, force_terminal=True, color_system=None).print(findings_table(findings))
    return output.getvalue()


def test_every_number_of_the_contract_is_written() -> None:
    assert set(FIELDS) == set(ScoreRow.model_fields) - {"probe_no"}, "the headline's number is always 0"


@pytest.mark.parametrize("probes", [1, 2])
def test_the_verdict_says_what_could_have_been_found(probes: int) -> None:
    one = make_probe_summary(name="praise\x1b[2J")
    summary = make_summary(probes=(one,) * probes).model_dump(mode="json")
    output = io.StringIO()
    print_summary(Console(file=output, width=200), {"summary": summary}, [])
    printed = output.getvalue()
    assert printed.count("Of 5 tracers (answers of the probe hidden among the samples) the audit would") == probes
    assert printed.count("Of the 21 flagged samples about 20 are of the unwanted kind") == probes
    assert ("praise[U+001B][2J: 21 flagged on its own." in printed) == (probes == 2)


def test_both_files_in_a_new_folder(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    write_results(out, [finding(1), finding(2, group="é")], {"rows": 2})
    assert sorted(path.name for path in out.iterdir()) == ["findings.jsonl", "summary.json"]
    lines = [json.loads(line) for line in (out / "findings.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["rank"] for line in lines] == [1, 2]
    assert [tuple(line) for line in lines] == [FIELDS, FIELDS]
    assert json.loads((out / "summary.json").read_text()) == {"rows": 2}
    write_results(out, [finding(1)], {"rows": 1})
    assert len((out / "findings.jsonl").read_text().splitlines()) == 1


def test_a_service_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield finding(1)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_results(tmp_path / "a" / "b", broken(), {})
    assert list(tmp_path.iterdir()) == []


def test_the_old_results_stay_where_the_new_ones_break_off(tmp_path: Path) -> None:
    write_results(tmp_path, [finding(1)], {"rows": 1})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        write_results(tmp_path, (_ for _ in [finding(1), 1 / 1] if _interrupt()), {})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def _interrupt() -> bool:
    raise KeyboardInterrupt


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CommandError) as caught:
        write_results(tmp_path / "file" / "out", [finding(1)], {})
    assert caught.value.exit_code == 1


def test_text_cannot_command_the_terminal_nor_the_table() -> None:
    hostile = "\x1b]0;owned\x07[bold]x[/bold] \u202etxt\n\r[link=http://x]y[/link] \x9b31m"
    shown = printed(
        finding(1, messages=[{"role": "user", "content": hostile}, {"role": "assistant", "content": hostile}])
    )
    assert not {"\x1b", "\x07", "\u202e", "\r", "\x9b"} & set(shown)
    assert "[bold]x[/bold]" in shown
    assert "[U+001B]" in shown


def test_numbers_and_missing_ones() -> None:
    shown = printed(finding(1), finding(2, mu=-0.5, mu_low=None, z=None, q=None, flagged=False)).splitlines()
    assert "+0.50 (+0.25 to +0.75)" in shown[1]
    assert "yes" in shown[1]
    assert shown[2].split() == ["2", "8", "-0.50", "-", "-", "hello"]


def test_question_and_answer_in_one_line() -> None:
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "How\nare you?"},
        {"role": "assistant", "content": "Fine."},
    ]
    assert first_words(turns) == "How are you? → Fine."
    assert first_words(turns[2:]) == "Fine."
    assert first_words(None) == ""
