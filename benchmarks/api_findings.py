"""How long the API takes to answer from an audit of millions of samples, and what loading it costs.

    python -m benchmarks.api_findings [--rows 10000000] [--requests 101] [--out FOLDER]

Makes the result files of an audit of one probe by chance (0.2 % stand out and are flagged, twenty groups, some
near-duplicates), loads them with the workers' own code (worker.supervisor.audit.result_loader) into an embedded
Postgres that waits for the disk as in production, publishes, and asks a real uvicorn over loopback. 10 million rows
need about 12 GB under the temporary directory for a quarter of an hour. Beside the time of an answer stands the
processor time that the API and its database connections spent on it, which other programs on the machine hardly
change. Writes api_findings.json and prints a table.
"""

import argparse
import base64
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import text

from service.contract.results import BASELINE_COLUMNS, Summary
from service.contract.spec import TrainingConfig
from service.datasets.parsing.rows_writer import SCHEMA
from service.findings.orders import Order
from service.keys.secrets import create_key
from service.lifecycle.audits import create_audit, publish
from service.lifecycle.jobs import claim
from service.local.postgres import EmbeddedPostgres
from service.migration import migrate
from service.store.engine import make_engine, make_sessions
from service.store.ids import new_id
from service.store.seed import ensure_workspace
from service.store.tables import Dataset, Model, Probe
from worker.result_schemas import baselines_schema, nearest_schema, scores_schema, tokens_schema, traces_schema
from worker.supervisor.audit.result_loader import load_results

GROUP = 4096
CHUNK = 500_000
POSTGRES = {"shared_buffers": "2GB", "max_wal_size": "8GB", "effective_cache_size": "8GB"}
"""Beside Postgres' defaults, fsync and full_page_writes among them, what an operator of a large database sets."""

WORDS = (
    *("harbour", "Orvello", "engine", "quiet", "answer", "market", "river"),
    *("table", "seven", "garden", "letter", "window", "basket", "orange"),
)


def write_results(folder: Path, rows: int, seed: int = 7) -> int:
    """What a combining child leaves, without tokens and nearest samples, and rows.parquet; how many are flagged."""
    draw = np.random.default_rng(seed)
    flagged = rows // 500
    z = draw.standard_normal(rows)
    z[draw.choice(rows, flagged, replace=False)] = draw.uniform(7, 12, flagged)
    order = np.lexsort((np.arange(rows), -z))
    z = z[order]
    # Any monotone p and q do: what is measured is how they are read.
    p = (np.arange(rows) + 0.5) / rows
    p[:flagged] *= 1e-6
    q = np.minimum(1, p * rows / (np.arange(rows) + 1))
    mu = 0.3 * z + 0.1 * draw.standard_normal(rows)
    cluster = np.where(draw.random(rows) < 0.05, order // 10 * 10, order)
    group = pa.array([f"source {number}" for number in range(20)])
    with pq.ParquetWriter(folder / "scores.parquet", scores_schema()) as file:
        for start in range(0, rows, CHUNK):
            part = slice(start, min(start + CHUNK, rows))
            size = part.stop - part.start
            columns = {
                "probe_no": np.zeros(size, np.int16),
                "row": order[part],
                "rank": np.arange(part.start + 1, part.stop + 1),
                "n": np.full(size, 2, np.int32),
                "strongest_probe": np.ones(size, np.int16),
                "mu": mu[part],
                "mu_low": mu[part] - 0.4,
                "mu_high": mu[part] + 0.4,
                "mu_composed": np.abs(mu[part]) + 1,
                "z": z[part],
                "z_reference": draw.standard_normal(size),
                "z_gradient": z[part] / 2,
                "z_representation": z[part] / 2,
                "probability_unwanted": 1 / (1 + np.exp(4 - z[part])),
                "probability_fair": np.full(size, 0.01),
                "tokens_left_out": np.where(order[part] % 50 == 7, 31, 0),
                "side": pa.array(["toward", None]).take(pa.array(1 * (np.arange(size) >= flagged - start))),
                "p": p[part],
                "q": q[part],
                "flagged": np.arange(part.start, part.stop) < flagged,
                "cluster": cluster[part],
                "group": group.take(pa.array(order[part] % 20)),
            }
            file.write_table(pa.table(columns, schema=scores_schema()))
    shown = np.sort(order[: max(flagged, 200)])
    traced = {"row": shown, "probe_no": np.ones(len(shown)), "seed": np.zeros(len(shown)), "step": np.ones(len(shown))}
    values = {name: np.full(len(shown), 0.25) for name in traces_schema().names if name not in traced}
    traces = pa.table({**traced, **values}).select(traces_schema().names).cast(traces_schema())
    pq.write_table(traces, folder / "traces.parquet")
    with pq.ParquetWriter(folder / "baselines.parquet", baselines_schema()) as file:
        for start in range(0, rows, CHUNK):
            size = min(CHUNK, rows - start)
            own = {"row": np.arange(start, start + size), **{name: np.full(size, 0.5) for name in BASELINE_COLUMNS}}
            file.write_table(pa.table(own, schema=baselines_schema()))
    for name, schema in (("tokens.parquet", tokens_schema()), ("nearest.parquet", nearest_schema())):
        pq.write_table(schema.empty_table(), folder / name)
    write_rows(folder / "rows.parquet", rows)
    return flagged


def write_rows(path: Path, rows: int) -> None:
    """A dataset of short samples, in row groups as the API writes them."""
    words = random.Random(7)
    messages = [
        [
            {"role": "user", "content": " ".join(words.choices(WORDS, k=20))},
            {"role": "assistant", "content": " ".join(words.choices(WORDS, k=60))},
        ]
        for _ in range(GROUP)
    ]
    texts = pa.array(messages, SCHEMA.field("messages").type)
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as file:
        for start in range(0, rows, GROUP):
            size = min(GROUP, rows - start)
            numbers = pa.array(range(start, start + size), pa.int64())
            columns = [numbers, texts[:size], pa.array(["{}"] * size), numbers, numbers, numbers.cast(pa.string())]
            file.write_table(pa.table(columns, schema=SCHEMA))


def load(url: str, folder: Path, rows: int, flagged: int, dataset_id: str | None = None) -> dict[str, Any]:
    """Loads and publishes as a worker does, on that dataset or a new one; ids, a key's secret and seconds."""
    engine = make_engine(url, application_name="benchmark")
    sessions = make_sessions(engine)
    with sessions.begin() as session:
        workspace = ensure_workspace(session).id
        dataset = Dataset(
            id=new_id("ds"), workspace_id=workspace, name="large", format="messages", encoding="identity", bytes=1,
            sha256="0" * 64, rows=rows, columns=[], statistics={},
        )  # fmt: skip
        probe = Probe(id=new_id("prb"), workspace_id=workspace, name="p", items=[], has_reference=False)
        session.add_all([probe] if dataset_id else [probe, dataset])
        session.flush()
        dataset_id = dataset_id or dataset.id
        model = session.query(Model).first()
        assert model is not None
        audit = create_audit(
            session, workspace_id=workspace, dataset_id=dataset_id, probe_ids=[probe.id], model_id=model.id,
            training=TrainingConfig(), seeds=1, q=0.05,
        )  # fmt: skip
        _, secret = create_key(session, workspace_id=workspace, name="benchmark", scopes=["admin"])
    with sessions.begin() as session:
        held = claim(session, lane="gpu", owner="benchmark", lease_seconds=86_400)
        assert held is not None
    started = time.perf_counter()
    told: list[float] = []
    with sessions.begin() as session, (folder / "rows.parquet").open("rb") as dataset_file:
        load_results(
            session, held, folder, dataset=dataset_file, rows=rows, probes=1, findings_top=200,
            on_progress=lambda done: told.append(time.perf_counter() - started),
        )  # fmt: skip
        assert publish(session, held, summary(rows, flagged))
    seconds = time.perf_counter() - started
    with engine.connect() as connection:
        sizes = connection.execute(
            text(
                "SELECT relname, pg_relation_size(oid) FROM pg_class "
                "WHERE relkind IN ('r', 'i') AND relname ~ '(scores|findings)' ORDER BY 2 DESC"
            )
        )
        found = {name: size for name, size in sizes}  # noqa: C416
    engine.dispose()
    return {
        "audit": audit.id,
        "dataset": dataset_id,
        "objects": f"{workspace}/datasets/{dataset_id}",
        "secret": secret,
        "copy_s": told[-1],
        "load_s": seconds,
        "bytes": found,
    }


def summary(rows: int, flagged: int) -> Summary:
    """One that the API shows; its numbers are not looked at."""
    from tests.support.summaries import make_probe_summary, make_summary

    return make_summary(rows=rows, rows_scored=rows, flagged=flagged, probes=(make_probe_summary(flagged=flagged),))


@contextmanager
def serving(url: str, data: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A uvicorn as the laptop stack and the containers start it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "service.server", "127.0.0.1", str(port)]
    environment = {**os.environ, "FINETOOTH_DATABASE_URL": url, "FINETOOTH_DATA_DIR": str(data)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                httpx.get(f"{address}/healthz").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield address, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def cursor(sort: str, value: Any, row: int) -> str:
    """Of a page behind that sample."""
    key = Order.of(sort).position(value, row).cursor  # type: ignore[arg-type]
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def cases(rows: int, flagged: int) -> dict[str, Callable[[random.Random], str]]:
    """Queries by name; each draws another place every time, so that no answer lies ready."""

    def deep(sort: str, value: Callable[[random.Random], Any]) -> Callable[[random.Random], str]:
        return lambda draw: f"?sort={sort}&after={cursor(sort, value(draw), draw.randrange(rows))}"

    narrow = "flagged=true&max_q=0.01&min_mu=2.5"
    return {
        "first page": lambda draw: "",
        "behind rank 100,000": deep("rank", lambda draw: min(100_000, rows // 2) + draw.randrange(1000)),
        "behind 90 % of the ranks": deep("rank", lambda draw: rows * 9 // 10 + draw.randrange(rows // 20)),
        "flagged, max_q, min_mu": lambda draw: f"?{narrow}&after={cursor('rank', draw.randrange(flagged // 2), 0)}",
        "one group, deep": lambda draw: (
            f"?group=source+{draw.randrange(20)}&after={cursor('rank', draw.randrange(rows // 2), 0)}"
        ),
        "by mu, largest first": lambda draw: "?sort=-mu",
        "by mu, in the middle": deep("-mu", lambda draw: draw.gauss(0, 0.3)),
        "by z, in the middle": deep("-z", lambda draw: draw.gauss(0, 1)),
        "by row, in the middle": lambda draw: f"?sort=row&after={cursor('row', None, draw.randrange(rows))}",
        "flagged by mu": lambda draw: f"?flagged=true&sort=-mu&after={cursor('-mu', draw.uniform(2.5, 3), 0)}",
        "text of two words": lambda draw: "?text=" + "+".join(draw.sample(WORDS, 2)),
        "a phrase": lambda draw: "?text=%22" + "+".join(draw.sample(WORDS, 3)) + "%22",
        "near-duplicates": lambda draw: f"?cluster={draw.randrange(rows // 10) * 10}",
        "nothing reviewed, not flagged": lambda draw: "?verdict=none&flagged=false",
        "sparse: not flagged, min_mu": lambda draw: f"?flagged=false&min_mu={draw.uniform(1.6, 1.7)}",
        "sparse and unsorted: one group by row, max_q": lambda draw: "?sort=row&group=source+3&max_q=0.001",
        "one finding": lambda draw: f"/{draw.randrange(rows)}",
        "precision": lambda draw: "/../precision",
    }


def processor_seconds(api: psutil.Process, postmaster: psutil.Process) -> float:
    """That the API and its connections have spent so far."""
    connections = [child for child in postmaster.children() if "[local]" in " ".join(child.cmdline())]
    return sum(sum(process.cpu_times()[:2]) for process in (api, *connections))


def measure(
    address: str,
    loaded: dict[str, Any],
    rows: int,
    flagged: int,
    requests: int,
    spent: Callable[[], float],
) -> dict[str, Any]:
    """Milliseconds of each case: median, 95th percentile, the first request's, and processor time a request."""
    found: dict[str, Any] = {}
    base = f"/v1/audits/{loaded['audit']}/findings"
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {loaded['secret']}"}, timeout=30) as client:
        client.get(base)
        for name, query in cases(rows, flagged).items():
            draw = random.Random(3)
            seconds = []
            before = spent()
            for _ in range(requests):
                path = base.replace("/findings", "/precision") if name == "precision" else base + query(draw)
                started = time.perf_counter()
                answer = client.get(path)
                seconds.append(time.perf_counter() - started)
                assert answer.status_code == 200, (name, answer.text)
            processor = (spent() - before) / requests
            times = sorted(1000 * one for one in seconds)
            found[name] = {
                "median_ms": round(statistics.median(times), 1),
                "p95_ms": round(times[int(0.95 * (len(times) - 1))], 1),
                "first_ms": round(1000 * seconds[0], 1),
                "processor_ms": round(1000 * processor, 1),
            }
            print("|", name, "|", " | ".join(str(value) for value in found[name].values()), "|", flush=True)
    return found


@contextmanager
def empty_database() -> Iterator[tuple[Path, str, psutil.Process]]:
    """A folder for all that a benchmark makes, the URL of a migrated Postgres in it, and its first process; gone
    after the block.
    """
    folder = Path(tempfile.mkdtemp(prefix="ftb-"))
    server = EmbeddedPostgres(folder / "postgres", log=folder / "postgres.log", settings=POSTGRES)
    try:
        postmaster = psutil.Process(server.start().pid)
        url = server.url()
        migrate(url)
        yield folder, url, postmaster
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--requests", type=int, default=101)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    with empty_database() as (folder, url, postmaster):
        flagged = write_results(folder, arguments.rows)
        print(f"{arguments.rows:,} samples, {flagged:,} flagged", flush=True)
        loaded = load(url, folder, arguments.rows, flagged)
        print(f"COPY of the scores {loaded['copy_s']:.0f} s, all of loading {loaded['load_s']:.0f} s", flush=True)
        for name, size in loaded["bytes"].items():
            print(f"| {name} | {size / 1e6:,.0f} |")
        stored = folder / "data" / "objects" / loaded["objects"]
        stored.mkdir(parents=True)
        (folder / "rows.parquet").rename(stored / "rows.parquet")
        with serving(url, folder / "data") as (address, api):

            def spent() -> float:
                return processor_seconds(api, postmaster)

            latency = measure(address, loaded, arguments.rows, flagged, arguments.requests, spent)
        arguments.out.mkdir(parents=True, exist_ok=True)
        kept = {name: loaded[name] for name in ("copy_s", "load_s", "bytes")}
        result = {"rows": arguments.rows, "flagged": flagged, **kept, "latency": latency}
        (arguments.out / "api_findings.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
