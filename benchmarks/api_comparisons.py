"""How long the API takes to compare two audits of a million samples each, on one dataset and on two.

    python -m benchmarks.api_comparisons [--rows 1000000] [--out FOLDER]

Loads three audits as benchmarks.api_findings does: two on one dataset, whose scores differ by chance, and one on
another dataset of the same texts. Asks a real uvicorn for each comparison and its changes, the first time, when the
match of the samples is made, and again. Writes api_comparisons.json and prints a table.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.api_findings import empty_database, load, processor_seconds, serving, write_results


def load_audits(url: str, folder: Path, rows: int) -> list[dict[str, Any]]:
    """Two audits of one dataset and one of another, with their objects under `folder`/data."""
    found: list[dict[str, Any]] = []
    for seed in (7, 8, 9):
        flagged = write_results(folder, rows, seed)
        loaded = load(url, folder, rows, flagged, found[0]["dataset"] if seed == 8 else None)
        if seed != 8:
            stored = folder / "data" / "objects" / loaded["objects"]
            stored.mkdir(parents=True)
            (folder / "rows.parquet").rename(stored / "rows.parquet")
        found.append(loaded)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    with empty_database() as (folder, url, postmaster):
        first, second, third = load_audits(url, folder, arguments.rows)
        with serving(url, folder / "data") as (address, api):
            headers = {"Authorization": f"Bearer {first['secret']}"}
            with httpx.Client(base_url=address, headers=headers, timeout=60) as client:
                client.get("/v1/info")
                for name, other in (("one dataset", second), ("two datasets", third)):
                    for path, query in (("", ""), ("/changes", "&change=newly_flagged")):
                        for time_asked in ("first", "again"):
                            before, started = processor_seconds(api, postmaster), time.perf_counter()
                            answer = client.get(
                                f"/v1/comparisons{path}?base={first['audit']}&other={other['audit']}{query}"
                            )
                            seconds = time.perf_counter() - started
                            assert answer.status_code == 200, answer.text
                            figures[f"{name}{path}, {time_asked}"] = {
                                "seconds": round(seconds, 3),
                                "processor": round(processor_seconds(api, postmaster) - before, 2),
                            }
        for case, found in figures.items():
            print("|", case, "|", found["seconds"], "|", found["processor"], "|")
        arguments.out.mkdir(parents=True, exist_ok=True)
        report = {"rows": arguments.rows, "seconds": figures}
        (arguments.out / "api_comparisons.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
