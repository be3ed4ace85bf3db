"""/healthz, /readyz, /metrics, /v1/info and /openapi.json: does it live, can it serve, how is it, what can it do."""

from importlib.metadata import version
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel
from sqlalchemy.orm import Session

from service.contract.spec import (
    CONTRACT_VERSION,
    MAX_PROBES,
    MAX_SEEDS,
    MIN_DATASET_ROWS,
    WARN_DATASET_ROWS,
    TrainingConfig,
)
from service.http.auth.authentication import RequireScope
from service.http.dependencies import SessionDep, SettingsDep, TransactionsDep
from service.http.pagination import MAX_LIMIT
from service.http.problems.problem import Problem
from service.http.routing import JSON_BODY_BYTES, AuthenticatedRoute, declared_problems
from service.migration import why_unfit
from service.ops.broker_check import BrokerCheck
from service.ops.metrics import exposition, queue_ages
from service.ops.object_store_check import ObjectStoreCheck
from service.principal import Principal
from service.probes.schemas import MAX_PROBE_ITEMS

public = APIRouter(tags=["health"])
router = APIRouter(tags=["info"], route_class=AuthenticatedRoute, responses=declared_problems(401, 503))
AnyKey = Annotated[Principal, Depends(RequireScope())]


class Health(BaseModel):
    """The process serves requests."""

    status: Literal["ok"] = "ok"


class Readiness(Health):
    """Whether the process can serve, and how the parts are doing that it can serve without."""

    objects: Literal["ok", "away"]
    """away: the object store does not answer; uploads, downloads and samples are refused, and the rest is served."""
    broker: Literal["ok", "away"]
    """away: nothing is lost; queued audits start some seconds later than else."""
    queue_age_seconds: dict[str, float]
    """By queue: how long the oldest due job has waited. It grows while no worker takes jobs."""


class Limits(BaseModel):
    """What a request may hold at most, and a dataset at least."""

    max_upload_bytes: int
    max_decompression_ratio: int
    max_line_bytes: int
    max_dataset_rows: int
    min_dataset_rows: int
    warn_dataset_rows: int
    max_probe_items: int
    max_probes: int
    max_seeds: int
    max_json_bytes: int
    max_page: int


class Info(BaseModel):
    """What this server is and accepts."""

    object: Literal["info"] = "info"
    version: str
    contract: int
    limits: Limits
    formats: list[str]
    containers: list[str]
    encodings: list[str]
    training_defaults: TrainingConfig


@public.get("/healthz", operation_id="get_health")
async def healthz() -> Health:
    """The process answers."""
    return Health()


@public.get("/readyz", operation_id="get_readiness", responses=declared_problems("schema_outdated", "version_outdated"))
async def readyz(request: Request, transactions: TransactionsDep) -> Readiness:
    """The database answers and has a schema that this version runs on; how object store, broker and queues are."""

    def look(session: Session) -> dict[str, float]:
        unfit = why_unfit(session.connection())
        if unfit is not None:
            code = "version_outdated" if unfit.code_is_older else "schema_outdated"
            raise Problem(503, code, unfit.detail, headers={"Retry-After": "5"})
        return queue_ages(session)

    ages = await transactions.run(look)
    # No connection is held meanwhile: who is away takes its time to say nothing.
    broker: BrokerCheck = request.app.state.broker
    objects: ObjectStoreCheck = request.app.state.object_store
    return Readiness(
        objects="ok" if await objects.answers() else "away",
        broker="ok" if await broker.answers() else "away",
        queue_age_seconds=ages,
    )


@router.get("/metrics", operation_id="get_metrics", response_class=PlainTextResponse)
def metrics(request: Request, session: SessionDep, settings: SettingsDep, _principal: AnyKey) -> Response:
    """Jobs, workers, attempts and requests in the format of Prometheus, over all workspaces, without their data."""
    content = exposition(session, request.app.state.request_metrics, heartbeat_seconds=settings.heartbeat_seconds)
    return Response(content, media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/v1/info", operation_id="get_info")
def info(settings: SettingsDep, _principal: AnyKey) -> Info:
    """Version, limits, formats, and what an audit's training uses where nothing is asked for."""
    return Info(
        version=version("finetooth"),
        contract=CONTRACT_VERSION,
        limits=Limits(
            max_upload_bytes=settings.max_upload_bytes,
            max_decompression_ratio=settings.max_decompression_ratio,
            max_line_bytes=settings.max_line_bytes,
            max_dataset_rows=settings.max_dataset_rows,
            min_dataset_rows=MIN_DATASET_ROWS,
            warn_dataset_rows=WARN_DATASET_ROWS,
            max_probe_items=MAX_PROBE_ITEMS,
            max_probes=MAX_PROBES,
            max_seeds=MAX_SEEDS,
            max_json_bytes=JSON_BODY_BYTES,
            max_page=MAX_LIMIT,
        ),
        formats=["messages", "alpaca", "sharegpt", "prompt_completion"],
        containers=["jsonl", "json", "csv", "parquet", "arrow"],
        encodings=["identity", "gzip", "zstd"],
        training_defaults=TrainingConfig(),
    )


@router.get("/openapi.json", operation_id="get_openapi")
def openapi(request: Request, _principal: AnyKey) -> dict[str, Any]:
    """This interface as an OpenAPI document."""
    schema: dict[str, Any] = request.app.openapi()
    return schema
