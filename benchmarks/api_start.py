"""How long the API takes from the start of its process to its first answer.

    python -m benchmarks.api_start [--runs 9] [--out FOLDER]

Starts uvicorn on a free loopback port as the laptop stack and the containers do and asks /healthz until it answers.
The database is not asked, so none has to run. Writes api_start.json and prints a line.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx


def start_once() -> float:
    """Seconds from starting the process to the first 200."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "service.server", "127.0.0.1", str(port)]
    environment = {**os.environ, "FINETOOTH_DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/none"}
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while time.perf_counter() - started < 60:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200:
                    return time.perf_counter() - started
            except httpx.TransportError:
                time.sleep(0.01)
        raise SystemExit("the API did not answer within a minute")
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    start_once()  # fills the page cache
    seconds = sorted(start_once() for _ in range(arguments.runs))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "api_start.json").write_text(json.dumps({"seconds": seconds}))
    print(f"first answer after {statistics.median(seconds):.2f} s (median of {len(seconds)}, ", end="")
    print(f"{seconds[0]:.2f} to {seconds[-1]:.2f} s)")


if __name__ == "__main__":
    main()
