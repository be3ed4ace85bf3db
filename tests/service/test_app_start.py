"""The API starts quickly: it imports none of what trains, nor what it needs seldom."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.app import create_app
from service.settings import Settings

PROGRAM = """
import json, sys, time
started = time.process_time()
from service.app import create_app
from service.settings import Settings
create_app(Settings(database_url="postgresql+psycopg://localhost/none", data_dir=sys.argv[1]))
print(json.dumps({"seconds": time.process_time() - started, "modules": sorted(sys.modules)}))
"""

HEAVY = {"torch", "transformers", "peft", "accelerate", "scipy", "pandas", "numpy", "pyarrow", "altair", "vl_convert"}


def test_heavy_modules_are_not_imported(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    seen = json.loads(answer.stdout.splitlines()[-1])
    assert HEAVY & set(seen["modules"]) == set()
    assert not [name for name in seen["modules"] if name.split(".")[0] == "worker"]
    record_property("start_cpu_seconds", seen["seconds"])
    print(f"importing and creating the API took {seen['seconds']:.2f} s of processor time")


def test_without_a_database_it_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="FINETOOTH_DATABASE_URL"):
        create_app(Settings(database_url=None, data_dir=tmp_path))


LONE_SERVER = """
import gc
from service.app import create_app
create_app()
gc.collect()  # of what the start left
print(gc.get_freeze_count(), len(gc.get_objects()))
"""


def test_a_server_does_not_stop_to_look_through_what_it_started_with(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "FINETOOTH_DATABASE_URL": "postgresql+psycopg://localhost/none",
        "FINETOOTH_DATA_DIR": str(tmp_path),
    }
    answer = subprocess.run(
        [sys.executable, "-c", LONE_SERVER], capture_output=True, text=True, check=True, timeout=120, env=environment
    )
    frozen, looked_through = map(int, answer.stdout.split())
    assert frozen > 50_000
    assert looked_through < frozen / 50
