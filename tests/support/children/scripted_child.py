"""A child that follows a script instead of training: `scripted_child.py SCRIPT FOLDER`, SCRIPT a JSON list of actions.

It speaks the real protocol and writes real files, and does what real children only do on a bad day.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any


class Told(threading.Event):
    """What it is told on stdin, as a real child hears it; but the script says what it does then. Set: it should end."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.why = ""
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        deadline = time.monotonic() + 600
        while select.select([sys.stdin], [], [], max(0.0, deadline - time.monotonic()))[0]:
            lines = os.read(0, 4096).decode().splitlines()
            self.lines += lines
            commands = [json.loads(line) for line in lines]
            for command in commands:
                if command["type"] == "lease":
                    deadline = time.monotonic() + command["ttl_s"]
            # Told to save it stops, too, as a child that has nothing to save yet.
            if not lines or any(command["type"] in ("cancel", "save_and_stop") for command in commands):
                self.why = "told"
                break
        else:
            self.why = "the lease has run out"
        self.set()


def main(script: list[list[Any]], folder: Path) -> None:
    told = Told()
    spec = json.loads((folder / "spec.json").read_text())
    act(script, folder, spec, told)


def act(script: list[list[Any]], folder: Path, spec: dict[str, Any], told: Told) -> None:
    for action, *arguments in script:
        match action:
            case "if":
                if spec["step_key"].startswith(arguments[0]):
                    act(arguments[1], folder, spec, told)
            case "say":
                print(json.dumps(arguments[0]), flush=True)
            case "raw":
                sys.stdout.buffer.write(arguments[0].encode("utf-8", "surrogatepass") * arguments[1])
                sys.stdout.flush()
            case "stderr":
                sys.stderr.write(arguments[0] * arguments[1])
                sys.stderr.flush()
            case "keep":  # what it was given, for the test to look at
                target = Path(arguments[0], spec["step_key"])
                shutil.copytree(folder, target / "folder")
                (target / "environment.json").write_text(json.dumps(dict(os.environ)))
                (target / "identity.json").write_text(
                    json.dumps({"pid": os.getpid(), "sid": os.getsid(0), "mode": folder.stat().st_mode & 0o777})
                )
            case "outputs":
                if spec["step_key"] == "combine":
                    write_results(folder, **arguments[0])
                else:
                    write_recording(folder, spec)
            case "write":
                (folder / arguments[0]).write_text(arguments[1])
            case "sleep":
                time.sleep(arguments[0])
            case "touch":
                Path(arguments[0]).touch()
            case "until":
                while not Path(arguments[0]).exists():
                    time.sleep(0.02)
            case "exit_when_told":
                told.wait()
                sys.exit(3)
            case "checkpoint":
                write_checkpoint(folder, *arguments)
            case "save_when_told":
                told.wait()
                if json.loads(told.lines[-1])["type"] != "save_and_stop":
                    sys.exit(3)
                write_checkpoint(folder, *arguments)
                os._exit(4)
            case "note_end":  # and why
                told.wait()
                Path(arguments[0]).write_text(told.why)
                sys.exit(3)
            case "note_commands":  # those heard so far
                Path(arguments[0]).write_text("\n".join(told.lines))
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


def write_checkpoint(folder: Path, name: str, content: str) -> None:
    """One that says who wrote it, and the event."""
    own = folder / "checkpoints" / name
    own.mkdir(parents=True)
    for file in ("weights.safetensors", "manifest.json"):
        (own / file).write_text(content)
    print(json.dumps({"type": "checkpoint", "name": name}), flush=True)


def write_recording(folder: Path, spec: dict[str, Any]) -> None:
    """recording.npz, which tells who wrote it."""
    with zipfile.ZipFile(folder / "recording.npz", "w") as file:
        file.writestr("step", json.dumps({"step_key": spec["step_key"], "attempt": spec["attempt"]}))


def write_results(
    folder: Path,
    rows: int,
    flagged: int,
    summary: dict[str, Any],
    probes: int = 1,
    leave_out: str = "",
    traces: dict[str, Any] | None = None,
    baselines: dict[str, Any] | None = None,
    tokens: dict[str, Any] | None = None,
    nearest: dict[str, Any] | None = None,
    **changes: Any,
) -> None:
    """All files; in every result row r is at rank rows - r, so that the last rows are flagged.

    The result of probe 2 alone is the other way round. changes, traces and the others are put into each record.
    Tokens and nearest samples are of all rows but the last.
    """
    # Imported here: most children write none, and start five times as fast.
    import pyarrow as pa
    import pyarrow.parquet as pq

    scores = []
    for probe_no in range(probes + 1) if probes > 1 else [0]:
        for rank in range(1, rows + 1):
            row = rank - 1 if probe_no == 2 else rows - rank
            scores.append(
                {
                    "probe_no": probe_no, "row": row, "rank": rank, "n": 2, "tokens_left_out": rank % 3,
                    "strongest_probe": max(probe_no, 1), "mu": 1.0 / rank, "mu_low": None,
                    "mu_high": 2.0 / rank, "mu_composed": 3.0 / rank,
                    "z": float(rows - rank), "z_reference": None, "z_gradient": 1.5, "z_representation": None,
                    "side": "toward" if rank == 1 else None, "probability_unwanted": 0.25, "probability_fair": None,
                    "p": rank / (rows + 1), "q": rank / (rows + 1), "flagged": rank <= flagged, "cluster": row,
                    "group": "a\0b" if rank == 1 else None,
                }
            )  # fmt: skip
    observations = [
        {"row": row, "probe_no": probe_no, "seed": 7, "step": step, "effect": row / 4, "alignment": None, "mu": 0.5}
        for step in (9, 2)
        for row in range(rows)
        for probe_no in range(1, probes + 1)
    ]
    others = [
        {"row": row, "bm25": row / 2, "repeated_output": 1.0, "ngram_count": None, "length": 3.0, "loss": 2.0,
         "gradient_norm": 1.0, "representation_similarity": 0.5, "tracin": -1.0}
        for row in range(rows)
    ]  # fmt: skip
    shares = [
        {"row": row, "probe_no": probe_no, "message": message, "start": start, "end": end, "share": share}
        for row in range(rows - 1)
        for probe_no in range(1, probes + 1)
        for message, start, end, share in ((None, None, None, 0.125), (1, 7, 8, -0.25), (1, 0, 6, 0.625))
    ]
    near = [
        {"row": row, "place": place, "neighbour": (row + place) % rows, "similarity": 1 / place,
         "near_duplicate": place == 1}
        for row in range(rows - 1)
        for place in (2, 1)
    ]  # fmt: skip
    files = {
        "tokens.parquet": [own | (tokens or {}) for own in shares],
        "nearest.parquet": [own | (nearest or {}) for own in near],
        "scores.parquet": [score | changes for score in scores],
        "traces.parquet": [observation | (traces or {}) for observation in observations],
        "baselines.parquet": [other | (baselines or {}) for other in others],
    }
    for name, records in files.items():
        pq.write_table(pa.Table.from_pylist(records), folder / name, row_group_size=7)
    (folder / "summary.json").write_text(json.dumps(summary))
    if leave_out:
        (folder / leave_out).unlink()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
