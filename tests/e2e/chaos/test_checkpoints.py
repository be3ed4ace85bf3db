"""Checkpoints that are torn, and disks that are full: the run ends with the same scores, or says what to do."""

import errno
import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chaos import LEASE_SECONDS, LONG, Chaos, Reference
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]


def stored_checkpoints(chaos: Chaos) -> list[Path]:
    """Folders of the checkpoints that the object store's index names, oldest first."""
    found = []
    for index in chaos.settings.objects.glob("*/audits/*/checkpoints/**/index.json"):
        found += [index.parent / stored["name"] for stored in json.loads(index.read_text())["checkpoints"]]
    return found


@pytest.mark.parametrize(
    ("torn", "told"), [("newest", {"checkpoint_damaged", "resumed"}), ("all", {"checkpoint_damaged", "started_anew"})]
)
def test_torn_checkpoints_are_not_gone_on_from(chaos: Chaos, undisturbed: Reference, torn: str, told: set[str]) -> None:
    worker = chaos.start_worker()
    audit = chaos.create(LONG)
    wait_for(lambda: len(stored_checkpoints(chaos)) >= 2, 90, lambda: chaos.story(audit))
    worker.kill()
    wait_for(lambda: not chaos.children(), LEASE_SECONDS, "the child outlives its supervisor")
    stored = stored_checkpoints(chaos)
    for folder in stored[-1:] if torn == "newest" else stored:
        for path in folder.glob("*.safetensors"):
            os.truncate(path, path.stat().st_size // 2)
    chaos.start_worker()
    chaos.assert_settled([audit], like=undisturbed(LONG))
    assert told <= set(chaos.notices(audit))


def test_a_run_goes_on_from_its_checkpoint(chaos: Chaos, undisturbed: Reference) -> None:
    worker = chaos.start_worker()
    audit = chaos.create(LONG)
    wait_for(lambda: len(stored_checkpoints(chaos)) >= 2, 90, lambda: chaos.story(audit))
    worker.kill()
    chaos.start_worker()
    chaos.assert_settled([audit], like=undisturbed(LONG))
    assert "resumed" in chaos.notices(audit)


@pytest.fixture
def small_disk(chaos: Chaos) -> Iterator[Path]:
    """A file system of its own that a few checkpoints fill; only root can mount one."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    folder = chaos.folder / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    for worker in chaos.workers:
        worker.kill()
    wait_for(lambda: not chaos.children(), 15, "a child is left")
    subprocess.run(["umount", "-l", folder], check=True)


def fill(path: Path) -> None:
    """Writes until the kernel refuses: ENOSPC."""
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        file.writelines(itertools.repeat(b"x" * 4096))


def test_a_disk_that_is_full_at_a_checkpoint(chaos: Chaos, undisturbed: Reference, small_disk: Path) -> None:
    """ENOSPC from the kernel. The run is worth more than its insurance; full at its end, it says what to do."""
    ballast = small_disk / "ballast"
    chaos.start_worker(FINETOOTH_WORK_DIR=str(small_disk))
    audit = chaos.create(LONG)
    chaos.wait_until_training(audit)
    fill(ballast)
    wait_for(lambda: "checkpoint_not_written" in chaos.notices(audit), 60, lambda: chaos.story(audit))
    ballast.unlink()
    chaos.assert_settled([audit], like=undisturbed(LONG))
    full = chaos.create(LONG)
    chaos.wait_until_training(full)
    fill(ballast)
    chaos.assert_settled([full], "failed")
    assert (chaos.job(full).error or {})["code"] == "disk_full"
