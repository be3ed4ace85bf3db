"""Of what a child writes to stderr, places and kinds of errors are logged, and nothing that may be a sample."""

import subprocess
import sys
from pathlib import Path

from worker.process.stderr_filter import MAX_LINES, loggable

SECRET = "Xylophone-Quokka"


def stderr_of(program: str, tmp_path: Path) -> str:
    script = tmp_path / "crashing.py"
    script.write_text(program)
    return subprocess.run([sys.executable, script], capture_output=True, text=True).stderr


def test_of_a_real_traceback_the_places_and_types_stay(tmp_path: Path) -> None:
    stderr = stderr_of(
        f"def f():\n    raise ValueError('{SECRET}')\ntry:\n    f()\nexcept ValueError as e:\n"
        f"    raise RuntimeError('{SECRET}\\nline {SECRET}') from e\n",
        tmp_path,
    )
    assert SECRET in stderr
    place = f'File "{tmp_path / "crashing.py"}", line'
    assert loggable(stderr) == [
        f"{place} 4, in <module>", f"{place} 2, in f", "ValueError", f"{place} 6, in <module>", "RuntimeError",
    ]  # fmt: skip


def test_a_crash_of_native_code_tells_its_place(tmp_path: Path) -> None:
    stderr = stderr_of("import ctypes, faulthandler\nfaulthandler.enable()\nctypes.string_at(0)\n", tmp_path)
    lines = loggable(stderr)
    assert "Segmentation fault" in lines
    assert f'File "{tmp_path / "crashing.py"}", line 3, in <module>' in lines


def test_samples_that_look_like_errors_stay_out() -> None:
    samples = [
        f"{SECRET}Error: it is me",
        f'  File "/home/{SECRET}/x.py", line 3, in {SECRET}',
        f'  File "{SECRET}.py", line 3, in f',
        f'Loading "{SECRET}": 100%',
        f"torch.{SECRET}",
        f"CUDA error: {SECRET}",
        SECRET,
    ]
    assert loggable("\n".join(samples)) == ["CUDA error"]


def test_it_is_short_whatever_the_child_writes() -> None:
    assert loggable("ValueError: x\n" * 100_000) == ["ValueError"]
    assert len(loggable("ValueError: x\nKeyError: y\n" * 10_000)) == MAX_LINES
