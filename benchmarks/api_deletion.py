"""What reading and deleting an audit of millions of samples costs: its report, DELETE, and clearing away behind it.

    python -m benchmarks.api_deletion [--rows 1000000] [--out FOLDER]

Loads an audit as benchmarks.api_findings does, and asks a real uvicorn over loopback for its report and for its end.
Then what the reconciler does is done here, in rounds of the length that it takes, one right after the other, on a
connection with the API's statement timeout. Writes api_deletion.json and prints a table.
"""

import argparse
import json
import time
from pathlib import Path

import httpx
from sqlalchemy import func, text, update

from benchmarks.api_findings import empty_database, load, processor_seconds, serving, write_results
from service.lifecycle.purging import purge_due
from service.lifecycle.reconcile import PURGING
from service.settings import Settings
from service.store.engine import make_engine, make_sessions
from service.store.local_objects import LocalObjects
from service.store.tables import AuditData


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    figures: dict[str, float] = {"rows": arguments.rows}

    def note(name: str, value: float) -> None:
        figures[name] = round(value, 3)
        print(f"| {name} | {value:,.3f} |", flush=True)

    with empty_database() as (folder, url, postmaster):
        flagged = write_results(folder, arguments.rows)
        loaded = load(url, folder, arguments.rows, flagged)
        note("loading, s", loaded["load_s"])
        with serving(url, folder / "data") as (address, api):
            headers = {"Authorization": f"Bearer {loaded['secret']}"}
            with httpx.Client(base_url=address, headers=headers, timeout=60) as client:
                path = f"/v1/audits/{loaded['audit']}"
                for name in ("first", "second"):
                    before, started = processor_seconds(api, postmaster), time.perf_counter()
                    report = client.get(f"{path}/report").raise_for_status()
                    note(f"{name} report, s", time.perf_counter() - started)
                    note(f"{name} report, processor s", processor_seconds(api, postmaster) - before)
                note("report, KB", len(report.content) / 1e3)
                started = time.perf_counter()
                client.delete(path).raise_for_status()
                note("DELETE, s", time.perf_counter() - started)
        settings = Settings(data_dir=folder / "data")
        engine = make_engine(
            url, pool_size=1, statement_timeout_ms=settings.statement_timeout_ms, application_name="benchmark"
        )
        sessions, objects = make_sessions(engine), LocalObjects(settings.objects)
        with sessions.begin() as session:
            session.execute(update(AuditData).values(purge_at=func.now()))
        rounds, started = [], time.perf_counter()
        whole = False
        while not whole:
            began = time.perf_counter()
            whole = purge_due(sessions, objects, seconds=PURGING * settings.reconcile_seconds)
            rounds.append(time.perf_counter() - began)
        seconds = time.perf_counter() - started
        note("clearing away, s", seconds)
        note("scores cleared away a second", arguments.rows / seconds)
        note("rounds", len(rounds))
        note("longest round, s", max(rounds))
        with engine.connect() as connection:
            for table in ("audits", "audit_data", "score_lists", "scores", "findings"):
                assert connection.scalar(text(f"SELECT count(*) FROM {table}")) == 0, table
        engine.dispose()
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "api_deletion.json").write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
