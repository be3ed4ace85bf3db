"""A child that follows a script instead of training: `scripted_child.py SCRIPT FOLDER`, SCRIPT a JSON list of actions.

It speaks the real protocol and writes real files, and does what real children only do on a bad day.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def main(script: list[list[Any]], folder: Path) -> None:
    cancelled = threading.Event()

    def read_commands() -> None:
        for line in sys.stdin:
            if json.loads(line)["type"] == "cancel":
                break
        cancelled.set()

    threading.Thread(target=read_commands, daemon=True).start()
    for action, *arguments in script:
        match action:
            case "say":
                print(json.dumps(arguments[0]), flush=True)
            case "raw":
                sys.stdout.buffer.write(arguments[0].encode("utf-8", "surrogatepass") * arguments[1])
                sys.stdout.flush()
            case "stderr":
                sys.stderr.write(arguments[0] * arguments[1])
                sys.stderr.flush()
            case "keep":  # what it was given, for the test to look at
                target = Path(arguments[0])
                shutil.copytree(folder, target / "folder")
                (target / "environment.json").write_text(json.dumps(dict(os.environ)))
                (target / "identity.json").write_text(
                    json.dumps({"pid": os.getpid(), "sid": os.getsid(0), "mode": folder.stat().st_mode & 0o777})
                )
            case "outputs":
                write_outputs(folder, **arguments[0])
            case "sleep":
                time.sleep(arguments[0])
            case "touch":
                Path(arguments[0]).touch()
            case "until":
                while not Path(arguments[0]).exists():
                    time.sleep(0.02)
            case "exit_when_told":
                cancelled.wait()
                sys.exit(3)
            case "deaf":  # to stdin
                time.sleep(600)
            case "deaf_to_sigterm":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            case "grandchild":
                sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
                Path(arguments[0]).write_text(str(sleeper.pid))
            case "signal":
                os.kill(os.getpid(), arguments[0])
            case "exit":
                sys.stdout.flush()
                os._exit(arguments[0])
            case _:
                raise ValueError(action)


def write_outputs(folder: Path, rows: int, flagged: int, summary: dict[str, Any], **changes: Any) -> None:
    """scores.parquet with row r at rank rows - r (so the last rows are flagged), and summary.json."""
    scores = [
        {
            "row": rows - rank, "rank": rank, "n": 2, "mu": 1.0 / rank, "mu_low": None, "mu_high": 2.0 / rank,
            "z": float(rows - rank), "z_reference": None, "p": rank / (rows + 1), "q": rank / (rows + 1),
            "flagged": rank <= flagged, "group": "a\0b" if rank == 1 else None,
        }
        for rank in range(1, rows + 1)
    ]  # fmt: skip
    for score in scores:
        score.update(changes)
    pq.write_table(pa.Table.from_pylist(scores), folder / "scores.parquet", row_group_size=7)
    (folder / "summary.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
