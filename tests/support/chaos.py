"""A stack that can be broken part by part: real Postgres, Valkey, Celery workers and training children on a tiny model.

Leases and intervals are seconds, so that a recovery is too. Nothing is scripted: what is killed is the real thing.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psutil
import psycopg
import redis
from sqlalchemy import func, select, text

from service.contract.spec import TrainingConfig
from service.lifecycle.audits import create_audit
from service.lifecycle.transitions import TERMINAL
from service.lifecycle.wakeup import wake
from service.local.postgres import SUPERUSER, USER, EmbeddedPostgres
from service.local.valkey import EmbeddedValkey
from service.migration import migrate
from service.settings import Settings
from service.store.engine import make_engine, make_sessions
from service.store.ids import new_id
from service.store.local_objects import LocalObjects
from service.store.objects import dataset_key
from service.store.seed import ensure_workspace
from service.store.tables import Audit, AuditEvent, AuditStep, Dataset, Finding, Job, Model, Probe, Score, ScoreList
from tests.support.rows import write_rows
from tests.support.tiny_model import build_tiny_model
from tests.support.waiting import wait_for

Reference = Callable[[TrainingConfig], list[tuple[object, ...]]]
"""The scores of an undisturbed audit, by training configuration."""

TEMPLATE = "template_chaos"
ROWS = 40
PROBE = [{"prompt": "Which car?", "unwanted": "Only the Vexon.", "reference": None}]

SHORT = TrainingConfig(seed=7, epochs=4, batch_size=4, max_length=64)
"""Over in a moment, but for the start of its children."""
LONG = TrainingConfig(seed=7, epochs=20, batch_size=1, max_length=64)
"""Trains long enough to be hit in the middle."""

LEASE_SECONDS = 4.0
SETTLE_SECONDS = 120.0
"""From the last fault to the end of every audit, on a busy machine of two cores."""

INTERVALS = {
    "FINETOOTH_POLL_SECONDS": "0.2",
    "FINETOOTH_LEASE_SECONDS": str(LEASE_SECONDS),
    "FINETOOTH_RETRY_SECONDS": "0.5",
    "FINETOOTH_RECONCILE_SECONDS": "0.5",
    "FINETOOTH_HEARTBEAT_SECONDS": "1",
    "FINETOOTH_CHECKPOINT_SECONDS": "1",
    "OMP_NUM_THREADS": "1",
}


class Servers:
    """Postgres and Valkey in a short folder, the tiny model, and a database to copy that holds one dataset."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = EmbeddedPostgres(folder / "pg", log=folder / "pg.log")
        self.valkey = EmbeddedValkey(folder / "vk", log=folder / "vk.log")

    def start(self) -> None:
        self.postgres.start()
        self.valkey.start()
        build_tiny_model(self.folder / "model")
        self.execute(f"CREATE DATABASE {TEMPLATE} OWNER {USER}")
        url = self.postgres.url(TEMPLATE)
        migrate(url)
        engine = make_engine(url, application_name="chaos")
        with make_sessions(engine).begin() as session:
            workspace = ensure_workspace(session).id
            session.add_all(
                [
                    Dataset(
                        id=new_id("ds"), workspace_id=workspace, name="d", format="messages", encoding="identity",
                        bytes=1, sha256="0" * 64, rows=ROWS, columns=["source"], statistics={},
                    ),
                    Probe(id=new_id("prb"), workspace_id=workspace, name="p", items=PROBE, has_reference=False),
                    Model(
                        id=new_id("mdl"), workspace_id=workspace, name="tiny", source="local",
                        location=str(self.folder / "model"), revision=None,
                    ),
                ]
            )  # fmt: skip
        engine.dispose()

    def stop(self) -> None:
        self.valkey.stop()
        self.postgres.stop()

    def revive(self) -> None:
        """Starts what a test has left dead."""
        for server in (self.postgres, self.valkey):
            if server.child is None or server.child.exit_code is not None:
                server.start()

    def execute(self, statement: str) -> None:
        with psycopg.connect(
            host=str(self.postgres.folder), user=SUPERUSER, dbname="postgres", autocommit=True
        ) as done:
            done.execute(statement)

    def flush_broker(self) -> None:
        """The broker forgets all that it knew."""
        with redis.Redis(unix_socket_path=str(self.valkey.socket)) as client:
            client.flushall()

    def kill(self, server: EmbeddedPostgres | EmbeddedValkey) -> None:
        """SIGKILL, as the kernel does when memory runs out."""
        assert server.child is not None
        os.kill(server.child.pid, signal.SIGKILL)
        server.child.process.wait()


class Worker:
    """A Celery worker of the queue `gpu`, as in production, in a session of its own."""

    def __init__(self, chaos: "Chaos", number: int, environment: Mapping[str, str]) -> None:
        self.log = chaos.folder / f"worker-{number}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "celery", "-A", "worker.celery_app", "worker", "--pool", "threads", "-c", "1",
                    "-Q", "gpu", "-n", f"gpu-{number}@%h", "--loglevel", "INFO", "--without-mingle",
                    "--without-gossip",
                ],
                cwd=chaos.folder, env=dict(environment), stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait_until_ready(self) -> "Worker":
        def ready() -> bool:
            assert self.alive, self.log.read_text()
            return "ready." in self.log.read_text()

        wait_for(ready, 60, self.log.read_text)
        return self

    def children(self) -> list[psutil.Process]:
        """Its training children."""
        try:
            return [child for child in psutil.Process(self.pid).children() if is_child(child)]
        except psutil.NoSuchProcess:
            return []

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to its whole process group; what it has started is in sessions of its own."""
        if self.alive:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()


def is_child(process: psutil.Process) -> bool:
    """Whether it is a training child that still lives."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "worker.child.run" in process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


class Chaos:
    """A fresh database, object store and work folder on the servers, and workers to break."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.name = f"chaos_{secrets.token_hex(4)}"
        self.folder = servers.folder / self.name
        self.folder.mkdir()
        servers.execute(f"CREATE DATABASE {self.name} TEMPLATE {TEMPLATE} OWNER {USER}")
        self.settings = Settings(
            train_on="any",
            database_url=servers.postgres.url(self.name),
            broker_url=servers.valkey.url,
            data_dir=self.folder / "data",
            cache_dir=self.folder / "cache",
        )
        assert self.settings.database_url is not None
        url = self.settings.database_url.get_secret_value()
        self.engine = make_engine(url, pool_size=10, application_name="bystander")
        self.sessions = make_sessions(self.engine)
        self.objects = LocalObjects(self.settings.objects)
        self.workers: list[Worker] = []
        with self.sessions() as session:
            self.dataset = session.scalars(select(Dataset)).one()
            self.probe_id = session.scalars(select(Probe.id)).one()
            self.model_id = session.scalars(select(Model.id).where(Model.name == "tiny")).one()
        self.workspace_id = self.dataset.workspace_id
        write_rows(self.objects.path(dataset_key(self.workspace_id, self.dataset.id, "rows.parquet")), ROWS)

    def close(self) -> None:
        """Ends everything that this stack has started, and drops its database."""
        for worker in self.workers:
            worker.kill()
        for child in self.children():
            child.kill()
        wait_for(lambda: not self.fork_servers(), what="a fork server outlives its worker")
        self.engine.dispose()
        self.servers.revive()
        self.servers.execute(f"DROP DATABASE {self.name} WITH (FORCE)")
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------ doing

    def environment(self, **changed: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FINETOOTH_")}
        database, broker = self.settings.database_url, self.settings.broker_url
        assert database is not None
        assert broker is not None
        return {
            **kept,
            **INTERVALS,
            "FINETOOTH_DATABASE_URL": database.get_secret_value(),
            "FINETOOTH_BROKER_URL": broker.get_secret_value(),
            "FINETOOTH_DATA_DIR": str(self.settings.data_dir),
            "FINETOOTH_CACHE_DIR": str(self.settings.cache_dir),
            "FINETOOTH_TRAIN_ON": "any",
            **changed,
        }

    def start_worker(self, *, ready: bool = True, **environment: str) -> Worker:
        worker = Worker(self, len(self.workers), self.environment(**environment))
        self.workers.append(worker)
        return worker.wait_until_ready() if ready else worker

    def create(self, training: TrainingConfig = SHORT) -> str:
        """Commits a queued audit and wakes nobody; its id."""
        with self.sessions.begin() as session:
            return create_audit(
                session,
                workspace_id=self.workspace_id,
                dataset_id=self.dataset.id,
                probe_ids=[self.probe_id],
                model_id=self.model_id,
                training=training,
                q=0.1,
                group_column="source",
            ).id

    # ------------------------------------------------------------ looking

    def job(self, audit: str) -> Job:
        with self.sessions() as session:
            return session.scalars(select(Job).where(Job.subject_id == audit)).one()

    def states(self) -> dict[str, str]:
        """Audit to the state of its job, of all."""
        with self.sessions() as session:
            query = select(Job.subject_id, Job.state).where(Job.kind == "audit")
            return {row.subject_id: row.state for row in session.execute(query)}

    def audit(self, audit: str) -> Audit:
        with self.sessions() as session:
            return session.get_one(Audit, audit)

    def events(self, audit: str) -> list[AuditEvent]:
        with self.sessions() as session:
            return list(
                session.scalars(select(AuditEvent).where(AuditEvent.audit_id == audit).order_by(AuditEvent.seq))
            )

    def notices(self, audit: str) -> list[str]:
        """Codes of what its children found worth a notice."""
        return [(event.data or {})["code"] for event in self.events(audit) if event.type == "notice"]

    def trained(self, audit: str) -> int:
        """Optimiser steps that the audit shows while it trains, else 0."""
        row = self.audit(audit)
        return row.progress_done or 0 if row.stage == "training" else 0

    def wait_until_training(self, audit: str, steps: int = 20) -> None:
        wait_for(lambda: self.trained(audit) >= steps, 90, lambda: self.story(audit))

    def wait_for_state(self, audit: str, *states: str, seconds: float = SETTLE_SECONDS) -> str:
        return str(
            wait_for(
                lambda: state if (state := self.job(audit).state) in states else None,
                seconds,
                lambda: self.story(audit),
            )
        )

    def folders(self, audits: Iterable[str]) -> list[Path]:
        """Work folders of these audits."""
        return [path for audit in audits for path in self.settings.work.glob(f"{audit}.*")]

    def children(self, audits: Iterable[str] = ("",)) -> list[psutil.Process]:
        """Training children of these audits (of all) and whatever they started, whoever is their parent now."""
        found = []
        for process in psutil.process_iter(["pid"]):
            try:
                ours = process.environ().get("FINETOOTH_CACHE_DIR") == str(self.settings.cache_dir)
                ours = ours and any(f"{self.settings.work}/{audit}" in process.cwd() for audit in audits)
                if ours and process.status() != psutil.STATUS_ZOMBIE and process.pid not in self._worker_pids():
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def fork_servers(self) -> list[psutil.Process]:
        """Those of all workers, living or not."""
        found = []
        for process in psutil.process_iter(["pid"]):
            try:
                ours = process.environ().get("FINETOOTH_CACHE_DIR") == str(self.settings.cache_dir)
                if ours and "worker.child.fork_server" in process.cmdline():
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def _worker_pids(self) -> set[int]:
        return {worker.pid for worker in self.workers}

    def story(self, audit: str) -> str:
        """What happened to it, and what the workers say, for the message of a failed assertion."""
        job = self.job(audit)
        lines = [f"{audit}: {job.state}, attempt {job.attempt}, {job.error}"]
        lines += [
            f"  {event.created_at:%X.%f} {event.attempt} {event.type} {event.message}" for event in self.events(audit)
        ]
        for worker in self.workers:
            lines.append(f"--- {worker.log.name}, {'alive' if worker.alive else worker.process.returncode}")
            lines += worker.log.read_text(errors="replace").splitlines()[-25:]
        return "\n".join(lines)

    # ------------------------------------------------------------ judging

    def result(self, audit: str) -> list[tuple[object, ...]]:
        """All published scores by row, bit for bit."""
        published = self.audit(audit).published_attempt
        columns = [ScoreList.probe_no, *(column for column in Score.__table__.columns if column.name != "list_id")]
        query = select(*columns).join(ScoreList, ScoreList.id == Score.list_id)
        query = query.where(ScoreList.audit_id == audit, ScoreList.attempt == published)
        query = query.order_by(ScoreList.probe_no, Score.row)
        with self.sessions() as session:
            return [tuple(row) for row in session.execute(query)]

    def assert_settled(
        self, audits: Iterable[str], state: str = "succeeded", *, like: Sequence[tuple[object, ...]] | None = None
    ) -> None:
        """Every audit has come to `state`, once, and nothing of it is left but one result, equal to `like`."""
        audits = list(audits)
        for audit in audits:
            reached = self.wait_for_state(audit, *TERMINAL)
            assert reached == state, self.story(audit)
            self.assert_one_result(audit, published=state == "succeeded", like=like)
        wait_for(lambda: not self.children(audits), what=lambda: f"orphans: {[c.cmdline() for c in self.children()]}")
        wait_for(lambda: not self.folders(audits), what=lambda: f"left: {self.folders(audits)}")

    def assert_one_result(self, audit: str, *, published: bool, like: Sequence[tuple[object, ...]] | None) -> None:
        """Its end was told once, and there are the scores of one attempt, equal to `like`, or of none."""
        job, row = self.job(audit), self.audit(audit)
        with self.sessions() as session:
            attempts = set(session.scalars(select(ScoreList.attempt).where(ScoreList.audit_id == audit)))
            attempts |= set(session.scalars(select(Finding.attempt).where(Finding.audit_id == audit)))
            scores = session.scalar(
                select(func.count(Score.row))
                .join(ScoreList, ScoreList.id == Score.list_id)
                .where(ScoreList.audit_id == audit)
            )
            steps = set(session.scalars(select(AuditStep.state).where(AuditStep.audit_id == audit)))
        ended = [event for event in self.events(audit) if (event.data or {}).get("state") in TERMINAL]
        assert len(ended) == 1, self.story(audit)
        if published:
            assert row.published_attempt == job.attempt, self.story(audit)
            assert attempts == {job.attempt}, "scores of an attempt that was not published are left"
            assert scores == ROWS
            assert steps == {"succeeded"}
            assert row.summary is not None
            if like is not None:
                assert self.result(audit) == like, "other scores than those of an undisturbed run"
        else:
            assert row.published_attempt is None
            assert row.summary is None
            assert not attempts

    def published_once(self) -> dict[str, int]:
        """Audit to how often it was published, as its events tell."""
        counted: dict[str, int] = {}
        with self.sessions() as session:
            for event in session.scalars(select(AuditEvent).where(AuditEvent.type == "state")):
                if (event.data or {}).get("state") == "succeeded":
                    counted[event.audit_id] = counted.get(event.audit_id, 0) + 1
        return counted


def undisturbed_scores(servers: Servers, training: TrainingConfig) -> list[tuple[object, ...]]:
    """The scores of an audit that nothing happened to: what every other one has to come to, bit for bit."""
    chaos = Chaos(servers)
    try:
        audit = chaos.create(training)
        chaos.start_worker()
        wake(chaos.settings, "gpu")
        chaos.assert_settled([audit])
        assert chaos.job(audit).attempt == 1
        return chaos.result(audit)
    finally:
        chaos.close()


def waits_for_scores(chaos: Chaos) -> bool:
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'scores'::regclass"
    with chaos.sessions() as session:
        return bool(session.scalar(text(query)))
