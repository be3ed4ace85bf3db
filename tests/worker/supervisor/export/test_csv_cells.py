"""No cell of a CSV file is a formula to a spreadsheet, and no other text is touched."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.supervisor.export.csv_cells import harmless

NBSP, ZERO_WIDTH, MARK, IDEOGRAPHIC = "\u00a0", "\u200b", "\ufeff", "\u3000"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\tindented", "'\tindented"),
        ("\rreturned", "'\rreturned"),
        ("\r\n=1", "'\r\n'=1"),
        (" =1", "' =1"),
        ("   \t =1", "'   \t =1"),
        (f"{NBSP}=1", f"'{NBSP}=1"),
        (f"{IDEOGRAPHIC}{NBSP} @x", f"'{IDEOGRAPHIC}{NBSP} @x"),
        (f"{ZERO_WIDTH}=1", f"'{ZERO_WIDTH}=1"),
        (f"{MARK}=1", f"'{MARK}=1"),
        ("\uff1d1", "'\uff1d1"),
        ("\uff0b1", "'\uff0b1"),
        ("\uff0d1", "'\uff0d1"),
        ("\uff201", "'\uff201"),
        ("fine\n=1", "fine\n'=1"),
        ("fine\r\n  -x\r\nfine", "fine\r\n'  -x\r\nfine"),
        ("fine\r=cmd|' /C calc'!A0", "fine\r'=cmd|' /C calc'!A0"),
        ("=a\n=b", "'=a\n'=b"),
        ("'=1", "'=1"),
        ("a=1", "a=1"),
        ("fine\n\tindented", "fine\n\tindented"),
        ("1-2", "1-2"),
        ('{"a": "=1"}', '{"a": "=1"}'),
        ("", ""),
        ("   ", "   "),
    ],
)
def test_what_becomes_of_a_cell(text: str, safe: str) -> None:
    assert harmless(text) == safe


@given(st.text(st.sampled_from("=+-@\t\r\n ab'\u00a0\ufeff\uff1d"), max_size=30))
def test_no_line_begins_a_formula(text: str) -> None:
    safe = harmless(text)
    assert safe[:1] not in ("\t", "\r")
    for line in safe.replace("\r", "\n").split("\n"):
        assert line.strip(" \t\u00a0\ufeff")[:1] not in tuple("=+-@\uff1d")
    # Nothing but apostrophes was added.
    assert safe.replace("'", "") == text.replace("'", "")


@pytest.mark.parametrize("text", [" " * 300_000, "\n" * 300_000, "\n " * 150_000, "\r\n\t" * 100_000, " \n" * 150_000])
def test_it_takes_linear_time(text: str) -> None:
    began = time.process_time()
    harmless(text + "x")
    assert time.process_time() - began < 5
