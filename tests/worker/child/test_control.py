"""How a child ends by itself: real processes, told through a real pipe."""

import array
import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.contract.protocol import Cancel, Lease
from tests.support.ended import pid_has_ended
from tests.support.waiting import SOON, wait_for

CHILD = """
import subprocess, sys, threading
from pathlib import Path
from worker.child.control import StopRequest, obey
ranks = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=new)
         for new in (False, True)]
threading.Thread(target=obey, args=(sys.stdin.fileno(), StopRequest()), daemon=True).start()
Path(sys.argv[1]).write_text(" ".join(str(rank.pid) for rank in ranks))
Path(sys.argv[1]).rename(sys.argv[2])
threading.Event().wait()
"""


class Told:
    """A child with two processes of its own, one of them in another session."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder / "part"), str(folder / "ranks")],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        wait_for((folder / "ranks").exists)
        self.ranks = [int(pid) for pid in (folder / "ranks").read_text().split()]

    def tell(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def lease(self, seconds: float) -> None:
        self.tell(Lease(ttl_s=seconds).model_dump_json().encode() + b"\n")

    def has_read_all(self) -> bool:
        """Whether the pipe is empty."""
        assert self.process.stdin is not None
        unread = array.array("i", [0])
        fcntl.ioctl(self.process.stdin, termios.FIONREAD, unread)
        return unread[0] == 0

    def is_stopped(self) -> bool:
        """Whether each of its threads has obeyed SIGSTOP: one that runs on another processor does so a little later."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)

    def ended(self, seconds: float = SOON) -> str:
        """What it said, once it and all of its own are gone."""
        assert self.process.wait(seconds) == 3
        wait_for(lambda: all(pid_has_ended(pid) for pid in self.ranks))
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Told]:
    told = Told(tmp_path)
    yield told
    for pid in (told.process.pid, *told.ranks):
        if not pid_has_ended(pid):
            os.kill(pid, signal.SIGKILL)
    told.process.wait()
    for pipe in (told.process.stdin, told.process.stderr):
        assert pipe is not None
        pipe.close()


def test_it_ends_when_its_lease_has_run_out(child: Told) -> None:
    started = time.monotonic()
    child.lease(0.5)
    assert "the lease has run out" in child.ended()
    assert time.monotonic() - started >= 0.5


def test_every_lease_replaces_the_one_before(child: Told) -> None:
    short, long, shorter = (Lease(ttl_s=seconds).model_dump_json().encode() + b"\n" for seconds in (2, 600, 0.2))
    child.tell(short + long)
    time.sleep(2.5)
    assert child.process.poll() is None
    child.tell(shorter)
    assert "the lease has run out" in child.ended()


def test_one_that_was_frozen_past_its_lease_does_not_live_by_an_old_line(child: Told) -> None:
    child.lease(2)
    wait_for(child.has_read_all)  # and whether it has understood it or not
    child.process.send_signal(signal.SIGSTOP)
    wait_for(child.is_stopped)
    child.lease(600)
    time.sleep(2.5)
    child.process.send_signal(signal.SIGCONT)
    assert "the lease has run out" in child.ended()


def test_a_command_may_come_in_pieces(child: Told) -> None:
    line = Lease(ttl_s=0.2).model_dump_json().encode() + b"\n" + Cancel().model_dump_json().encode()
    for start in range(0, len(line), 7):
        child.tell(line[start : start + 7])
    assert "the lease has run out" in child.ended()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"type": "cancel"}\n', "cancelled"),
        (b'{"type": "lease", "ttl_s": 0}\n', "not understood"),
        (b'{"type": "save_and_stop"}\n', "nothing to save"),
        (b"fire!\n", "not understood"),
        (b"", "the supervisor is gone"),
    ],
)
def test_it_ends_when_told_or_left_alone(child: Told, line: bytes, why: str) -> None:
    child.lease(600)
    child.tell(line)
    if not line:
        assert child.process.stdin is not None
        child.process.stdin.close()
    assert why in child.ended()


def test_it_ends_where_nobody_reads_what_it_says(child: Told) -> None:
    """A killed supervisor has closed both of its ends."""
    child.lease(600)
    assert child.process.stdin is not None
    assert child.process.stderr is not None
    child.process.stderr.close()
    child.process.stdin.close()
    assert child.process.wait(60) == 3
    wait_for(lambda: all(pid_has_ended(pid) for pid in child.ranks))
