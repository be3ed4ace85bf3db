"""/v1/uploads: a file in parts by the tus protocol, and the dataset that is made of it."""

from functools import partial
from typing import Annotated

from fastapi import Depends, Header, Request, Response
from starlette.requests import ClientDisconnect

from service.datasets.routes import FILE_PROBLEMS, created
from service.datasets.schemas import Dataset
from service.datasets.upload import upload_places
from service.datasets.upload_form import UploadFormDep
from service.datasets.uploads import actions, tus
from service.datasets.uploads.finishing import Finishing
from service.datasets.uploads.parts import Kept, Parts, wrong_offset
from service.datasets.uploads.queries import find_upload
from service.errors import ConflictError, TooLargeError
from service.http.auth.authentication import RequireScope
from service.http.dependencies import ObjectsDep, SettingsDep, TransactionsDep
from service.http.fields import PathId
from service.http.middleware.request_ids import request_id
from service.http.problems.problem import Problem
from service.http.routing import declared_problems, resource_router
from service.principal import Principal
from service.store.tables import Upload

router = resource_router("uploads")
Writer = Annotated[Principal, Depends(RequireScope("datasets:write"))]

MOST_PARTS = 10_000
"""Parts of one upload: each is an object."""

_Length = Annotated[str | None, Header(alias="Upload-Length", description="Bytes of the whole file.")]
_Metadata = Annotated[
    str | None,
    Header(
        alias="Upload-Metadata",
        description="Pairs of a key and a text in base64; `filename` is what the dataset is called by default.",
    ),
]
_Offset = Annotated[str | None, Header(alias="Upload-Offset", description="Where the body belongs.")]
_Version = Annotated[str | None, Header(alias="Tus-Resumable", description=tus.VERSION)]


async def discover(_principal: Writer, settings: SettingsDep, _version: _Version = None) -> Response:
    """Tells the version and the extensions of the tus protocol that this server speaks."""
    headers = {
        "Tus-Version": tus.VERSION,
        "Tus-Extension": tus.EXTENSIONS,
        "Tus-Max-Size": str(settings.max_upload_bytes),
    }
    return Response(status_code=204, headers=headers)


async def create(
    request: Request,
    principal: Writer,
    settings: SettingsDep,
    transactions: TransactionsDep,
    _version: _Version = None,
    _length: _Length = None,
    metadata: _Metadata = None,
) -> Response:
    """Begins an upload, at the address in `Location`. Its parts follow with PATCH."""
    tus.require_version(request)
    size, name = tus.number_of(request, "Upload-Length"), tus.file_name_of(metadata or "")
    upload = await transactions.run(
        partial(actions.create, principal=principal, settings=settings, size=size, name=name, metadata=metadata or "")
    )
    return Response(status_code=201, headers={"Location": f"/v1/uploads/{upload.id}", **_offset(_kept(upload))})


async def offset(
    upload_id: PathId, request: Request, principal: Writer, transactions: TransactionsDep, _version: _Version = None
) -> Response:
    """How many bytes have come: where to go on."""
    upload = await _find(transactions, principal, upload_id)
    tus.require_version(request)
    headers = {"Upload-Length": str(upload.bytes), **_offset(_kept(upload)), "Cache-Control": "no-store"}
    if upload.sent_metadata:
        headers["Upload-Metadata"] = upload.sent_metadata
    return Response(headers=headers)


async def append(
    upload_id: PathId,
    request: Request,
    principal: Writer,
    objects: ObjectsDep,
    settings: SettingsDep,
    transactions: TransactionsDep,
    _version: _Version = None,
    _offset_header: _Offset = None,
) -> Response:
    """Takes the next bytes, of any number. What had come of a request that breaks off is kept."""
    upload = await _find(transactions, principal, upload_id)
    tus.require_version(request)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != tus.PART_TYPE:
        raise Problem(415, "unsupported_media_type", f"Send the part as {tus.PART_TYPE}.")
    if tus.number_of(request, "Upload-Offset") != upload.received:
        raise wrong_offset()
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and upload.received + int(declared[:20]) > upload.bytes:
        detail = f"This upload was begun with a length of {upload.bytes} bytes, and the part reaches beyond it."
        raise TooLargeError("upload_too_large", detail)
    if upload.parts >= MOST_PARTS:
        detail = f"An upload has at most {MOST_PARTS} parts. Begin it anew, and send larger ones."
        raise ConflictError("too_many_parts", detail)
    parts = Parts(
        upload.id,
        _kept(upload),
        upload.bytes,
        objects=objects,
        settings=settings,
        transactions=transactions,
        principal=principal,
    )
    places = upload_places()
    places.take(principal.workspace_id)
    try:
        await parts.take(request.stream())
    except ClientDisconnect:
        raise Problem(400, "upload_interrupted", "The connection ended before the part did.") from None
    finally:
        places.give_back(principal.workspace_id)
    return Response(status_code=204, headers=_offset(parts.kept))


async def terminate(
    upload_id: PathId, request: Request, principal: Writer, transactions: TransactionsDep, _version: _Version = None
) -> Response:
    """Drops an upload and what has come of it. A dataset that was made of it stays."""
    await _find(transactions, principal, upload_id)
    tus.require_version(request)
    await transactions.run(lambda session: actions.terminate(session, principal, upload_id))
    return Response(status_code=204)


async def finish(upload_id: PathId, request: Request, principal: Writer, form: UploadFormDep) -> Response:
    """Makes the dataset of an upload that is whole, as `POST /v1/datasets` makes it of a body.

    202 says that it is still being made: send the same request again. Once it is made, the answer is the same as often
    as it is asked for. A file that is refused stays, to be read in another form, until it expires or is deleted.
    """
    finishing: Finishing = request.app.state.finishing
    dataset = await finishing.finish(principal, upload_id, form, request_id=request_id.get())
    if dataset is None:
        return Response(status_code=202, headers={"Retry-After": "1"})
    return created(dataset)


async def _find(transactions: TransactionsDep, principal: Principal, upload_id: str) -> Upload:
    return await transactions.run(lambda session: find_upload(session, principal, upload_id))


def _kept(upload: Upload) -> Kept:
    return Kept(upload.received, upload.expires_at)


def _offset(kept: Kept) -> dict[str, str]:
    return {"Upload-Offset": str(kept.received), "Upload-Expires": tus.http_date(kept.expires_at)}


_add_tus_route = partial(router.add_api_route, response_class=Response, route_class_override=tus.TusRoute)

_add_tus_route(
    "",
    discover,
    methods=["OPTIONS"],
    status_code=204,
    operation_id="discover_uploads",
    responses=declared_problems(403),
)
_add_tus_route(
    "",
    create,
    methods=["POST"],
    status_code=201,
    operation_id="create_upload",
    responses=declared_problems(
        403,
        "tus_version",
        "upload_quota",
        "dataset_quota",
        "workspace_deleted",
        "storage_quota",
        "upload_too_large",
        "invalid_request",
    ),
)
_add_tus_route(
    "/{upload_id}",
    offset,
    methods=["HEAD"],
    operation_id="head_upload",
    responses=declared_problems(403, 404, "tus_version"),
)
_add_tus_route(
    "/{upload_id}",
    append,
    methods=["PATCH"],
    status_code=204,
    operation_id="append_to_upload",
    responses=declared_problems(
        403,
        404,
        "tus_version",
        "upload_interrupted",
        "upload_stalled",
        "upload_too_slow",
        "upload_offset",
        "too_many_parts",
        "upload_too_large",
        "unsupported_media_type",
        "too_many_uploads",
        "upload_share_taken",
        "storage_full",
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {tus.PART_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
_add_tus_route(
    "/{upload_id}",
    terminate,
    methods=["DELETE"],
    status_code=204,
    operation_id="delete_upload",
    responses=declared_problems(403, 404, "tus_version", "upload_being_finished"),
)
router.add_api_route(
    "/{upload_id}/dataset",
    finish,
    methods=["POST"],
    status_code=201,
    response_model=Dataset,
    operation_id="finish_upload",
    responses={
        202: {"description": "It is still being made: send the same request again."},
        **declared_problems(403, 404, "upload_not_complete", *FILE_PROBLEMS),
    },
)
