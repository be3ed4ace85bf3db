"""The form of log lines, as processes write them."""

import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

SECRET = "Xylophone-Quokka"
PROGRAM = f"""
import logging, sys, threading, warnings
from service.logs import configure_logging, log_context
configure_logging(sys.argv[1])
log = logging.getLogger("service.test")
log.debug("too fine")
with log_context(request_id="req-1", audit=None, attempt=2):
    log.info("name %s", "a\\udcff\\n\\u202e")
try:
    raise ValueError("{SECRET}")
except ValueError:
    log.exception("failed")
logging.getLogger("library").info("too fine for a library")
logging.getLogger("library").warning("a library's warning")
warnings.warn("deprecated")
def end(): raise KeyError("{SECRET}")
thread = threading.Thread(target=end, name="lease")
thread.start()
thread.join()
"""


def lines_of(form: str) -> list[str]:
    result = subprocess.run([sys.executable, "-c", PROGRAM, form], capture_output=True, text=True, check=True)
    assert result.stdout == ""
    return result.stderr.splitlines()


def on_a_terminal(form: str) -> str:
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", PROGRAM, form], stderr=theirs, check=True)
    os.close(theirs)
    found = b""
    try:
        while chunk := os.read(ours, 65536):
            found += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    return found.decode(errors="replace")


def test_one_object_a_line_with_what_is_known() -> None:
    lines = [json.loads(line) for line in lines_of("auto")]
    named, failed, library, warning, thread = lines
    assert {"timestamp", "level", "logger", "message"} <= set(named)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(named["timestamp"])) < timedelta(minutes=1)
    assert (named["level"], named["logger"]) == ("info", "service.test")
    assert named["message"] == "name a\udcff\n\u202e"
    assert {name: named.get(name) for name in ("request_id", "audit", "attempt")} == {
        "request_id": "req-1", "audit": None, "attempt": 2,
    }  # fmt: skip
    assert "request_id" not in failed
    assert (library["level"], library["logger"]) == ("warning", "library")
    assert "deprecated" in warning["message"]
    assert thread["message"].startswith("thread lease ended:")


def test_errors_are_told_by_type_and_place_without_their_message() -> None:
    text = "\n".join(lines_of("json"))
    assert SECRET not in text
    failed, thread = (json.loads(line) for line in text.splitlines() if "Error" in line)
    assert failed["error"].startswith("builtins.ValueError\n")
    assert "line 10" in failed["error"]
    assert "builtins.KeyError" in thread["message"]


@pytest.mark.parametrize(("form", "json_expected"), [("auto", False), ("text", False), ("json", True)])
def test_a_terminal_gets_text_unless_json_is_asked_for(form: str, json_expected: bool) -> None:
    text = on_a_terminal(form)
    assert SECRET not in text
    assert text.startswith("{") is json_expected
    assert ("request_id=req-1" in text) is not json_expected


def test_a_file_gets_text_where_that_is_asked_for() -> None:
    assert not lines_of("text")[0].startswith("{")
