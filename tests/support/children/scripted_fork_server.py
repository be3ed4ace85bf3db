"""The fork server with other imports and other children: `scripted_fork_server.py HOW DESCRIPTOR ROOM`, HOW in JSON.

Its children are scripted ones, with `script`; what it does while it should import is `importing`, a line of Python.
"""

import json
import os
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from worker.child import fork_server, run
from worker.process.prctl import set_title

sys.path.append(str(Path(__file__).parent))
import scripted_child

HOW: dict[str, Any] = json.loads(sys.argv[1])


def import_other() -> None:
    exec(HOW.get("importing", ""), {})


def run_script(folder: Path) -> NoReturn:
    """As the interpreter runs `scripted_child.py SCRIPT FOLDER`, and found by its command line like that."""
    set_title(f"{sys.executable} {scripted_child.__file__} SCRIPT {folder}")
    try:
        scripted_child.main(HOW["script"], folder)
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)


fork_server.import_steps = import_other
fork_server.has_touched_a_gpu = bool
fork_server.fresh_randomness = bool
run.run_and_exit = run_script
fork_server.main(socket.socket(fileno=int(sys.argv[2])))
