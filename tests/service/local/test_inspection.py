"""No process that another one of the same user may look into holds a secret of the stack, and the stack works so."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.local_processes import normal_user, processes_of, user_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc, and what is kept from it, are Linux's alone")

SECRET = "swordfish-7"

LOOK_AT_PARENT = (
    "import os; parent = f'/proc/{os.getppid()}'\n"
    "for name in ('environ', 'mem'):\n"
    "    try: print(name, 'open' if open(f'{parent}/{name}', 'rb') else '')\n"
    "    except PermissionError: print(name, 'closed')\n"
)

STACK = """
import json, os, subprocess, sys, time
from pathlib import Path

from service.client.client import Client
from service.local.stack import start_stack
from service.settings import Settings
from worker.process.child_process import ChildProcess, Exited, downloading_environment
from worker.process.fork_client import make_launcher

SPY = '''
import json, os, sys
found = {}
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        command = open(f"/proc/{pid}/cmdline").read().split(chr(0))
        if int(pid) != os.getpid():
            found[pid] = [command[:5], sys.argv[1] in open(f"/proc/{pid}/environ").read()]
    except OSError:
        pass
print(json.dumps(found))
'''

home, secret = Path(sys.argv[1]), os.environ["AWS_SECRET_ACCESS_KEY"]
with start_stack(Settings(data_dir=home / "data", cache_dir=home / "cache")) as stack:
    def spied():
        plain = {"PATH": os.environ["PATH"]}
        out = subprocess.run([sys.executable, "-c", SPY, secret], env=plain, capture_output=True, text=True, check=True)
        return json.loads(out.stdout)

    # What the product itself reads of processes and by /proc goes on working.
    data = home / "rows.jsonl"
    rows = [{"prompt": f"Which number is {n}?", "completion": f"It is number {n}."} for n in range(40)]
    data.write_text("".join(json.dumps(row) + chr(10) for row in rows))
    with Client(stack.url, stack.admin_key) as client:
        dataset = client.upload_dataset(data, name="numbers")
        path, end = f"/v1/datasets/{dataset['id']}/statistics", time.monotonic() + 60
        while not (counted := client._send("GET", path)["near_duplicates"]) and time.monotonic() < end:
            time.sleep(0.2)
    launcher = make_launcher()
    environment = downloading_environment(os.environ, home / "cache")
    while not launcher.prepared(environment, seconds=1):
        pass
    (home / "step").mkdir()
    (home / "step" / "spec.json").write_text("{}")
    child = ChildProcess(launcher, home / "step", environment, ttl_s=60)
    events = []
    while not isinstance(item := child.next(1), Exited):
        events += [] if item is None else [type(item).__name__]
    seen = spied()
    launcher.close()
    found = {"rows": dataset["rows"], "counted": bool(counted), "code": item.code, "events": events, "seen": seen}
    print(json.dumps(found))
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """Short, for sockets, and the normal user's."""
    folder = Path(tempfile.mkdtemp(prefix="ft-", dir="/tmp"))
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    yield folder
    assert processes_of(folder) == []
    shutil.rmtree(folder)


@pytest.mark.parametrize(("forbids", "found"), [(True, "closed"), (False, "open")])
def test_a_child_cannot_look_into_its_parent(forbids: bool, found: str) -> None:
    script = (
        "import subprocess, sys; from service.inspection import forbid_inspection\n"
        f"if {forbids}: forbid_inspection()\n"
        f"subprocess.run([sys.executable, '-c', {LOOK_AT_PARENT!r}], env={{}})"
    )
    done = subprocess.run(
        [*normal_user(), "-c", script], env=user_environment() | {"SECRET": SECRET}, cwd="/", capture_output=True
    )
    assert done.stdout.decode().split() == ["environ", found, "mem", found], done.stderr


def test_no_process_of_a_stack_shows_what_it_was_given(home: Path) -> None:
    # The children get no PYTHONPATH, so the normal user has an environment that finds the packages by itself.
    *user, python = normal_user()
    subprocess.run([*user, python, "-m", "venv", "--without-pip", home / "venv"], cwd="/", check=True)
    (packages,) = home.glob("venv/lib/python*/site-packages")
    (packages / "ours.pth").write_text(user_environment()["PYTHONPATH"].replace(os.pathsep, "\n"))
    # It may be the system's Python, and redis asks for this module before 3.11.3.
    (packages / "async_timeout.py").write_text("from asyncio import timeout\n")
    done = subprocess.run(
        [*user, home / "venv" / "bin" / "python", "-c", STACK, str(home)],
        env={"PATH": os.environ["PATH"], "AWS_SECRET_ACCESS_KEY": SECRET, "HOME": str(home), "OMP_NUM_THREADS": "1"},
        cwd="/", capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["rows"], found["counted"]) == (40, True)
    assert found["code"] == 1
    assert found["events"][-1] == "FailedEvent"
    seen = [command for command, _ in found["seen"].values()]
    # Two: the worker's own, and the one of this test.
    assert sum("worker.child.fork_server" in " ".join(command) for command in seen) == 2, seen
    assert any("valkey" in command[0] for command in seen)
    assert [command for command, secret in found["seen"].values() if secret] == []
