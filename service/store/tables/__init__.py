"""All tables. Alembic migrations make them; a test holds both against each other.

Every row has a `workspace_id`, directly or through the composite key of its parent. Times are `timestamptz`,
set by the database's clock. Enumerations are text with a CHECK, so that a new value is a small migration.
"""

from service.store import verdict_tables as verdict_tables  # so that whoever knows the tables knows all of them
from service.store.base import Base
from service.store.tables.accounts import ApiKey, BrowserSession, IdempotencyRecord, SignInLink, Workspace
from service.store.tables.audit_log import AuditLogEntry
from service.store.tables.audits import Audit, AuditData, AuditEvent, AuditProbe, AuditStep
from service.store.tables.exports import Export
from service.store.tables.inputs import Dataset, Model, Probe
from service.store.tables.jobs import Counter, Job, ObjectPurge, Scheduler, Turn, Worker
from service.store.tables.people import Membership, User
from service.store.tables.results import Finding, Score, ScoreList
from service.store.tables.uploads import Upload, UploadPart

__all__ = [
    "ApiKey",
    "Audit",
    "AuditData",
    "AuditEvent",
    "AuditLogEntry",
    "AuditProbe",
    "AuditStep",
    "Base",
    "BrowserSession",
    "Counter",
    "Dataset",
    "Export",
    "Finding",
    "IdempotencyRecord",
    "Job",
    "Membership",
    "Model",
    "ObjectPurge",
    "Probe",
    "Scheduler",
    "Score",
    "ScoreList",
    "SignInLink",
    "Turn",
    "Upload",
    "UploadPart",
    "User",
    "Worker",
    "Workspace",
]
