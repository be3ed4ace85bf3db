"""A heartbeat tells what the worker trains on, and how full that is."""

import os
import shutil

import psutil
import pytest
from sqlalchemy.orm import Session, sessionmaker

from service.store.tables import Worker
from worker.supervisor.device import read_device
from worker.supervisor.heartbeat import Heartbeat

without_gpu = pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is an NVIDIA driver")


@without_gpu
def test_without_a_gpu_it_is_the_machines_own_memory() -> None:
    device = read_device()
    assert device is not None
    assert device.name in ("cpu", "mps")
    assert device.memory_bytes == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < device.memory_used_bytes < device.memory_bytes
    assert device.memory_used_bytes >= psutil.Process().memory_info().rss // 2


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="there is no NVIDIA driver")
def test_with_a_gpu_it_is_what_torch_sees() -> None:
    import torch

    device = read_device()
    assert device is not None
    assert device.name == torch.cuda.get_device_name()
    # The driver keeps a part to itself.
    assert device.memory_bytes == pytest.approx(torch.cuda.mem_get_info()[1], rel=0.05)


def test_only_who_trains_has_a_device(sessions: sessionmaker[Session]) -> None:
    beating = [Heartbeat(sessions, owner=lane, lane=lane, seconds=60) for lane in ("gpu", "io")]
    for heartbeat in beating:
        heartbeat.start()
    with sessions() as session:
        trains, exports = session.get_one(Worker, "gpu"), session.get_one(Worker, "io")
        assert trains.device == getattr(read_device(), "name", None)
        assert (exports.device, exports.memory_bytes, exports.memory_used_bytes) == (None, None, None)
    for heartbeat in beating:
        heartbeat.stop()
