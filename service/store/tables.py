"""All tables. Alembic migrations make them; a test holds both against each other.

Every row has a `workspace_id`, directly or through the composite key of its parent. Times are `timestamptz`,
set by the database's clock. Enumerations are text with a CHECK, so that a new value is a small migration.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Computed,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    SmallInteger,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from service.store import verdict_tables as verdict_tables  # so that whoever knows the tables knows all of them
from service.store.base import Base as Base
from service.store.base import created_at


class Workspace(Base):
    """A tenant. Nobody sees another workspace's rows."""

    __tablename__ = "workspaces"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = created_at()


class ApiKey(Base):
    """A bearer key. Only the SHA-256 of the whole key is stored (its 128 random bits need no slow hash)."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), index=True)
    name: Mapped[str]
    prefix: Mapped[str]
    """First characters of the key, to recognise it by."""
    secret_sha256: Mapped[bytes] = mapped_column(unique=True)
    previous_sha256: Mapped[bytes | None] = mapped_column(unique=True)
    """Of the text before the last rotation, where that was to go on working until `previous_expires_at`."""
    previous_expires_at: Mapped[datetime | None]
    previous_last_used_at: Mapped[datetime | None]
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = created_at()
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    __table_args__ = (CheckConstraint("(previous_sha256 IS NULL) = (previous_expires_at IS NULL)", name="previous"),)


class SignInLink(Base):
    """A one-time link that opens a browser session with the rights of a key."""

    __tablename__ = "sign_in_links"
    token_sha256: Mapped[bytes] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = created_at()
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class BrowserSession(Base):
    """A signed-in browser: the cookie's SHA-256."""

    __tablename__ = "browser_sessions"
    token_sha256: Mapped[bytes] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = created_at()
    expires_at: Mapped[datetime]


class IdempotencyRecord(Base):
    """What a creating request with an Idempotency-Key was answered; see service.http.idempotency."""

    __tablename__ = "idempotency_records"
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"), primary_key=True)
    """The API key that sent it."""
    key: Mapped[str] = mapped_column(primary_key=True)
    """The header's value."""
    target_sha256: Mapped[bytes]
    """Of method, path and query."""
    body_sha256: Mapped[bytes]
    """Of the request's body."""
    status: Mapped[int] = mapped_column(SmallInteger)
    headers: Mapped[list[Any]]
    """[[name, value]] of the answer."""
    body: Mapped[bytes]
    """Of the answer, without secrets."""
    created_at: Mapped[datetime] = created_at()
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Dataset(Base):
    """An uploaded dataset whose objects are complete in the object store. Immutable."""

    __tablename__ = "datasets"
    id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    name: Mapped[str]
    format: Mapped[str]
    """Record format: messages, alpaca, sharegpt, prompt_completion or mapped."""
    container: Mapped[str] = mapped_column(server_default="jsonl")
    """jsonl, json, csv or parquet."""
    encoding: Mapped[str]
    """identity, gzip or zstd."""
    bytes: Mapped[int] = mapped_column(BigInteger)
    """Of the upload as it came."""
    sha256: Mapped[str]
    """Of the upload as it came."""
    rows: Mapped[int] = mapped_column(BigInteger)
    columns: Mapped[list[str]]
    """Extra columns, in order of first appearance; any of them can serve as the group."""
    statistics: Mapped[dict[str, Any]]
    near_duplicates: Mapped[dict[str, Any] | None]
    """A contract.results.NearDuplicates, once a worker has counted them."""
    notices: Mapped[list[Any] | None]
    """[{kind, rows, first_rows, found}]; null for an upload of a version that looked for none."""
    created_at: Mapped[datetime] = created_at()
    __table_args__ = (
        CheckConstraint("format IN ('messages','alpaca','sharegpt','prompt_completion','mapped')", name="format"),
        CheckConstraint("container IN ('jsonl','json','csv','parquet')", name="container"),
        CheckConstraint("encoding IN ('identity','gzip','zstd')", name="encoding"),
        UniqueConstraint("workspace_id", "id"),
    )


class Probe(Base):
    """A behaviour that a model must not learn: prompts with unwanted answers. Immutable."""

    __tablename__ = "probes"
    id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    name: Mapped[str]
    items: Mapped[list[Any]]
    """[{prompt, unwanted, reference?}]"""
    has_reference: Mapped[bool] = mapped_column(Boolean)
    """Whether every item has a reference answer."""
    pack: Mapped[dict[str, Any] | None]
    """{name, version, parameters} of the built-in pack that it was made from."""
    created_at: Mapped[datetime] = created_at()
    __table_args__ = (UniqueConstraint("workspace_id", "id"),)


class Model(Base):
    """A base model that audits of the workspace may train."""

    __tablename__ = "models"
    id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    name: Mapped[str]
    """Unique in the workspace; audits may name a model by it."""
    source: Mapped[str]
    location: Mapped[str]
    revision: Mapped[str | None]
    created_at: Mapped[datetime] = created_at()
    __table_args__ = (
        CheckConstraint("source IN ('hub','local','bundled')", name="source"),
        UniqueConstraint("workspace_id", "name"),
        UniqueConstraint("workspace_id", "id"),
    )


class Job(Base):
    """A background act. The row is the job; Celery only wakes a worker. Only service.lifecycle writes it."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    kind: Mapped[str]
    """What the subject is: an audit to run, an export to write, a dataset whose near-duplicates are counted."""
    subject_id: Mapped[str]
    lane: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="queued")
    attempt: Mapped[int] = mapped_column(server_default="0")
    """The fence: raised by every claim; every write of a worker names it."""
    owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    """While a worker holds the job: from then on it does not, and the reconciler takes the job back."""
    failures: Mapped[int] = mapped_column(server_default="0")
    """Attempts that ended badly; the last one allowed ends the job."""
    created_at: Mapped[datetime] = created_at()
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    """Of the running or last attempt."""
    cancel_requested_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    error: Mapped[dict[str, Any] | None]
    """A contract.Failure where state is failed."""
    request_id: Mapped[str | None]
    """Of the request that asked for it, for the logs."""
    __table_args__ = (
        CheckConstraint("kind IN ('audit','export','dataset')", name="kind"),
        CheckConstraint("lane IN ('gpu','io')", name="lane"),
        CheckConstraint("state IN ('queued','running','cancelling','succeeded','failed','cancelled')", name="state"),
        CheckConstraint("(state IN ('succeeded','failed','cancelled')) = (finished_at IS NOT NULL)", name="finished"),
        CheckConstraint("(state IN ('running','cancelling')) = (lease_expires_at IS NOT NULL)", name="lease"),
        UniqueConstraint("workspace_id", "id"),
        Index("ix_jobs_due", "lane", "next_attempt_at", "id", postgresql_where=text("state = 'queued'")),
        Index("ix_jobs_lease", "lease_expires_at", postgresql_where=text("lease_expires_at IS NOT NULL")),
        Index("ix_jobs_subject", "subject_id"),
    )


class Worker(Base):
    """A worker process that says from time to time that it is alive. What it holds is in `jobs`."""

    __tablename__ = "workers"
    owner: Mapped[str] = mapped_column(primary_key=True)
    """As in `jobs.owner`; a restarted worker is another."""
    lane: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int]
    started_at: Mapped[datetime] = created_at()
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (CheckConstraint("lane IN ('gpu','io')", name="lane"),)


class Counter(Base):
    """What workers have counted for /metrics; see service.store.counters."""

    __tablename__ = "counters"
    name: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[float]


class Scheduler(Base):
    """Which process reconciles: one row, a lease that passes to another process once its holder is gone."""

    __tablename__ = "scheduler"
    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    owner: Mapped[str]
    lease_expires_at: Mapped[datetime]
    __table_args__ = (CheckConstraint("id = 1", name="one"),)


class AuditData(Base):
    """What hangs on an audit's id and may be large: scores, findings, verdicts. They stand on this row and not on the
    audit's, so that a deleted audit is gone at once, and what it leaves is cleared away behind it, none forgotten."""

    __tablename__ = "audit_data"
    audit_id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    purge_at: Mapped[datetime | None]
    """The audit is deleted: from then on its data are, and this row at last. See service.lifecycle.purging."""
    __table_args__ = (
        UniqueConstraint("workspace_id", "audit_id"),
        Index("ix_audit_data_purge", "purge_at", postgresql_where=text("purge_at IS NOT NULL")),
    )


class ObjectPurge(Base):
    """Objects that no row names any more, to be deleted. See service.lifecycle.purging."""

    __tablename__ = "object_purges"
    prefix: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    created_at: Mapped[datetime] = created_at()
    due_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)
    """When it is tried, or tried again."""


class Audit(Base):
    """One audit: what was asked, how far it is, which attempt's results are public."""

    __tablename__ = "audits"
    id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    job_id: Mapped[str] = mapped_column(unique=True)
    """The newest: a retry is another job."""
    dataset_id: Mapped[str]
    model_id: Mapped[str]
    training: Mapped[dict[str, Any]]
    """A contract.TrainingConfig; its seed is the first step's."""
    seeds: Mapped[int] = mapped_column(SmallInteger)
    """Training runs: one with training.seed, one with the next number, ..."""
    q: Mapped[float]
    group_column: Mapped[str | None]
    trusted_column: Mapped[str | None]
    created_at: Mapped[datetime] = created_at()
    step_key: Mapped[str | None]
    """The step under way, while running."""
    stage: Mapped[str | None]
    """A contract.Stage, while running."""
    progress_done: Mapped[int | None] = mapped_column(BigInteger)
    progress_total: Mapped[int | None] = mapped_column(BigInteger)
    progress_unit: Mapped[str | None]
    eta_at: Mapped[datetime | None]
    progressed_at: Mapped[datetime | None]
    """When the audit last moved on."""
    published_attempt: Mapped[int | None]
    """Readers of scores, findings and summary see this attempt only."""
    summary: Mapped[dict[str, Any] | None]
    """A contract.Summary of the published attempt."""
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "id"], ["audit_data.workspace_id", "audit_data.audit_id"]),
        ForeignKeyConstraint(["workspace_id", "job_id"], ["jobs.workspace_id", "jobs.id"]),
        ForeignKeyConstraint(["workspace_id", "dataset_id"], ["datasets.workspace_id", "datasets.id"]),
        ForeignKeyConstraint(["workspace_id", "model_id"], ["models.workspace_id", "models.id"]),
        UniqueConstraint("workspace_id", "id"),
        CheckConstraint("q > 0 AND q < 1", name="q"),
        CheckConstraint("seeds >= 1", name="seeds"),
    )


class AuditProbe(Base):
    """One of the behaviours that an audit looks for."""

    __tablename__ = "audit_probes"
    audit_id: Mapped[str] = mapped_column(primary_key=True)
    probe_no: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    """1, 2, ... in the order asked for."""
    workspace_id: Mapped[str]
    probe_id: Mapped[str]
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "audit_id"], ["audits.workspace_id", "audits.id"]),
        ForeignKeyConstraint(["workspace_id", "probe_id"], ["probes.workspace_id", "probes.id"]),
        UniqueConstraint("audit_id", "probe_id"),
        # Whoever deletes a probe looks for audits on it.
        Index("ix_audit_probes_probe", "workspace_id", "probe_id"),
    )


class AuditStep(Base):
    """One child run of an audit; its spec is hashed so that a finished step can be recognised."""

    __tablename__ = "audit_steps"
    audit_id: Mapped[str] = mapped_column(primary_key=True)
    step_key: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str]
    step_no: Mapped[int] = mapped_column(SmallInteger)
    """1, 2, ... in the order in which they run."""
    spec_sha256: Mapped[str | None]
    """Of the contract.StepSpec without attempt; set when the step starts."""
    state: Mapped[str] = mapped_column(server_default="pending")
    attempt: Mapped[int | None]
    """That ran it last; its output files lie under it."""
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "audit_id"], ["audits.workspace_id", "audits.id"]),
        CheckConstraint("state IN ('pending','running','succeeded','failed')", name="state"),
    )


class AuditEvent(Base):
    """What happened to an audit, in order; never a sample's text."""

    __tablename__ = "audit_events"
    audit_id: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    """1, 2, 3, ... within the audit."""
    workspace_id: Mapped[str]
    attempt: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    level: Mapped[str]
    type: Mapped[str]
    """state, step, stage, metric or notice."""
    message: Mapped[str]
    data: Mapped[dict[str, Any] | None]
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "audit_id"], ["audits.workspace_id", "audits.id"]),
        CheckConstraint("level IN ('info','warning','error')", name="level"),
    )


class ScoreList(Base):
    """One ranked list of an attempt, whose number stands for audit, attempt and probe in every index of `scores`."""

    __tablename__ = "score_lists"
    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    audit_id: Mapped[str] = mapped_column(ForeignKey("audit_data.audit_id"))
    attempt: Mapped[int]
    probe_no: Mapped[int] = mapped_column(SmallInteger)
    """0: the headline over all probes; with several probes, 1 and up hold the result of each alone."""
    __table_args__ = (UniqueConstraint("audit_id", "attempt", "probe_no"),)


class Score(Base):
    """One sample's result in one attempt: a contract.ScoreRow. Narrow, immutable, loaded by COPY.

    No foreign key: it would be looked up for each of ten million rows, a quarter of the loading. Wide columns come
    first, so that no row has gaps between them.
    """

    __tablename__ = "scores"
    list_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    """Of the ScoreList."""
    n: Mapped[int] = mapped_column(Integer)
    rank: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    row: Mapped[int] = mapped_column(BigInteger)
    cluster: Mapped[int] = mapped_column(BigInteger)
    mu: Mapped[float]
    mu_low: Mapped[float | None]
    mu_high: Mapped[float | None]
    mu_composed: Mapped[float | None]
    p: Mapped[float | None]
    q: Mapped[float | None]
    z: Mapped[float | None] = mapped_column(REAL)
    z_reference: Mapped[float | None] = mapped_column(REAL)
    strongest_probe: Mapped[int] = mapped_column(SmallInteger)
    flagged: Mapped[bool] = mapped_column(Boolean)
    side: Mapped[str | None]
    group: Mapped[str | None]
    __table_args__ = (
        CheckConstraint("side IN ('toward','against','both')", name="side"),
        Index("uq_scores_row", "list_id", "row", unique=True),
        # Every index costs the loading of a result time; docs/decisions/0020 has what each one is for.
        Index("ix_scores_mu", "list_id", "mu", "row"),
        # Downwards, as scores come from a worker: what grows at its end has full pages.
        Index("ix_scores_z", "list_id", text("z DESC"), text('"row" DESC')),
        Index(
            "ix_scores_group",
            "list_id",
            # Not the name: it may be longer than what fits an index. 32 bits: what they mix up is told apart by name.
            text('hashtext("group")'),
            "rank",
            postgresql_where=text('"group" IS NOT NULL'),
        ),
        Index("ix_scores_side", "list_id", "side", "rank", postgresql_where=text("side IS NOT NULL")),
        Index("ix_scores_cluster", "list_id", "cluster", "row", postgresql_where=text("cluster <> row")),
        Index("ix_scores_flagged", "list_id", "rank", postgresql_where=text("flagged")),
    )


SEARCHED_CHARACTERS = 100_000
"""Of a sample's text, the part that full text search knows. A tsvector has at most 1 MiB; even if all words differ, are
hyphenated (the parser keeps the whole beside its parts) and have four bytes a character, so many stay below."""

_WORDS = "(jsonb_path_query_array(messages, '$[*].\"content\"'))::text"
for _escape in ("\\\\", "\\n", "\\r", "\\t", "\\f", "\\b", '\\"'):
    # In a text of JSON a line break is a backslash and an n, which would become part of the next word.
    _WORDS = f"replace({_WORDS}, '{_escape}', ' ')"
SEARCH = (
    f"array_to_tsvector(ARRAY[audit_id]) || to_tsvector('simple'::regconfig, \"left\"({_WORDS}, {SEARCHED_CHARACTERS}))"
)
"""The audit's id as a word makes the one index serve each audit alone: it intersects the two lists."""


class Finding(Base):
    """The text of one flagged or top-ranked sample of an attempt, and how its numbers came about."""

    __tablename__ = "findings"
    audit_id: Mapped[str] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    row: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    workspace_id: Mapped[str]
    messages: Mapped[list[Any]]
    extra: Mapped[dict[str, Any]]
    trace: Mapped[list[Any]]
    """[{probe_no, seed, step, effect, alignment, mu}]: every observation, as in contract.TRACE_COLUMNS."""
    baselines: Mapped[dict[str, Any]]
    """What simpler methods say: contract.BASELINE_COLUMNS."""
    search: Mapped[str] = mapped_column(TSVECTOR, Computed(SEARCH, persisted=True), deferred=True)
    """The words of the messages, for full text, and the audit's id."""
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "audit_id"], ["audit_data.workspace_id", "audit_data.audit_id"]),
        Index("ix_findings_search", "search", postgresql_using="gin"),
    )


class Export(Base):
    """A file made of an audit's samples or scores. Its content is an object under the published attempt."""

    __tablename__ = "exports"
    id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    job_id: Mapped[str] = mapped_column(unique=True)
    audit_id: Mapped[str]
    kind: Mapped[str]
    """cleaned, flagged or scores."""
    format: Mapped[str]
    """jsonl, csv or parquet."""
    filter: Mapped[str | None]
    """Which samples `cleaned` leaves out and `flagged` holds; null for scores, which are those of every sample."""
    max_q: Mapped[float | None]
    created_at: Mapped[datetime] = created_at()
    progress_done: Mapped[int | None] = mapped_column(BigInteger)
    progress_total: Mapped[int | None] = mapped_column(BigInteger)
    progress_unit: Mapped[str | None]
    eta_at: Mapped[datetime | None]
    progressed_at: Mapped[datetime | None]
    """When the export last moved on."""
    published_attempt: Mapped[int | None]
    """Readers see this attempt's object only."""
    rows: Mapped[int | None] = mapped_column(BigInteger)
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str | None]
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "job_id"], ["jobs.workspace_id", "jobs.id"]),
        ForeignKeyConstraint(["workspace_id", "audit_id"], ["audits.workspace_id", "audits.id"]),
        UniqueConstraint("workspace_id", "id"),
        # Whoever deletes an audit looks for exports of it.
        Index("ix_exports_audit", "workspace_id", "audit_id"),
        CheckConstraint("kind IN ('cleaned','flagged','scores')", name="kind"),
        CheckConstraint("format IN ('jsonl','csv','parquet')", name="format"),
        CheckConstraint("filter IN ('flagged','confirmed','not_rejected')", name="filter"),
        CheckConstraint("(kind = 'scores') = (filter IS NULL)", name="filtered"),
        CheckConstraint("max_q > 0 AND max_q < 1", name="max_q"),
        CheckConstraint("num_nulls(published_attempt, rows, bytes, sha256) IN (0, 4)", name="published"),
    )
