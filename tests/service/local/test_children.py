"""Child processes: sessions, orderly and forced stops, and leftovers of a killed stack."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from service.local.children import Child, ChildrenFile
from tests.support.ended import has_ended
from tests.support.local_processes import mode

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
PARENT = (
    "import subprocess, sys, time\n"
    "own = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
    "print(own.pid, flush=True); time.sleep(60)"
)


def python(name: str, script: str, folder: Path) -> Child:
    child = Child(name, [sys.executable, "-c", script], log=folder / f"{name}.log", cwd=folder)
    while "sleep" in script and not child.last_lines():
        time.sleep(0.02)
    return child


def test_it_leads_a_session_and_logs_privately(tmp_path: Path) -> None:
    script = "import os; print(os.getsid(0) == os.getpid(), os.umask(0), os.getcwd())"
    child = python("one", script, tmp_path)
    assert child.process.wait(60) == 0
    assert child.last_lines() == f"True {0o077} {tmp_path}"
    assert mode(child.log) == 0o600


def test_a_program_that_does_not_exist_says_so_in_the_log(tmp_path: Path) -> None:
    child = Child("none", ["/nowhere/program"], log=tmp_path / "log", cwd=tmp_path)
    assert child.process.wait(60) == 127
    assert child.last_lines() == "cannot start /nowhere/program: No such file or directory"


def test_a_stop_is_orderly_or_else_forced(tmp_path: Path) -> None:
    polite = python("polite", "import time; print('up', flush=True); time.sleep(60)", tmp_path)
    assert polite.stop(10)
    assert polite.exit_code == -signal.SIGTERM
    stubborn = python("stubborn", STUBBORN, tmp_path)
    assert not stubborn.stop(0.2)
    assert stubborn.exit_code == -signal.SIGKILL


def test_a_stop_reaches_what_the_child_started_in_another_session(tmp_path: Path) -> None:
    child = python("parent", PARENT, tmp_path)
    grandchild = psutil.Process(int(child.last_lines()))
    assert os.getsid(grandchild.pid) != child.pid
    child.stop(5)
    assert has_ended(grandchild)


def test_leftovers_are_ended_and_strangers_are_not(tmp_path: Path) -> None:
    file = ChildrenFile(tmp_path / "children.json")
    left_over = python("stubborn", STUBBORN, tmp_path)
    file.add(left_over)
    stranger = subprocess.Popen(["sleep", "60"])
    # The number of an ended child, used again by another program.
    entries = json.loads(file.path.read_text())
    entries.append({"name": "ended", "pid": stranger.pid, "started": psutil.Process(stranger.pid).create_time() - 100})
    file.path.write_text(json.dumps(entries))
    try:
        assert ChildrenFile(file.path).stop_leftovers(grace=0.2) == ["stubborn"]
        assert left_over.exit_code is not None
        assert stranger.poll() is None
        assert not file.path.exists()
        assert file.stop_leftovers() == []
    finally:
        stranger.kill()
        stranger.wait()


def test_a_damaged_file_of_children_is_no_obstacle(tmp_path: Path) -> None:
    file = ChildrenFile(tmp_path / "children.json")
    file.path.write_text('[{"name": ')
    assert file.stop_leftovers() == []
