"""The embedded Valkey, and the broker URL through the real Celery and kombu."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from celery import Celery
from kombu import Connection

from service.local.errors import StackError
from service.local.valkey import EmbeddedValkey
from service.settings import Settings
from tests.support.local_processes import listening_tcp, mode, processes_of
from tests.support.waiting import wait_for


@pytest.fixture
def server(short_folder: Path) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(short_folder / "a b%" / "valkey", log=short_folder / "valkey.log")
    yield server
    server.stop()


def test_only_its_owner_reaches_it(server: EmbeddedValkey) -> None:
    child = server.start()
    assert mode(server.folder) == 0o700
    assert mode(server.socket) == 0o700
    assert listening_tcp([psutil.Process(child.pid)]) == []
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "no"}
        assert client.config_get("save") == {"save": ""}


def test_a_task_message_sent_by_celery_is_consumed_as_sent(server: EmbeddedValkey) -> None:
    server.start()
    url = Settings(broker_url=server.url).broker_url
    assert url is not None
    app = Celery(broker=url.get_secret_value(), set_as_current=False)
    app.send_task("finetooth.wake", args=["gpu"], queue="gpu", ignore_result=True)
    with Connection(url.get_secret_value()) as connection:
        queue = connection.SimpleQueue("gpu")
        message = queue.get(timeout=60)
        message.ack()
        queue.close()
    assert message.headers["task"] == "finetooth.wake"
    assert message.payload[0] == ["gpu"]
    app.close()


def test_a_stop_leaves_nothing_and_a_second_start_works(server: EmbeddedValkey) -> None:
    child = server.start()
    server.stop()
    assert child.exit_code == 0
    assert processes_of(server.folder) == []
    server.start()
    assert server.socket.is_socket()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_it_does_not_outlive_a_killed_process(short_folder: Path) -> None:
    folder = short_folder / "valkey"
    script = (
        "import sys, time; from pathlib import Path; from service.local.valkey import EmbeddedValkey\n"
        "EmbeddedValkey(Path(sys.argv[1]), log=Path(sys.argv[1] + '.log')).start(); print('ready', flush=True)\n"
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(folder)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        assert processes_of(folder)
        owner.kill()
    wait_for(lambda: not processes_of(folder))


def test_a_path_too_long_for_a_socket_fails_before_anything_starts(short_folder: Path) -> None:
    with pytest.raises(StackError, match=r"too long for a Unix socket .* FINETOOTH_DATA_DIR"):
        EmbeddedValkey(short_folder / ("x" * 90), log=short_folder / "log")
    assert list(short_folder.iterdir()) == []


def test_a_server_that_cannot_start_says_why(server: EmbeddedValkey) -> None:
    (server.folder / "valkey.sock" / "in the way").mkdir(parents=True)
    with pytest.raises((StackError, OSError)):
        server.start()
    assert processes_of(server.folder) == []
