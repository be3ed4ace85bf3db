"""How long the dashboard's pages take with a million findings in an audit and ten thousand audits in a workspace.

    python -m benchmarks.dashboard [--rows 1000000] [--audits 10000] [--requests 51] [--out FOLDER]

Makes two audits of one dataset as `benchmarks.api_findings` does, by COPY into an embedded Postgres; copies the first
one's row ten thousand times; lets two reviewers judge many of the flagged samples, so that some are disputed; and asks
a real uvicorn over loopback for every page, filters and orders of the findings each by itself. Beside the time of an
answer stands the processor time that the API and its database connections spent on it, which other programs on the
machine hardly change. With Chromium, it also measures the time from a key press to the painted verdict. Writes
dashboard.json and prints tables.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
from playwright.sync_api import sync_playwright
from sqlalchemy import text

from benchmarks.api_findings import WORDS, cursor, empty_database, load, processor_seconds, serving, write_results
from service.findings.list_address import COLUMNS
from service.http.auth.authentication import COOKIE
from service.http.pagination import make_cursor
from service.keys.secrets import create_key, open_browser_session
from service.store.engine import make_engine, make_sessions
from service.store.seed import ensure_workspace
from service.store.tables import Base
from tests.support.browser import launch_chromium

STATES = "(ARRAY['succeeded','succeeded','failed','cancelled'])[1 + number % 4]"

Query = Callable[[random.Random], str]


def copy_audits(url: str, audit_id: str, count: int) -> None:
    """Add audits like that one, in several states; they have no scores of their own."""
    engine = make_engine(url, application_name="benchmark")
    with engine.begin() as connection:

        def clone(table: str, key: str, changes: dict[str, str]) -> None:
            names = [column.name for column in Base.metadata.tables[table].columns]
            values = [changes.get(name, f'source."{name}"') for name in names]
            quoted = ", ".join(f'"{name}"' for name in names)
            connection.execute(
                text(
                    f"INSERT INTO {table} ({quoted}) SELECT {', '.join(values)} "  # names of our own
                    f"FROM {table} AS source, generate_series(1, :count) AS number WHERE source.{key} = :audit"
                ),
                {"count": count, "audit": audit_id},
            )

        new = "'aud_0' || lpad(to_hex(number), 31, '0')"
        job = "'job_0' || lpad(to_hex(number), 31, '0')"
        clone("audit_data", "audit_id", {"audit_id": new})
        clone("jobs", "subject_id", {"id": job, "subject_id": new, "state": STATES})
        at = "source.created_at - number * interval '1 minute'"
        clone("audits", "id", {"id": new, "job_id": job, "created_at": at})
        clone("audit_probes", "audit_id", {"audit_id": new})
        clone("audit_steps", "audit_id", {"audit_id": new})
    engine.dispose()
    vacuum = make_engine(url, application_name="benchmark").execution_options(isolation_level="AUTOCOMMIT")
    with vacuum.connect() as connection:
        connection.execute(text("VACUUM ANALYZE"))
    vacuum.dispose()


def sign_in(url: str) -> tuple[str, str]:
    """The cookie of a signed-in reviewer, and the secret of another one's key."""
    engine = make_engine(url, application_name="benchmark")
    with make_sessions(engine).begin() as session:
        workspace = ensure_workspace(session).id
        key, _ = create_key(session, workspace_id=workspace, name="Grace", scopes=["admin"])
        _, secret = create_key(session, workspace_id=workspace, name="Ada", scopes=["admin"])
        token = open_browser_session(session, workspace_id=workspace, key_id=key.id, hours=4)
    engine.dispose()
    return token, secret


def review(address: str, audit: str, secrets: tuple[str, str]) -> None:
    """Two reviewers judge flagged samples group by group: of two groups they differ."""
    path = f"{address}/v1/audits/{audit}/verdicts"
    for secret, groups, verdict in ((secrets[0], range(8), "confirmed"), (secrets[1], range(6, 10), "rejected")):
        headers = {"Authorization": f"Bearer {secret}"}
        for group in groups:
            body = {"filter": {"flagged": True, "group": f"source {group}"}, "verdict": verdict}
            seen = httpx.post(path, headers=headers, json={**body, "dry_run": True}, timeout=60).raise_for_status()
            token = seen.json()["token"]
            httpx.post(path, headers=headers, json={**body, "token": token}, timeout=60).raise_for_status()


def pages(loaded: dict[str, Any], other: str, rows: int, flagged: int) -> dict[str, Query]:
    """Addresses by name; each draws another place every time, so that no answer lies ready."""
    audit, dataset = f"/audits/{loaded['audit']}", loaded["dataset"]
    findings = f"{audit}/findings"

    def listed(query: str = "") -> Query:
        return lambda draw: f"{findings}{query}"

    def deep(sort: str, value: Callable[[random.Random], Any]) -> Query:
        return lambda draw: f"{findings}?sort={sort}&after={cursor(sort, value(draw), draw.randrange(rows))}"

    def word(draw: random.Random) -> str:
        return f"{findings}?text={'+'.join(draw.sample(WORDS, 2))}"

    return {
        "findings: first page": listed(),
        "findings: behind 90 % of the ranks": deep("rank", lambda draw: rows * 9 // 10 + draw.randrange(rows // 20)),
        "findings: least suspicious first": listed("?sort=-rank"),
        "findings: by mu, largest first": listed("?sort=-mu"),
        "findings: by mu, in the middle": deep("-mu", lambda draw: draw.gauss(0, 0.3)),
        "findings: by mu, smallest first": listed("?sort=mu"),
        "findings: by Z, in the middle": deep("-z", lambda draw: draw.gauss(0, 1)),
        "findings: by row, in the middle": deep("row", lambda draw: None),
        "findings: last reviewed first": listed("?sort=-reviewed_at"),
        "findings: flagged": listed("?flagged=true"),
        "findings: flagged, to review": listed("?flagged=true&verdict=none"),
        "findings: flagged, by mu": lambda draw: (
            f"{findings}?flagged=true&sort=-mu&after={cursor('-mu', draw.uniform(2.5, 3), 0)}"
        ),
        "findings: disputed": listed("?verdict=disputed"),
        "findings: rejected": listed("?verdict=rejected"),
        "findings: of one reviewer": lambda draw: f"{findings}?reviewer={loaded['reviewer']}",
        "findings: q at most": lambda draw: f"{findings}?max_q={draw.uniform(0.001, 0.01)}",
        "findings: Z and mu at least": lambda draw: f"{findings}?min_z={draw.uniform(6, 8)}&min_mu=2",
        "findings: one group, deep": lambda draw: (
            f"{findings}?group=source+{draw.randrange(20)}&after={cursor('rank', draw.randrange(rows // 2), 0)}"
        ),
        "findings: near-duplicates": lambda draw: f"{findings}?cluster={draw.randrange(rows // 10) * 10}",
        "findings: one side": listed("?side=toward"),
        "findings: text of two words": word,
        "findings: all columns": listed(f"?columns={','.join(COLUMNS)}"),
        "one finding": lambda draw: f"{findings}/{draw.randrange(rows)}",
        "one flagged finding, in its list": lambda draw: (
            f"{findings}/{draw.choice(loaded['shown'])}?flagged=true&verdict=none"
        ),
        "verdicts on many, before": lambda draw: (
            f"{audit}/verdicts?flagged=true&group=source+{draw.randrange(10, 20)}"
        ),
        "verdicts on many, their list": lambda draw: f"{audit}/bulks",
        "the audit": lambda draw: audit,
        "its exports": lambda draw: f"{audit}/exports",
        "two audits beside each other": lambda draw: f"/comparisons?base={loaded['audit']}&other={other}",
        "audits: first page": lambda draw: "/audits",
        "audits: in the middle": lambda draw: f"/audits?after={old_audit(draw)}",
        "audits: failed ones": lambda draw: "/audits?status=failed",
        "a new audit": lambda draw: "/audits/new",
        "datasets": lambda draw: "/datasets",
        "one dataset, its rows": lambda draw: f"/datasets/{dataset}?row={draw.randrange(rows - 20)}",
        "probes": lambda draw: "/probes",
        "signed-in browsers": lambda draw: "/sessions",
        "audit log": lambda draw: "/audit-log",
    }  # fmt: skip


def old_audit(draw: random.Random) -> str:
    """Cursor of a page behind one of the copied audits."""
    return make_cursor(f"aud_0{draw.randrange(200, 9000):031x}")


def measure(
    address: str, token: str, asked: dict[str, Query], requests: int, spent: Callable[[], float]
) -> dict[str, dict[str, float]]:
    """Milliseconds of each page: median, quartiles, 95th percentile, and processor time a request."""
    found: dict[str, dict[str, float]] = {}
    with httpx.Client(base_url=address, cookies={COOKIE: token}, timeout=60) as client:
        for name, query in asked.items():
            draw = random.Random(3)
            for _ in range(2):
                client.get(query(draw)).raise_for_status()
            seconds, before, size = [], spent(), 0
            for _ in range(requests):
                path = query(draw)
                started = time.perf_counter()
                answer = client.get(path)
                seconds.append(time.perf_counter() - started)
                assert answer.status_code == 200, (path, answer.status_code)
                size = len(answer.content)
            times = sorted(1000 * one for one in seconds)
            low, median, high = statistics.quantiles(times, n=4)
            found[name] = {
                "median_ms": round(median, 1),
                "quartile_1_ms": round(low, 1),
                "quartile_3_ms": round(high, 1),
                "p95_ms": round(times[int(0.95 * (len(times) - 1))], 1),
                "processor_ms": round(1000 * (spent() - before) / requests, 1),
                "kilobytes": round(size / 1000),
            }
            print("|", name, "|", " | ".join(str(value) for value in found[name].values()), "|", flush=True)
    return found


WATCH = """() => {
  window.pressed = [];
  addEventListener('keydown', (event) => {
    const at = event.timeStamp;
    const row = document.querySelector('tr.is-current') || document.querySelector('tr[data-row]');
    const seen = new MutationObserver(() => {
      if (!row.querySelector('button[aria-pressed=true]')) return;
      seen.disconnect();
      // A task behind the frame that shows it runs once the frame is painted.
      requestAnimationFrame(() => { const tell = new MessageChannel();
        tell.port1.onmessage = () => window.pressed.push(performance.now() - at); tell.port2.postMessage(0); });
    });
    seen.observe(row, { attributes: true, subtree: true });
  }, { capture: true });
}"""


def key_presses(address: str, token: str, audit: str, presses: int) -> list[float]:
    """Milliseconds from a key press to the painted verdict, in a list of 200 findings."""
    with sync_playwright() as playwright:
        browser = launch_chromium(playwright)
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        context.add_cookies([{"name": COOKIE, "value": token, "url": address}])
        page = context.new_page()
        page.goto(f"{address}/audits/{audit}/findings?flagged=true&verdict=none&limit=200", wait_until="networkidle")
        page.evaluate(WATCH)
        for number in range(presses):
            page.keyboard.press("123"[number % 3])
            page.wait_for_function("count => window.pressed.length >= count", arg=number + 1)
        times: list[float] = page.evaluate("window.pressed")
        browser.close()
    return times


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--audits", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=51)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    with empty_database() as (folder, url, postmaster):
        flagged = write_results(folder, arguments.rows)
        print(f"{arguments.rows:,} samples, {flagged:,} flagged", flush=True)
        loaded = load(url, folder, arguments.rows, flagged)
        write_results(folder, arguments.rows, seed=8)
        other = load(url, folder, arguments.rows, flagged, dataset_id=loaded["dataset"])
        copy_audits(url, loaded["audit"], arguments.audits - 2)
        stored = folder / "data" / "objects" / loaded["objects"]
        stored.mkdir(parents=True)
        (folder / "rows.parquet").rename(stored / "rows.parquet")
        token, secret = sign_in(url)
        with serving(url, folder / "data") as (address, api):

            def spent() -> float:
                return processor_seconds(api, postmaster)

            review(address, loaded["audit"], (loaded["secret"], secret))
            with httpx.Client(base_url=address, cookies={COOKIE: token}) as client:
                base = f"/v1/audits/{loaded['audit']}"
                loaded["reviewer"] = client.get(f"{base}/verdicts/bulks").json()["data"][0]["key_id"]
                shown = client.get(f"{base}/findings?flagged=true&verdict=none&limit=500").json()["data"]
                loaded["shown"] = [finding["row"] for finding in shown]
            asked = pages(loaded, other["audit"], arguments.rows, flagged)
            latency = measure(address, token, asked, arguments.requests, spent)
            presses = sorted(key_presses(address, token, loaded["audit"], 100))
        painted = {
            "median_ms": round(statistics.median(presses), 1),
            "p95_ms": round(presses[int(0.95 * (len(presses) - 1))], 1),
            "most_ms": round(presses[-1], 1),
            "presses": len(presses),
        }
        print("| from a key press to the painted verdict |", " | ".join(str(value) for value in painted.values()), "|")
        print("load of the machine:", psutil.getloadavg())
        arguments.out.mkdir(parents=True, exist_ok=True)
        result = {"rows": arguments.rows, "audits": arguments.audits, "latency": latency, "painted": painted}
        (arguments.out / "dashboard.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
