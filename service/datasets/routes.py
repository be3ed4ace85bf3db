"""/v1/datasets: uploading instruction-tuning data, looking at it, and getting it back."""

from functools import partial
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import BackgroundTasks, Depends, Request, Response
from starlette.requests import ClientDisconnect

from service.datasets import actions, queries
from service.datasets.file_names import MEDIA_TYPES, file_name, media_type
from service.datasets.intake import Form
from service.datasets.refused_uploads import UploadRoute
from service.datasets.schemas import Dataset, Sample, Statistics, Validation, render_dataset, render_validation
from service.datasets.upload import digest_of, receive_dataset, too_large
from service.datasets.upload_form import UploadFormDep
from service.http.auth.authentication import RequireScope
from service.http.conditional.downloads import download
from service.http.conditional.etags import NOT_MODIFIED, ConditionsDep, strong_tag
from service.http.dependencies import ObjectReadsDep, ObjectsDep, RowsDep, SessionDep, SettingsDep, TransactionsDep
from service.http.fields import PathId
from service.http.idempotency import AnsweredAlreadyError, StreamedKeyDep
from service.http.middleware.request_ids import request_id
from service.http.object_reads import deletions
from service.http.pagination import Page, PageDep
from service.http.problems.problem import Problem
from service.http.routing import declared_problems, resource_router
from service.lifecycle.wakeup import wake
from service.principal import Principal
from service.store.objects import dataset_key
from service.store.tables import Dataset as DatasetTable

router = resource_router("datasets")
Reader = Annotated[Principal, Depends(RequireScope())]
Writer = Annotated[Principal, Depends(RequireScope("datasets:write"))]
FILE_PROBLEMS = (
    "dataset_quota",
    "workspace_deleted",
    "dataset_replaced",
    "dataset_not_found",
    "upload_too_large",
    "decompression_limit",
    "too_many_rows",
    "unknown_format",
    "dataset_empty",
    "dataset_invalid",
    "parser_crashed",
    "parser_memory_limit",
    "parser_time_limit",
    "gzip_corrupt",
    "gzip_truncated",
    "zstd_corrupt",
    "zstd_truncated",
    "json_invalid",
    "csv_invalid",
    "parquet_invalid",
    "parquet_type_unsupported",
    "arrow_invalid",
    "arrow_type_unsupported",
    "line_too_long",
    "format_not_recognised",
    "too_many_uploads",
    "upload_share_taken",
    "storage_full",
    "storage_quota",
)
"""The problems of a file, however it is uploaded."""


async def upload(
    request: Request,
    background: BackgroundTasks,
    principal: Writer,
    objects: ObjectsDep,
    settings: SettingsDep,
    transactions: TransactionsDep,
    key: StreamedKeyDep,
    form: UploadFormDep,
) -> Response:
    """Takes JSONL, JSON, CSV (each plain, gzip or zstd) or Parquet as the raw body, known by its content.

    Texts are parsed while they stream. Invalid data leaves nothing.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower().removeprefix("x-")
    if encoding not in ("identity", "gzip", "zstd"):
        raise Problem(
            415, "unsupported_content_encoding", "Send the body as it is, or with Content-Encoding: gzip or zstd."
        )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > settings.max_upload_bytes:
        raise too_large(settings.max_upload_bytes)
    try:
        if (earlier := await key.earlier(transactions, settings)) is not None:
            return earlier.answer(await digest_of(request.stream(), settings.max_upload_bytes))
        dataset = await receive_dataset(
            request.stream(),
            gone=partial(_gone, request),
            objects=objects,
            settings=settings,
            transactions=transactions,
            principal=principal,
            name=form.name,
            form=Form(format=form.format, mapping=form.mapping, encoding=encoding),
            size=int(declared[:20]) if declared.isdecimal() else 0,
            replaces=form.replaces,
            request_id=request_id.get(),
            recorded=lambda session, dataset: key.record(session, bytes.fromhex(dataset.sha256), created(dataset)),
        )
    except AnsweredAlreadyError as error:
        return error.answer()
    except ClientDisconnect:
        raise Problem(400, "upload_interrupted", "The connection ended before the upload did.") from None
    background.add_task(wake, settings, "io")
    return created(dataset)


async def _gone(request: Request) -> None:
    """Return once the client has disconnected; its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def created(dataset: DatasetTable) -> Response:
    """Build the answer to a request that has created a dataset."""
    content = render_dataset(dataset).model_dump_json()
    return Response(content, 201, {"Location": f"/v1/datasets/{dataset.id}"}, media_type="application/json")


router.add_api_route(
    "",
    upload,
    methods=["POST"],
    status_code=201,
    response_model=Dataset,
    operation_id="create_dataset",
    route_class_override=UploadRoute,
    responses=declared_problems(
        403,
        "upload_interrupted",
        "upload_stalled",
        "upload_too_slow",
        "unsupported_content_encoding",
        *FILE_PROBLEMS,
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()},
        }
    },
)


@router.get("", operation_id="list_datasets")
def list_all(principal: Reader, session: SessionDep, page: PageDep) -> Page[Dataset]:
    """The workspace's datasets, newest first."""
    rows = queries.list_datasets(session, principal, after=page.after, limit=page.limit + 1)
    return page.page(rows, key=lambda row: row.id, render=render_dataset)


@router.get("/{dataset_id}", operation_id="get_dataset", responses=declared_problems(404) | NOT_MODIFIED)
def get(dataset_id: PathId, principal: Reader, session: SessionDep, conditions: ConditionsDep) -> Dataset:
    """One dataset."""
    dataset = queries.find_dataset(session, principal, dataset_id)
    conditions.serve(strong_tag(dataset.id, dataset.replaces_id))
    return render_dataset(dataset)


@router.delete(
    "/{dataset_id}",
    status_code=204,
    operation_id="delete_dataset",
    responses=declared_problems(403, 404, 409, "dataset_in_use"),
)
async def delete(dataset_id: PathId, principal: Writer, transactions: TransactionsDep, objects: ObjectsDep) -> None:
    """Deletes a dataset that no audit uses, with its files."""
    # The row is deleted and committed first: a row without objects could not be read. If the process ends here, the
    # reconciliation deletes the objects.
    await transactions.run(lambda session: actions.delete(session, principal, dataset_id, request_id=request_id.get()))
    await run_sync(objects.delete_tree, dataset_key(principal.workspace_id, dataset_id), limiter=deletions)


@router.get(
    "/{dataset_id}/rows",
    operation_id="list_dataset_rows",
    response_model=Page[Sample],
    responses=declared_problems(404),
)
async def rows(
    dataset_id: PathId,
    principal: Reader,
    transactions: TransactionsDep,
    reads: ObjectReadsDep,
    stored: RowsDep,
    page: PageDep,
    response: Response,
) -> Response:
    """The rows in the order of the upload; a page of long rows ends before `limit`."""
    after = page.after_number
    dataset = await transactions.run(lambda session: queries.find_dataset(session, principal, dataset_id))

    def read() -> str:
        samples = stored.page(principal.workspace_id, dataset_id, after, page.limit)
        more = bool(samples) and samples[-1]["row"] + 1 < dataset.rows
        return page.page(
            samples + samples[-1:] if more else samples,
            key=lambda sample: sample["row"],
            render=lambda sample: Sample(**sample),
            keep=len(samples),
        ).model_dump_json()

    content = await reads.run(read)
    return Response(content, headers=dict(response.headers), media_type="application/json")


@router.get(
    "/{dataset_id}/statistics", operation_id="get_dataset_statistics", responses=declared_problems(404) | NOT_MODIFIED
)
def statistics(dataset_id: PathId, principal: Reader, session: SessionDep, conditions: ConditionsDep) -> Statistics:
    """Lengths, roles, turns, duplicates and the values of extra columns."""
    dataset = queries.find_dataset(session, principal, dataset_id)
    conditions.serve(strong_tag(dataset.id, dataset.near_duplicates))
    return Statistics(dataset_id=dataset.id, near_duplicates=dataset.near_duplicates, **dataset.statistics)


@router.get("/{dataset_id}/validation", operation_id="get_dataset_validation", responses=declared_problems(404))
def validation(dataset_id: PathId, principal: Reader, session: SessionDep) -> Validation:
    """What was noticed although it was accepted: hidden characters, control tokens, columns that no audit trains on."""
    return render_validation(queries.find_dataset(session, principal, dataset_id))


async def content(
    dataset_id: PathId, request: Request, principal: Reader, transactions: TransactionsDep, objects: ObjectsDep
) -> Response:
    """The upload, byte for byte as it came: whole, or the range that `Range` asks for."""
    dataset = await transactions.run(lambda session: queries.find_dataset(session, principal, dataset_id))
    return download(
        request,
        objects,
        dataset_key(principal.workspace_id, dataset_id, "original"),
        size=dataset.bytes,
        sha256=dataset.sha256,
        media_type=media_type(dataset.container, dataset.encoding),
        filename=file_name(dataset.name, dataset.container, dataset.encoding),
    )


for method in ("GET", "HEAD"):
    router.add_api_route(
        "/{dataset_id}/content",
        content,
        methods=[method],
        operation_id=f"{method.lower()}_dataset_content",
        response_class=Response,
        responses={
            200: {"content": {kind: {} for kind in MEDIA_TYPES.values()}},
            206: {"description": "The bytes asked for."},
            304: {"description": "`If-None-Match` names what there is."},
            **declared_problems(404, "range_not_satisfiable"),
        },
    )
