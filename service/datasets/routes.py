"""/v1/datasets: uploading instruction-tuning data, and looking at it."""

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import Depends, Query, Request, Response
from starlette.requests import ClientDisconnect

from service.contract import ROWS_FILE
from service.datasets import queries
from service.datasets.records import FORMATS
from service.datasets.refused_uploads import UploadRoute
from service.datasets.schemas import Dataset, Sample, Statistics, render_dataset
from service.datasets.upload import receive_dataset, too_large
from service.http.auth import Principal, require
from service.http.dependencies import ObjectsDep, SessionDep, SettingsDep, TransactionsDep
from service.http.fields import Name, PathId
from service.http.pagination import Page, PageDep
from service.http.problems import Problem
from service.http.routing import declared_problems, resource_router
from service.store.objects import dataset_key
from service.store.rows import page as read_page

router = resource_router("datasets")
Reader = Annotated[Principal, Depends(require())]
Writer = Annotated[Principal, Depends(require("datasets:write"))]


async def upload(
    request: Request,
    response: Response,
    principal: Writer,
    objects: ObjectsDep,
    settings: SettingsDep,
    transactions: TransactionsDep,
    name: Annotated[Name | None, Query(description="What to call it; by default its id.")] = None,
    format: Annotated[
        str, Query(description=f"auto, or one of {', '.join(FORMATS)}.", json_schema_extra={"enum": ["auto", *FORMATS]})
    ] = "auto",
) -> Dataset:
    """Takes JSONL, plain or gzip, as the raw body; it is parsed while it streams. Invalid data leaves nothing."""
    if format != "auto" and format not in FORMATS:
        raise Problem(
            422,
            "unknown_format",
            f"`format` is auto or one of {', '.join(FORMATS)}.",
            errors=[{"pointer": "query:format", "detail": "no such format"}],
        )
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise Problem(415, "unsupported_content_encoding", "Send the body as it is, or with Content-Encoding: gzip.")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > settings.max_upload_bytes:
        raise too_large(settings.max_upload_bytes)
    try:
        dataset = await receive_dataset(
            request.stream(),
            objects=objects,
            settings=settings,
            transactions=transactions,
            principal=principal,
            name=name,
            format=format,
            gzip=encoding != "identity",
        )
    except ClientDisconnect:
        raise Problem(400, "upload_interrupted", "The connection ended before the upload did.") from None
    response.headers["Location"] = f"/v1/datasets/{dataset.id}"
    return render_dataset(dataset)


router.add_api_route(
    "",
    upload,
    methods=["POST"],
    status_code=201,
    operation_id="create_dataset",
    route_class_override=UploadRoute,
    responses=declared_problems(
        403,
        "upload_interrupted",
        "upload_stalled",
        "upload_too_large",
        "decompression_limit",
        "too_many_rows",
        "unsupported_content_encoding",
        "unknown_format",
        "dataset_empty",
        "dataset_invalid",
        "parser_memory_limit",
        "gzip_corrupt",
        "gzip_truncated",
        "line_too_long",
        "format_not_recognised",
        "too_many_uploads",
        "storage_full",
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/jsonl": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)


@router.get("", operation_id="list_datasets")
def list_all(principal: Reader, session: SessionDep, page: PageDep) -> Page[Dataset]:
    """The workspace's datasets, newest first."""
    rows = queries.list_datasets(session, principal, after=page.after, limit=page.limit + 1)
    return page.page(rows, key=lambda row: row.id, render=render_dataset)


@router.get("/{dataset_id}", operation_id="get_dataset", responses=declared_problems(404))
def get(dataset_id: PathId, principal: Reader, session: SessionDep) -> Dataset:
    """One dataset."""
    return render_dataset(queries.find_dataset(session, principal, dataset_id))


@router.delete(
    "/{dataset_id}",
    status_code=204,
    operation_id="delete_dataset",
    responses=declared_problems(403, 404, 409, "dataset_in_use"),
)
async def delete(dataset_id: PathId, principal: Writer, transactions: TransactionsDep, objects: ObjectsDep) -> None:
    """Deletes a dataset that no audit stands on, and its files."""
    # The row goes first and for good: objects without a row can be swept, a row without objects could not be read.
    await transactions.run(lambda session: queries.delete_dataset(session, principal, dataset_id))
    await run_sync(objects.delete_tree, dataset_key(principal.workspace_id, dataset_id))


@router.get("/{dataset_id}/rows", operation_id="list_dataset_rows", responses=declared_problems(404))
def rows(
    dataset_id: PathId, principal: Reader, session: SessionDep, objects: ObjectsDep, page: PageDep
) -> Page[Sample]:
    """The rows in the order of the upload; a page of long rows ends before `limit`."""
    dataset = queries.find_dataset(session, principal, dataset_id)
    with objects.open(dataset_key(principal.workspace_id, dataset_id, ROWS_FILE)) as file:
        samples = read_page(file, page.after_number, page.limit)
    more = bool(samples) and samples[-1]["row"] + 1 < dataset.rows
    return page.page(
        samples + samples[-1:] if more else samples,
        key=lambda sample: sample["row"],
        render=lambda sample: Sample(**sample),
        keep=len(samples),
    )


@router.get("/{dataset_id}/statistics", operation_id="get_dataset_statistics", responses=declared_problems(404))
def statistics(dataset_id: PathId, principal: Reader, session: SessionDep) -> Statistics:
    """Lengths, roles, turns, exact duplicates and the values of extra columns."""
    dataset = queries.find_dataset(session, principal, dataset_id)
    return Statistics(dataset_id=dataset.id, **dataset.statistics)
