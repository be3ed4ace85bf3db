"""The wake-up on a real broker, and on none."""

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from celery import Celery
from pydantic import SecretStr

from service.lifecycle.wakeup import BUDGET_SECONDS, wake
from service.settings import Settings


def test_the_task_lands_in_the_lanes_queue(valkey_url: str) -> None:
    settings = Settings(broker_url=SecretStr(valkey_url))
    assert wake(settings, "gpu")
    with Celery(broker=valkey_url, set_as_current=False).connection() as connection:
        message = connection.SimpleQueue("gpu").get(timeout=60)
        message.ack()
    assert message.headers["task"] == "finetooth.wake"
    arguments, _, _ = message.payload
    assert arguments == ["gpu"]
    assert message.content_type == "application/json"
    json.dumps(message.payload)


@pytest.fixture
def deaf_broker() -> Iterator[int]:
    """A port that accepts and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        accepted: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    accepted.append(listener.accept()[0])
            except OSError:
                return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(60)
        for connection in accepted:
            connection.close()


def test_a_deaf_broker_costs_no_more_than_the_budget(deaf_broker: int, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(broker_url=SecretStr(f"redis://:hunter2@127.0.0.1:{deaf_broker}/0"))
    wake(Settings(broker_url=SecretStr("redis://127.0.0.1:1/0")), "gpu")  # first use imports the transport
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert not wake(settings, "gpu")
    assert time.monotonic() - started < BUDGET_SECONDS
    assert "wake-up not sent" in caplog.text
    assert "hunter2" not in caplog.text


def test_no_broker_is_harmless(caplog: pytest.LogCaptureFixture) -> None:
    assert not wake(Settings(broker_url=SecretStr("redis://127.0.0.1:1/0")), "gpu")
    assert not wake(Settings(broker_url=None), "gpu")
    assert caplog.text.count("wake-up not sent") == 2
