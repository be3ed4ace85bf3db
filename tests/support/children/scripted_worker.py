"""A real worker, `celery -A scripted_worker worker`, whose children follow the script in SCRIPT."""

import os
import sys
from pathlib import Path

from worker import tasks
from worker.celery_app import app
from worker.process.launcher import Spawner

tasks.supervisor()._launcher = Spawner(
    (sys.executable, str(Path(__file__).with_name("scripted_child.py")), os.environ["SCRIPT"])
)

__all__ = ["app"]
