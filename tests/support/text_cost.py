"""CPU seconds and peak memory of functions that read texts, on 100,000 samples."""

import json
import subprocess
import sys
from typing import Any

MEASURE = """
import json, pathlib, re, sys, time
def peak_kib():  # not ru_maxrss, in which a new process inherits that of the one which started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
import numpy as np
generator = np.random.default_rng(0)
words = np.array(["".join(w) for w in generator.choice(list("abcdefghijklmnopqrstuvwxyz"), (60000, 6)).tolist()])
rank = generator.zipf(1.1, (100_000, 150)) % 60000
rows = [" ".join(words[r]) for r in rank]
del rank
messages = [[{"role": "user", "content": t[:300]}, {"role": "assistant", "content": t[300:]}] for t in rows]
size = sum(map(len, rows))
del rows
before = peak_kib()
from worker.text.WHERE import WHAT
started = time.process_time()
WHAT(messages, *ARGUMENTS)
print(json.dumps({"bytes": size, "seconds": time.process_time() - started, "before_kib": before,
                  "peak_kib": peak_kib()}))
"""


def measured(where: str, what: str, arguments: str = "[]") -> dict[str, Any]:
    """CPU seconds and peak memory of a function on 100,000 samples of about 1 kB, in a process of its own."""
    code = MEASURE.replace("WHERE", where).replace("WHAT", what).replace("ARGUMENTS", arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    print(what, figures)
    return figures
