"""Forked children are like spawned ones, and are their supervisor's own, whatever becomes of the fork server."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from service.contract.protocol import (
    BASELINES_FILE,
    RECORDING_FILE,
    RECORDINGS_FOLDER,
    SCORES_FILE,
    TRACES_FILE,
    FailedEvent,
    FinishedEvent,
)
from service.contract.spec import COMBINE
from tests.support.children.scripting import (
    LOOKING_CHILD,
    LOOKING_FORK_SERVER,
    NOWHERE,
    fork_server,
    spawning,
)
from tests.support.ended import has_ended, pid_has_ended
from tests.support.steps import respecify
from tests.support.waiting import wait_for
from worker.process import fork_client as fork_client_module
from worker.process.child_process import ChildProcess, Exited, downloading_environment
from worker.process.fork_client import ForkClient, make_launcher
from worker.process.launcher import STEP_COMMAND, Launcher, Spawner, pipes
from worker.results.recording import Recording

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are Linux's alone")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return downloading_environment(os.environ, tmp_path / "cache")


@pytest.fixture(scope="module")
def looking() -> Iterator[ForkClient]:
    """With the real imports; started once, as it takes seconds."""
    fork_client = ForkClient(NOWHERE, (sys.executable, "-P", str(LOOKING_FORK_SERVER)))
    yield fork_client
    fork_client.close()


@pytest.fixture
def fork_clients() -> Iterator[Callable[..., ForkClient]]:
    """Makes fork clients whose children follow a script; closed in the end."""
    made: list[ForkClient] = []

    def make(*script: list[Any], spawner: Spawner = NOWHERE, **how: Any) -> ForkClient:
        made.append(ForkClient(spawner, fork_server(script, **how)))
        return made[-1]

    yield make
    for fork_client in made:
        fork_client.close()


def ready(launcher: Launcher, environment: dict[str, str]) -> Launcher:
    wait_for(lambda: launcher.prepared(environment, seconds=0.5), 100)
    return launcher


def server_of(fork_client: ForkClient) -> psutil.Process:
    assert fork_client._server is not None
    return psutil.Process(fork_client._server.pid)


def living_children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if not has_ended(child)]


def living_commands() -> Iterator[str]:
    """Their command lines; one may end while it is looked at."""
    for process in living_children():
        with suppress(psutil.NoSuchProcess):
            yield " ".join(process.cmdline())


def outcome(child: ChildProcess, seconds: float = 60) -> tuple[int, list[Any], str]:
    """Exit code, events and stderr of a child that is left alone."""
    events: list[Any] = []
    end = time.monotonic() + seconds
    while not isinstance(item := child.next(1), Exited):
        assert time.monotonic() < end, child.stderr_tail()
        events += [] if item is None else [item]
    return item.code, events, child.stderr_tail()


@contextmanager
def running(launcher: Launcher, folder: Path, environment: dict[str, str]) -> Iterator[ChildProcess]:
    folder.mkdir(exist_ok=True)
    (folder / "spec.json").write_text(json.dumps({"step_key": "train:7"}))
    child = ChildProcess(launcher, folder, environment, ttl_s=60)
    try:
        yield child
    finally:
        child.kill()


# ---------------------------------------------------------------- with the real imports


def seen_by_itself(launcher: Launcher, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """What a looking child says, and whether its environment and parent look the same from without."""
    folder.mkdir(exist_ok=True)
    ours, theirs = pipes()
    process = launcher.start(folder, environment, theirs)
    theirs.close()
    with os.fdopen(ours.stdout, "rb") as stdout, os.fdopen(ours.stderr) as stderr:
        said = stdout.read()
        assert said, stderr.read()
    os.close(ours.stdin)
    # Its status waits for us, and for nobody else: a number that nobody can take meanwhile.
    waited = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert waited is not None
    assert waited.si_pid == process.pid
    assert process.wait() == 0
    return dict(json.loads(said))


def test_a_forked_child_finds_itself_as_a_spawned_one_does(
    looking: ForkClient, tmp_path: Path, environment: dict[str, str]
) -> None:
    spawner = Spawner((sys.executable, "-P", str(LOOKING_CHILD)))
    first, second, spawned = (
        seen_by_itself(launcher, tmp_path / "folder", environment)
        for launcher in (ready(looking, environment), looking, spawner)
    )
    own = [found.pop("own") for found in (first, second, spawned)]
    assert first == second
    assert first == spawned
    assert first["parent"] == os.getpid()
    assert environment.items() <= first["environment"].items(), "torch adds one"
    assert (first["folder"], first["umask"], first["descriptors"]) == (str(tmp_path / "folder"), 0o077, 3)
    assert first["gpu"] == [False, False]
    assert len({found["pid"] for found in own}) == 3
    for draws in zip(*(found["draws"] for found in own), strict=True):
        assert len(set(draws)) == 3
    folder = str(tmp_path / "folder")
    assert own[0]["command"] == own[1]["command"] == [sys.executable, "-P", "-m", "worker.child.run", folder]


def test_an_audit_by_forked_children_is_the_same_to_the_bit(
    looking: ForkClient, staged: Callable[..., Path], environment: dict[str, str], tmp_path: Path
) -> None:
    results = []
    for launcher in (ready(looking, environment), Spawner(STEP_COMMAND)):
        folder = staged(rows=40)
        code, events, errors = outcome(ChildProcess(launcher, folder, environment, ttl_s=100), 100)
        assert (code, type(events[-1])) == (0, FinishedEvent), errors
        recording = Recording.load(folder / RECORDING_FILE)
        (folder / RECORDINGS_FOLDER).mkdir(exist_ok=True)
        (folder / RECORDING_FILE).rename(folder / RECORDINGS_FOLDER / "0.npz")
        respecify(folder, step_key=COMBINE)
        code, events, errors = outcome(ChildProcess(launcher, folder, environment, ttl_s=100), 100)
        assert (code, type(events[-1])) == (0, FinishedEvent), errors
        results.append(
            (recording, [pq.read_table(folder / name) for name in (SCORES_FILE, TRACES_FILE, BASELINES_FILE)])
        )
    (forked, tables), (spawned, expected) = results
    for name in {field.name for field in fields(Recording)} - {"observations", "steps", "facts", "split"}:
        np.testing.assert_equal(getattr(forked, name), getattr(spawned, name), name)
    np.testing.assert_equal(vars(forked.observations), vars(spawned.observations))
    np.testing.assert_equal(vars(forked.steps), vars(spawned.steps))
    assert forked.split is not None
    assert spawned.split is not None
    np.testing.assert_equal(vars(forked.split), vars(spawned.split))
    assert all(table.equals(other) for table, other in zip(tables, expected, strict=True))


def test_the_fork_server_is_one_thread_and_holds_no_descriptor_but_its_socket(
    looking: ForkClient, environment: dict[str, str]
) -> None:
    ready(looking, environment)
    server = server_of(looking)
    assert server.num_threads() == 1
    assert server.environ() == environment
    open_files = {os.readlink(f"/proc/{server.pid}/fd/{number}") for number in os.listdir(f"/proc/{server.pid}/fd")}
    assert {name.partition(":")[0] for name in open_files} == {"/dev/null", "socket"}
    assert len(open_files) == 2
    assert "torch" in {Path(region.path).parent.parent.name for region in server.memory_maps()}


# ---------------------------------------------------------------- the child is the supervisor's own


@pytest.mark.parametrize(
    ("script", "code"), [([["exit", 7]], 7), ([["signal", signal.SIGSEGV]], -signal.SIGSEGV), ([["exit", 0]], 0)]
)
def test_its_exit_code_or_signal_reaches_the_supervisor(
    fork_clients: Callable[..., ForkClient], tmp_path: Path, environment: dict[str, str], script: list[Any], code: int
) -> None:
    fork_client = ready(fork_clients(*script), environment)
    with running(fork_client, tmp_path / "f", environment) as child:
        assert outcome(child)[0] == code


def test_a_child_goes_on_when_the_fork_server_is_killed_and_the_next_start_makes_a_new_one(
    fork_clients: Callable[..., ForkClient], tmp_path: Path, environment: dict[str, str]
) -> None:
    go = tmp_path / "go"
    fork_client = fork_clients(["until", str(go)], ["exit", 5])
    with running(ready(fork_client, environment), tmp_path / "first", environment) as child:
        server = server_of(fork_client)
        server.kill()
        wait_for(lambda: has_ended(server))
        assert child.next(0.3) is None, "it still runs"
        assert psutil.Process(child.pid).ppid() == os.getpid()
        go.touch()
        assert outcome(child)[0] == 5
        with running(ready(fork_client, environment), tmp_path / "second", environment) as another:
            assert server_of(fork_client).pid != server.pid
            assert outcome(another)[0] == 5


def test_it_is_killed_with_all_of_its_group_though_the_fork_server_is_gone(
    fork_clients: Callable[..., ForkClient], tmp_path: Path, environment: dict[str, str]
) -> None:
    fork_client = fork_clients(["grandchild", str(tmp_path / "pid")], ["deaf"])
    with running(ready(fork_client, environment), tmp_path / "f", environment) as child:
        wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        fork_client.close()
        child.kill()
        assert outcome(child)[0] == -signal.SIGKILL
    grandchild = int((tmp_path / "pid").read_text())
    wait_for(lambda: pid_has_ended(grandchild))


def test_other_orphans_are_not_the_supervisor_s(
    fork_clients: Callable[..., ForkClient], tmp_path: Path, environment: dict[str, str]
) -> None:
    """It adopts while a child is born and no longer: nobody would wait for what a child leaves behind."""
    fork_client = fork_clients(["grandchild", str(tmp_path / "pid")], ["exit", 0])
    with running(ready(fork_client, environment), tmp_path / "f", environment) as child:
        assert outcome(child)[0] == 0
    grandchild = int((tmp_path / "pid").read_text())
    assert grandchild not in [process.pid for process in psutil.Process().children()]


def test_a_child_that_its_supervisor_does_not_release_does_nothing(
    fork_clients: Callable[..., ForkClient], tmp_path: Path, environment: dict[str, str]
) -> None:
    """The supervisor dies or gives up between asking and hearing of it."""
    touched = tmp_path / "touched"
    fork_client = fork_clients(["touch", str(touched)])
    ready(fork_client, environment)
    (tmp_path / "spec.json").write_text(json.dumps({"step_key": "train:7"}))
    assert fork_client._server is not None
    control, (go, release) = fork_client._server._control, os.pipe()
    with open(os.devnull, "r+b") as null:
        fork_client_module.socket.send_fds(control, [os.fsencode(tmp_path)], [null.fileno()] * 3 + [go])
        child = psutil.Process(json.loads(control.recv(4096))["pid"])
    os.close(go)
    time.sleep(0.3)
    assert child.is_running()
    assert not touched.exists()
    os.close(release)
    wait_for(lambda: has_ended(child))
    assert not touched.exists()


# ---------------------------------------------------------------- where there is no fork server


def test_a_broken_installation_is_told_by_a_spawned_child(
    fork_clients: Callable[..., ForkClient],
    tmp_path: Path,
    environment: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    fork_client = fork_clients(spawner=Spawner(STEP_COMMAND), importing="import no_such_library")
    ready(fork_client, environment)
    code, events, _ = outcome(ChildProcess(fork_client, tmp_path, environment, ttl_s=60))
    assert code == 1
    assert isinstance(events[-1], FailedEvent)
    assert "importing failed with ModuleNotFoundError" in caplog.text
    assert fork_client._server is None, "it is not tried again for every child"


@pytest.mark.parametrize(
    ("importing", "why"),
    [
        ("import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()", "has left 1 threads"),
        ("from worker.child import fork_server; fork_server.has_touched_a_gpu = lambda: True", "has touched the GPU"),
        ("import os; os._exit(1)", "it has ended"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "has not started in time"),
    ],
)
def test_what_cannot_be_forked_is_not_forked(
    fork_clients: Callable[..., ForkClient], tmp_path: Path, environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, importing: str, why: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(fork_client_module, "IMPORT_SECONDS", 3.0)
    fork_client = ready(fork_clients(importing=importing, spawner=spawning([["exit", 9]])), environment)
    assert why in caplog.text
    assert fork_client._server is None
    wait_for(lambda: not any("importing" in command for command in living_commands()))
    with running(fork_client, tmp_path / "f", environment) as child:
        assert outcome(child)[0] == 9


def test_one_that_does_not_answer_is_given_up_and_the_child_spawned(
    fork_clients: Callable[..., ForkClient],
    tmp_path: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fork_client_module, "REPLY_SECONDS", 0.5)
    fork_client = ready(fork_clients(["exit", 1], spawner=spawning([["exit", 9]])), environment)
    server = server_of(fork_client)
    server.suspend()
    with running(fork_client, tmp_path / "f", environment) as child:
        assert outcome(child)[0] == 9
    wait_for(lambda: has_ended(server))


def test_a_folder_that_is_not_there_is_an_error_as_with_a_spawned_child(
    fork_clients: Callable[..., ForkClient], tmp_path: Path, environment: dict[str, str]
) -> None:
    fork_client = ready(fork_clients(["exit", 0], spawner=spawning([])), environment)
    with pytest.raises(FileNotFoundError):
        ChildProcess(fork_client, tmp_path / "nowhere", environment, ttl_s=60)


def test_another_environment_is_another_fork_server(
    fork_clients: Callable[..., ForkClient], tmp_path: Path, environment: dict[str, str]
) -> None:
    """What libraries read of it while they are imported would be another's."""
    fork_client = fork_clients(["keep", str(tmp_path)], ["exit", 0])
    before = server_of(ready(fork_client, environment))
    changed = {**environment, "OMP_NUM_THREADS": "17"}
    with running(ready(fork_client, changed), tmp_path / "f", changed) as child:
        assert outcome(child)[0] == 0
    assert json.loads((tmp_path / "train:7" / "environment.json").read_text()) == changed
    assert server_of(fork_client).pid != before.pid


def test_nobody_waits_for_the_imports(
    fork_clients: Callable[..., ForkClient], tmp_path: Path, environment: dict[str, str]
) -> None:
    go = tmp_path / "go"
    until_told = f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)"
    fork_client = fork_clients(importing=until_told)
    assert not fork_client.prepared(environment, seconds=0)
    go.touch()
    ready(fork_client, environment)


SUPERVISOR = """
import json, os, sys, time
from worker.process.fork_client import ForkClient
from worker.process.launcher import Spawner
fork_client = ForkClient(Spawner(["/nowhere"]), json.loads(sys.argv[1]))
while not fork_client.prepared(dict(os.environ), seconds=float(sys.argv[2])) and float(sys.argv[2]):
    pass
print(fork_client._server is not None, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("seconds", "later"), [(0, 0.0), (0, 0.5), (5, 0.5)], ids=["at its start", "while it imports", "while it waits"]
)
def test_it_ends_with_its_supervisor(seconds: int, later: float) -> None:
    command = fork_server(importing="import time; time.sleep(0.5 if TITLE else 600)".replace("TITLE", str(seconds)))
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, json.dumps(command), str(seconds)], stdout=subprocess.PIPE
    ) as supervisor:
        try:
            assert supervisor.stdout is not None
            assert supervisor.stdout.readline() == b"True\n"
            (server,) = psutil.Process(supervisor.pid).children()
            time.sleep(later)
            assert server.is_running()
        finally:
            supervisor.kill()
    wait_for(lambda: has_ended(server))


def test_children_may_be_started_by_several_threads(
    fork_clients: Callable[..., ForkClient], tmp_path: Path, environment: dict[str, str]
) -> None:
    fork_client = ready(fork_clients(["exit", 6]), environment)
    codes = []

    def run(number: int) -> None:
        with running(fork_client, tmp_path / str(number), environment) as child:
            codes.append(outcome(child)[0])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert codes == [6] * 8


def test_linux_forks() -> None:
    assert isinstance(make_launcher(), ForkClient)
