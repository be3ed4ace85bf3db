"""Many short audits on a stack in which something breaks every few seconds: is each of them answered, once?

    python -m benchmarks.soak [--audits 200] [--workers 2] [--fault-seconds 3 5] [--seed 0] [--out FOLDER]

Real Postgres, Valkey, workers and training children, on the tiny model and the short leases of tests/e2e/chaos. One
audit more than there are workers is open at any time, so that a recovery is not a wait in line. Faults are drawn from
a shuffled bag that holds each kind once. A third failure rightly ends an audit as failed; an audit that has two is
therefore spared by the faults that certainly cost an attempt, but not by a restart of Postgres.

Writes soak.json, prints a table, and exits with 1 where an audit has not come to what it should have.
"""

import argparse
import json
import shutil
import tempfile
import time
from datetime import datetime
from pathlib import Path

from benchmarks.faults import Breaker
from benchmarks.soak_figures import Figures, figures_of, table
from service.lifecycle.transitions import TERMINAL
from tests.support.chaos import SHORT, Chaos, Servers, undisturbed_scores

STALLED_SECONDS = 400.0
"""After so long without the end of any audit, those that are open count as lost."""
TOLD_EVERY_SECONDS = 15.0


def soak(servers: Servers, *, audits: int, workers: int, fault_seconds: tuple[float, float], seed: int) -> Figures:
    """Runs `audits` of them, with a fault every `fault_seconds` (from, to), and judges what has become of each."""
    expected = undisturbed_scores(servers, SHORT)
    chaos = Chaos(servers)
    try:
        breaker = Breaker(chaos, workers=workers, seed=seed, pause=fault_seconds)
        started = time.monotonic()
        created = run(chaos, breaker, audits=audits, open_at_once=workers + 1)
        seconds = time.monotonic() - started
        breaker.mend()
        return figures_of(chaos, created, breaker.faults, expected=expected, seconds=seconds)
    finally:
        chaos.close()


def run(chaos: Chaos, breaker: Breaker, *, audits: int, open_at_once: int) -> list[str]:
    """Until every audit has ended, or none does any more; their ids."""
    created: list[str] = []
    ended, started = 0, time.monotonic()
    ended_at, told_at = started, started
    while ended < audits:
        states = chaos.states()
        now_ended = sum(state in TERMINAL for state in states.values())
        if now_ended > ended:
            ended, ended_at = now_ended, time.monotonic()
        created += [chaos.create(SHORT) for _ in range(min(audits - len(created), open_at_once + ended - len(created)))]
        now = time.monotonic()
        if now - ended_at > STALLED_SECONDS:
            break
        if now - told_at > TOLD_EVERY_SECONDS:
            told_at = now
            left = f"{(now - started) / ended * (audits - ended) / 60:.0f} min left" if ended else "no estimate yet"
            print(f"{ended} of {audits} audits have ended, {len(breaker.faults)} faults, {left}", flush=True)
        breaker.act()
        time.sleep(0.2)
    return created


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audits", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--fault-seconds", type=float, nargs=2, default=(3.0, 5.0), metavar=("FROM", "TO"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ft-s-"))
    servers = Servers(folder)
    try:
        servers.start()
        figures = soak(
            servers,
            audits=asked.audits,
            workers=asked.workers,
            fault_seconds=(asked.fault_seconds[0], asked.fault_seconds[1]),
            seed=asked.seed,
        )
    finally:
        servers.stop()
        shutil.rmtree(folder, ignore_errors=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    document = {"date": datetime.now().date().isoformat(), **vars(asked), "out": str(asked.out), **figures.as_dict()}
    (asked.out / "soak.json").write_text(json.dumps(document, indent=1))
    print("\n".join(table(figures)))
    if not figures.sound:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
