"""Folders of running children stay while their supervisor lives, and no longer."""

import subprocess
import sys
from pathlib import Path

from worker.process.workdirs import sweep, work_folder

HOLDER = """
import sys, time
from pathlib import Path
from worker.process.workdirs import work_folder
with work_folder(Path(sys.argv[1]), "aud_1.1.") as folder:
    (folder / "spec.json").write_text("{}")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_a_folder_is_private_and_gone_after_the_block(tmp_path: Path) -> None:
    root = tmp_path / "work"
    with work_folder(root, "aud_1.1.") as folder:
        assert folder.name.startswith("aud_1.1.")
        assert (folder.stat().st_mode & 0o777, root.stat().st_mode & 0o777) == (0o700, 0o700)
        (folder / "x").write_text("x")
        assert sweep(root) == 0
        assert (folder / "x").exists()
    assert list(root.iterdir()) == []


def test_the_folder_of_a_killed_supervisor_is_swept(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder, holder.stdout:
        folder = Path(holder.stdout.readline().strip())
        assert sweep(tmp_path) == 0
        assert (folder / "spec.json").exists()
        holder.kill()
        holder.wait()
    assert sweep(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_sweep_is_no_error(tmp_path: Path) -> None:
    assert sweep(tmp_path / "never") == 0
    (tmp_path / "a file").write_text("of somebody else")
    assert sweep(tmp_path) == 0
