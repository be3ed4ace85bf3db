"""A supervisor with a scripted child, and what a bystander sees in the database."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from service.settings import Settings
from service.store.local_objects import LocalObjects
from service.store.tables import Audit, AuditEvent, AuditStep, Finding, Job, Score, ScoreList
from tests.support.children.scripting import (
    NOWHERE,
    fork_server,
    scripted_children,
    spawning,
)
from worker.process.fork_client import ForkClient
from worker.process.launcher import Launcher
from worker.process.shutdown import GracePeriods
from worker.supervisor.dispatch import Supervisor

either_way = pytest.mark.parametrize("bench", ["forked", "spawned"], indirect=True)
"""Runs a test with forked children and with spawned ones."""

SUPERVISOR = """
import json, os, threading
from service.settings import Settings
from service.store.engine import make_engine, make_sessions
from service.store.local_objects import LocalObjects
from worker.process.fork_client import ForkClient
from worker.process.launcher import Spawner
from worker.supervisor.dispatch import Supervisor
settings = Settings()
sessions = make_sessions(make_engine(settings.database_url.get_secret_value(), application_name="t"))
Supervisor(settings, sessions, LocalObjects(settings.objects), owner="x", stopping=threading.Event(),
           launcher=ForkClient(Spawner(["/nowhere"]), json.loads(os.environ["SERVER"]))).run_due("gpu")
"""


@dataclass
class Bench:
    """A supervisor with a scripted child, and what a bystander sees in the database."""

    settings: Settings
    sessions: sessionmaker[Session]
    objects: LocalObjects
    stopping: threading.Event
    spawns: bool = False
    importing: str = ""
    """What fork servers do before they are ready, in Python."""
    fork_clients: list[ForkClient] = field(default_factory=list)

    def launcher(self, script: Sequence[list[Any]]) -> Launcher:
        """Make a launcher of children that follow the script: forked, or spawned, as where a fork is not to be had."""
        if self.spawns:
            return spawning(script)
        self.fork_clients.append(ForkClient(NOWHERE, fork_server(script, importing=self.importing)))
        return self.fork_clients[-1]

    def supervisor(
        self,
        *script: list[Any],
        owner: str = "test",
        device_check: Sequence[str] = (sys.executable, "-c", ""),
        **settings: Any,
    ) -> Supervisor:
        """Make one whose device, by default, passes every check."""
        return Supervisor(
            self.settings.model_copy(update={"poll_seconds": 0.1, "findings_top": 5, **settings}),
            self.sessions,
            self.objects,
            owner=owner,
            stopping=self.stopping,
            launcher=self.launcher(script),
            grace_periods=GracePeriods(saving=0.6, cancelled=0.6, terminated=0.6, final_event=0.6),
            device_check=device_check,
        )

    def run(self, *script: list[Any]) -> None:
        assert self.supervisor(*script).run_due("gpu") == 1

    @contextmanager
    def process(self, *script: list[Any], **settings: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A supervisor in a process of its own, which runs what is due; killed in the end."""
        assert self.settings.database_url is not None
        environment = {
            **os.environ,
            **{f"FINETOOTH_{name.upper()}": str(value) for name, value in settings.items()},
            "FINETOOTH_DATABASE_URL": self.settings.database_url.get_secret_value(),
            "FINETOOTH_DATA_DIR": str(self.settings.data_dir),
            "SERVER": json.dumps(fork_server(script)),
        }
        with subprocess.Popen([sys.executable, "-c", SUPERVISOR], env=environment) as process:
            try:
                yield process
            finally:
                process.kill()

    def job(self, audit: Audit) -> Job:
        with self.sessions() as session:
            return session.scalars(select(Job).where(Job.subject_id == audit.id)).one()

    def audit(self, audit: Audit) -> Audit:
        with self.sessions() as session:
            return session.get_one(Audit, audit.id)

    def steps(self, audit: Audit) -> list[AuditStep]:
        with self.sessions() as session:
            query = select(AuditStep).where(AuditStep.audit_id == audit.id).order_by(AuditStep.step_no)
            return list(session.scalars(query))

    def events(self, audit: Audit, type: str = "") -> list[AuditEvent]:
        with self.sessions() as session:
            events = session.scalars(
                select(AuditEvent).where(AuditEvent.audit_id == audit.id).order_by(AuditEvent.seq)
            ).all()
        return [event for event in events if type in ("", event.type)]

    def count(self, table: type) -> int:
        with self.sessions() as session:
            return session.scalar(select(func.count()).select_from(table)) or 0

    def nothing_left(self, audit: Audit) -> None:
        """Neither scores, folders nor processes of attempts without a result, and files of finished steps alone."""
        assert self.count(Score) == self.count(ScoreList) == 0
        assert self.count(Finding) == 0
        assert self.stored(audit) == {
            f"{step.attempt}/{step.step_key.replace(':', '-')}"
            for step in self.steps(audit)
            if step.state == "succeeded"
        }
        self.no_folders_or_processes()

    def stored(self, audit: Audit) -> set[str]:
        """Attempt and step of everything that the object store holds of the audit."""
        root = self.objects.path(f"{audit.workspace_id}/audits/{audit.id}")
        return {str(path.parent.relative_to(root)) for path in root.rglob("*") if path.is_file()}

    def no_folders_or_processes(self) -> None:
        assert list(self.settings.work.glob("*")) == []
        assert scripted_children(self.settings.data_dir) == []
