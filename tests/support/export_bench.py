"""A supervisor of the queue io for exports, and what a bystander sees."""

import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from service.lifecycle.exports import create_export
from service.settings import Settings
from service.store.local_objects import LocalObjects
from service.store.objects import ObjectStore, export_key
from service.store.tables import Audit, Export, Job
from tests.support.exportable import publish_audit, store_dataset
from worker.process.shutdown import GracePeriods
from worker.supervisor.dispatch import Supervisor


@dataclass
class Bench:
    """Makes exports, runs them, and looks at what became of them."""

    settings: Settings
    sessions: sessionmaker[Session]
    objects: LocalObjects
    workspace_id: str
    stopping: threading.Event

    def audit(self, upload: bytes, flagged: Collection[int], *, format: str = "auto", **options: Any) -> Audit:
        with self.sessions.begin() as session:
            dataset = store_dataset(session, self.objects, self.workspace_id, upload, format=format)
            return publish_audit(session, dataset, flagged, **options)

    def export(self, audit: Audit, kind: Any = "cleaned", format: Any = "jsonl", max_q: float | None = None) -> str:
        """A queued export's id."""
        with self.sessions.begin() as session:
            return create_export(
                session,
                workspace_id=self.workspace_id,
                audit_id=audit.id,
                kind=kind,
                format=format,
                filter=None if kind == "scores" else "flagged",
                max_q=max_q,
            ).id

    def supervisor(self, objects: ObjectStore | None = None, owner: str = "test", **settings: Any) -> Supervisor:
        return Supervisor(
            self.settings.model_copy(update={"poll_seconds": 0.1, **settings}),
            self.sessions,
            objects or self.objects,
            owner=owner,
            stopping=self.stopping,
            grace_periods=GracePeriods(saving=0.6, cancelled=0.6, terminated=0.6, final_event=0.6),
        )

    def run(self, export_id: str) -> bytes:
        """Runs it, and returns what it holds."""
        assert self.supervisor().run_due("io") == 1
        job = self.job(export_id)
        assert (job.state, job.error) == ("succeeded", None)
        return self.content(export_id)

    def content(self, export_id: str) -> bytes:
        export = self.row(export_id)
        assert export.published_attempt is not None
        with self.objects.open(export_key(self.workspace_id, export_id, export.published_attempt)) as file:
            return file.read()

    def row(self, export_id: str) -> Export:
        with self.sessions() as session:
            return session.get_one(Export, export_id)

    def job(self, export_id: str) -> Job:
        with self.sessions() as session:
            return session.scalars(select(Job).where(Job.subject_id == export_id)).one()

    def stored(self, export_id: str) -> list[str]:
        """Files of all attempts at the export, unfinished ones too."""
        root = self.objects.path(f"{self.workspace_id}/exports/{export_id}")
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
