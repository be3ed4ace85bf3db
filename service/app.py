"""The API: `create_app()` puts settings, middleware and routers together. uvicorn --factory service.app:create_app."""

import gc
import os
import secrets
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import version

from anyio.to_thread import current_default_thread_limiter, run_sync
from fastapi import APIRouter, FastAPI
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from service.audit_log.routes import router as audit_log
from service.audits.live.changes import AuditChanges
from service.audits.results.routes import router as answers
from service.audits.routes import router as audits
from service.comparisons.routes import router as comparisons
from service.datasets.routes import router as datasets
from service.datasets.uploads.finishing import Finishing
from service.datasets.uploads.routes import router as uploads
from service.datasets.versions.routes import router as dataset_versions
from service.exports.routes import of_audit as audit_exports
from service.exports.routes import router as exports
from service.findings.routes import router as findings
from service.findings.saved_views.routes import router as saved_views
from service.findings.verdicts.routes import router as verdicts
from service.http.auth.principal_cache import Principals
from service.http.conditional.etags import install_conditional_requests
from service.http.middleware.edge import KnownHosts, SecurityHeaders
from service.http.middleware.request_ids import RequestIds
from service.http.object_reads import ObjectReads
from service.http.openapi import install_openapi
from service.http.problems.handlers import UnexpectedErrors, install_problem_handlers
from service.http.streaming.stop_signals import on_stop_signal
from service.http.sub_path import SubPath
from service.http.transactions import Transactions, share_pool
from service.keys.routes import router as keys
from service.keys.session_routes import router as browser_sessions
from service.keys.sign_in_routes import router as sign_out
from service.lifecycle.connection_budget import RECONCILER, tell_budget
from service.lifecycle.reconcile import Reconciler
from service.logs import configure_logging
from service.migration import head_revision
from service.models.routes import router as models
from service.ops import health
from service.ops.broker_check import BrokerCheck
from service.ops.metrics import MeasuredRequests, RequestMetrics
from service.ops.object_store_check import ObjectStoreCheck
from service.people.routes import router as people
from service.probes.packs.routes import router as probe_packs
from service.probes.routes import router as probes
from service.settings import BadSettingsError, Settings, ensure_folder, refuse_to_start, settings_or_exit
from service.store.engine import make_engine, make_sessions
from service.store.object_store_factory import make_object_store
from service.store.patience import OF_A_REQUEST
from service.store.stored_rows import StoredRows
from service.web.report_routes import router as reports
from service.web.routes import router as web
from service.workers.routes import router as workers
from service.workspaces.routes import router as workspaces


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; it connects to the database with the first request that needs it.

    state holds settings, engine, sessions (a sessionmaker), transactions, objects (an ObjectStore), and while it runs
    audit_changes. Without settings it is a process's only application and takes those of the process; where one cannot
    be used, the process ends with a line that says which.

    Raises:
        BadSettingsError: No database is configured, or a folder cannot be used.
    """
    if settings is not None:
        return _make_app(settings)
    settings = settings_or_exit()
    configure_logging(settings.log_format)
    try:
        app = _make_app(settings)
    except BadSettingsError as error:
        refuse_to_start(str(error))
    # What is there now stays: to look through it for garbage, now and then, would stop all requests for 0.1 s.
    gc.freeze()
    return app


def _make_app(settings: Settings) -> FastAPI:
    if settings.database_url is None:
        raise BadSettingsError("set FINETOOTH_DATABASE_URL, or run `finetooth up`, which brings its own database")
    for folder in (settings.work, *(() if settings.object_url else (settings.objects,))):
        ensure_folder(settings, folder)
    request_metrics = RequestMetrics()
    app = FastAPI(
        title="Finetooth",
        version=version("finetooth"),
        summary="Audits instruction-tuning data for poison.",
        # The page of /docs loads scripts of others; the document itself is at /openapi.json, behind a key.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        routes=_routes(),
        lifespan=_lifespan,
        middleware=[
            Middleware(SubPath, root=settings.root_path),
            Middleware(RequestIds),
            Middleware(MeasuredRequests, metrics=request_metrics),
            Middleware(SecurityHeaders),
            Middleware(UnexpectedErrors),
            Middleware(KnownHosts, hosts=settings.allowed_hosts),
        ],
    )
    engine = make_engine(
        settings.database_url.get_secret_value(),
        pool_size=settings.database_pool_size,
        statement_timeout_ms=settings.statement_timeout_ms,
        idle_transaction_seconds=settings.lease_seconds,
        pooler=settings.database_pooler,
        application_name="finetooth-api",
    )
    own, authentication = share_pool(settings.database_pool_size)
    app.state.settings = settings
    app.state.request_metrics = request_metrics
    app.state.engine = engine
    app.state.sessions = make_sessions(engine)
    app.state.principals = Principals()
    app.state.principals.forget_with(app.state.sessions)
    app.state.transactions = Transactions(app.state.sessions, own)
    app.state.authentication = Transactions(app.state.sessions, authentication)
    app.state.objects = make_object_store(settings)
    # A third of the threads, for pages that read in one of those: the rest serves on while the store stalls.
    most_readers = max(1, settings.database_pool_size // 3)
    app.state.rows = StoredRows(make_object_store(settings, OF_A_REQUEST), most_readers=most_readers)
    app.state.object_reads = ObjectReads(app.state.rows.readers, most_readers)
    app.state.object_store = ObjectStoreCheck(settings)
    app.state.finishing = Finishing(app.state.objects, settings, app.state.transactions)
    head_revision()  # read while nobody waits for it
    app.state.broker = BrokerCheck(settings)
    app.state.issuer = None
    if settings.oidc_issuer is not None:
        # Imported here: Authlib takes a good part of the time to start, and most installations have no issuer.
        from service.people.oidc.issuer import Issuer

        app.state.issuer = Issuer(settings)
    install_problem_handlers(app)
    install_conditional_requests(app)
    install_openapi(app, settings.root_path)
    return app


@cache
def _routes() -> list[BaseRoute]:
    """Those of all resources. FastAPI works out with the first request what each takes, for 0.1 s: once a process."""
    together = APIRouter()
    for router in (
        health.public,
        health.router,
        sign_out,
        workspaces,
        keys,
        browser_sessions,
        people,
        audit_log,
        datasets,
        dataset_versions,
        uploads,
        probes,
        probe_packs,
        models,
        audits,
        answers,
        findings,
        verdicts,
        saved_views,
        comparisons,
        workers,
        audit_exports,
        exports,
        reports,
        web,
    ):
        together.include_router(router)
    return together.routes


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    # As many threads as connections: more would only wait for one.
    settings = app.state.settings
    current_default_thread_limiter().total_tokens = settings.database_pool_size
    # A connection of its own: requests take turns on theirs.
    engine = make_engine(
        settings.database_url.get_secret_value(),
        pool_size=1,
        statement_timeout_ms=settings.statement_timeout_ms,
        idle_transaction_seconds=settings.lease_seconds,
        pooler=settings.database_pooler,
        application_name=RECONCILER,
    )
    owner = f"api:{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    sessions = make_sessions(engine)
    reconciler = Reconciler(settings, sessions, app.state.objects, owner=owner)
    changes = AuditChanges(app.state.transactions, settings, settings.max_waiting_requests)
    app.state.audit_changes = changes
    reconciler.start()
    # In a thread: a database that does not answer keeps nobody from starting.
    threading.Thread(target=tell_budget, args=(sessions, settings), name="connection budget", daemon=True).start()
    with on_stop_signal(changes.stop):
        yield
    changes.stop()
    await app.state.finishing.stop()
    await run_sync(reconciler.stop)
    engine.dispose()
    app.state.engine.dispose()
