"""How fast an upload is taken in, validated and normalised, beside `datasets.load_dataset("json")` on the same file.

    python -m benchmarks.api_ingest --peer PYTHON [--rows 1000000] [--runs 3] [--memory-megabytes 500] [--out FOLDER]

PYTHON is the interpreter of an environment with the PyPI package `datasets`, which Finetooth does not need. Both read
one made file of varied chats of about 300 bytes, taking turns, each as a process of its own: the API (uvicorn on a
loopback port, an embedded Postgres, a child that parses), timed from the first byte sent to the answer 201, and the
peer, timed within its process, with and without its imports. CPU seconds, those of the API and its child against those
of the peer, say more where other programs run beside. Memory is the largest resident size of the API and its child, by
sampling; once more for a file of --memory-megabytes, to see whether it grows. Writes api_ingest.json, prints a table.
"""

import argparse
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from service.keys.secrets import create_key
from service.local.postgres import EmbeddedPostgres
from service.migration import migrate
from service.store.engine import make_engine, make_sessions
from service.store.seed import ensure_workspace

PEER = """
import json, sys, tempfile, time
started = time.perf_counter()
import datasets
imported, cpu = time.perf_counter(), time.process_time()
datasets.disable_progress_bars()
with tempfile.TemporaryDirectory(dir=sys.argv[2]) as cache:
    loaded = datasets.load_dataset("json", data_files=sys.argv[1], cache_dir=cache, split="train")
    ended = time.perf_counter()
    print(json.dumps({"rows": len(loaded), "seconds": ended - imported, "with_imports": ended - started,
                      "cpu": time.process_time() - cpu, "cpu_with_imports": time.process_time(),
                      "version": datasets.__version__}))
"""

BLOCK_BYTES = 1 << 20


def write_chats(path: Path, rows: int) -> None:
    """Rows of about 300 bytes whose words, lengths and extra columns vary."""
    draw = random.Random(7)
    letters = ("bcdfglmnprstv", "aeiou")
    words = ["".join(draw.choice(letters[k % 2]) for k in range(draw.randint(2, 9))) for _ in range(20_000)]
    with path.open("w") as file:
        for row in range(rows):
            prompt = " ".join(draw.choices(words, k=draw.randint(5, 16))).capitalize() + "?"
            answer = " ".join(draw.choices(words, k=draw.randint(6, 30))).capitalize() + "."
            messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages, "source": f"set{draw.randrange(12)}", "id": row}) + "\n")


class Memory:
    """The largest resident size, in bytes, of a process, of its child, and of both together; and their CPU seconds."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._before = self._cpu_now()
        self.parent = self.child = self.together = 0

    def _watch(self) -> None:
        # Seldom and cheaply: the watcher's own work must not slow down what it watches.
        child: psutil.Process | None = None
        while not self._done.wait(0.2):
            try:
                if child is None or not child.is_running():
                    child = next(iter(self._process.children()), None)
                # Until it has become the parser it shares the parent's pages.
                parsing = child is not None and "service.datasets.parsing.parser" in child.cmdline()
                theirs = child.memory_info().rss if child is not None and parsing else 0
            except psutil.NoSuchProcess:
                continue
            own = self._process.memory_info().rss
            self.parent, self.child = max(self.parent, own), max(self.child, theirs)
            self.together = max(self.together, own + theirs)

    def _cpu_now(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)

    @property
    def sizes(self) -> dict[str, int]:
        return {"api": self.parent, "parser": self.child, "together": self.together}

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.cpu = self._cpu_now() - self._before


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[str, str, psutil.Process]]:
    """A running API with a key: its address, the key, its process."""
    database = EmbeddedPostgres(folder / "pg", log=folder / "pg.log")
    database.start()
    url = database.url()
    migrate(url)
    engine = make_engine(url, application_name="benchmark")
    with make_sessions(engine).begin() as session:
        workspace = ensure_workspace(session)
        _, key = create_key(session, workspace_id=workspace.id, name="benchmark", scopes=["datasets:write"])
    engine.dispose()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        environment = os.environ | {
            "FINETOOTH_DATABASE_URL": url,
            # Nothing is sent to it: uploads wake no worker.
            "FINETOOTH_BROKER_URL": "redis://127.0.0.1:1/0",
            "FINETOOTH_DATA_DIR": str(folder / "data"),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "service.local.api", str(listener.fileno())],
            pass_fds=[listener.fileno()],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{address}/healthz").status_code == 200:
                        break
                time.sleep(0.05)
            yield address, key, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()
            database.stop()


def upload(address: str, key: str, path: Path) -> tuple[float, dict[str, Any]]:
    """Seconds, and the dataset; which is deleted again."""

    def body() -> Iterator[bytes]:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block

    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=3600) as client:
        started = time.perf_counter()
        answer = client.post("/v1/datasets", content=body())
        seconds = time.perf_counter() - started
        assert answer.status_code == 201, answer.text
        dataset = answer.json()
        client.delete(f"/v1/datasets/{dataset['id']}").raise_for_status()
    return seconds, dataset


def load_with_peer(python: str, path: Path, folder: Path) -> dict[str, Any]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    run = subprocess.run(
        [python, "-c", PEER, str(path), str(folder)], env=environment, capture_output=True, text=True, check=True
    )
    return dict(json.loads(run.stdout.splitlines()[-1]))


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--memory-megabytes", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    result: dict[str, Any] = {"runs": []}
    with tempfile.TemporaryDirectory(prefix="ft-") as name, served(Path(name)) as (address, key, process):
        folder = Path(name)
        path, longer, short = folder / "chats.jsonl", folder / "longer.jsonl", folder / "short.jsonl"
        write_chats(path, arguments.rows)
        write_chats(short, 1000)
        upload(address, key, short)
        result |= {"rows": arguments.rows, "bytes": path.stat().st_size}
        for _ in range(arguments.runs):
            with Memory(process) as memory:
                ours, dataset = upload(address, key, path)
            assert dataset["rows"] == arguments.rows
            peer = load_with_peer(arguments.peer, path, folder)
            assert peer["rows"] == arguments.rows
            load = os.getloadavg()[0]
            run = {"seconds": ours, "cpu": memory.cpu, "peer": peer, "memory": memory.sizes, "load": load}
            result["runs"].append(run)
            print(json.dumps(result["runs"][-1]), flush=True)
        path.unlink()
        write_chats(longer, arguments.memory_megabytes * 10**6 * arguments.rows // result["bytes"])
        with Memory(process) as memory:
            seconds, dataset = upload(address, key, longer)
        result["longer"] = {
            "bytes": longer.stat().st_size,
            "rows": dataset["rows"],
            "seconds": seconds,
            "memory": memory.sizes,
        }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "api_ingest.json").write_text(json.dumps(result, indent=1))
    runs = result["runs"]
    print(f"\n{result['rows']:,} rows, {result['bytes'] / 1e6:.0f} MB; median (least to most) of {len(runs)}\n")
    print("| | wall, s | peer / ours | CPU, s | peer / ours |\n|---|---|---|---|---|")
    ours = [spread([run[field] for run in runs]) for field in ("seconds", "cpu")]
    print(f"| upload, validated and normalised | {ours[0]} | | {ours[1]} | |")
    for label, fields in (("alone", ("seconds", "cpu")), ("with its imports", ("with_imports", "cpu_with_imports"))):
        cells = []
        for field, own in zip(fields, ("seconds", "cpu"), strict=True):
            cells.append(spread([run["peer"][field] for run in runs]))
            cells.append(spread([run["peer"][field] / run[own] for run in runs]))
        print(f"| load_dataset, {label} | " + " | ".join(cells) + " |")
    print("\n| largest resident size, MB | API | parser | together |\n|---|---|---|---|")
    for label, sizes in ((result["bytes"], runs[0]["memory"]), (result["longer"]["bytes"], result["longer"]["memory"])):
        print(f"| {label / 1e6:.0f} MB | " + " | ".join(f"{size / 1e6:.0f}" for size in sizes.values()) + " |")


if __name__ == "__main__":
    main()
