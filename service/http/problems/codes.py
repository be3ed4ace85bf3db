"""Every problem code: which statuses it comes with, and when. docs/api.md and the OpenAPI document show it.

Which routes answer with a code follows from the route where it can (a body, a path with an id, a scope), and is
declared by it where it cannot: `declared_problems(404, "probe_in_use")`. For a new code, add its line here and run
`make openapi`.
"""

from http import HTTPStatus
from typing import NamedTuple


class Meaning(NamedTuple):
    """The statuses of a code, and when a request is answered with it."""

    statuses: tuple[int, ...]
    when: str


def title_of(status: int) -> str:
    """Return a status in the words of RFC 9110; Python's own differ from version to version."""
    return {413: "Content Too Large", 422: "Unprocessable Content"}.get(status) or HTTPStatus(status).phrase


PROBLEM_CODES: dict[str, Meaning] = {
    "bad_request": Meaning((400,), "the request cannot be read"),
    "upload_interrupted": Meaning((400,), "the connection ended before the upload did"),
    "malformed_json": Meaning((400,), "the body is not JSON"),
    "nul_in_address": Meaning((400,), "the address holds a NUL character"),
    "host_not_allowed": Meaning((400,), "the `Host` header is not in `FINETOOTH_ALLOWED_HOSTS`"),
    "unauthenticated": Meaning((401,), "no key and no session"),
    "key_malformed": Meaning((401,), "the key is cut or mistyped"),
    "key_invalid": Meaning((401,), "the key is unknown, replaced or revoked"),
    "key_expired": Meaning((401,), "the key has expired"),
    "session_ended": Meaning((401,), "the browser is signed out"),
    "scope_missing": Meaning((403,), "the key lacks the scope that this request needs"),
    "installation_admin_only": Meaning((403,), "only an admin of the installation's first workspace may do this"),
    "bulk_of_another": Meaning((403,), "only the reviewer who set these verdicts, or an admin, may undo them"),
    "cross_site": Meaning((403,), "another site's page sent this request with the session cookie"),
    "sign_in_link_invalid": Meaning((403,), "the sign-in link was used before or is too old"),
    "not_found": Meaning((404,), "nothing at this path"),
    "dataset_not_found": Meaning((404, 422), "no such dataset in this workspace"),
    "probe_not_found": Meaning((404, 422), "no such probe in this workspace"),
    "model_not_found": Meaning((404, 422), "no such model in this workspace"),
    "audit_not_found": Meaning((404,), "no such audit in this workspace"),
    "audit_probe_not_found": Meaning((404,), "the audit has fewer probes than `probe` says"),
    "audit_group_not_found": Meaning((404,), "the audit has no group of this name"),
    "finding_not_found": Meaning((404,), "the audit's dataset has no such row"),
    "bulk_not_found": Meaning((404,), "the audit has no bulk of verdicts of this id"),
    "view_not_found": Meaning((404,), "no such saved view in this workspace"),
    "export_not_found": Meaning((404,), "no such export in this workspace"),
    "upload_not_found": Meaning((404,), "no such upload in parts in this workspace, or it has expired"),
    "key_not_found": Meaning((404,), "no such key in this workspace"),
    "session_not_found": Meaning((404,), "no such signed-in browser in this workspace"),
    "user_not_found": Meaning((404,), "no such person in this workspace"),
    "workspace_not_found": Meaning((404,), "no such workspace, or none that the key may see"),
    "probe_pack_not_found": Meaning((404, 422), "no built-in pack of this name"),
    "method_not_allowed": Meaning((405,), "the path does not answer this method"),
    "upload_stalled": Meaning((408,), "the upload sent nothing for too long"),
    "upload_too_slow": Meaning((408,), "the upload came with fewer than 16 KiB a second"),
    "body_stalled": Meaning((408,), "the body did not come to its end within a minute"),
    "key_revoked": Meaning((409,), "a revoked key cannot be rotated"),
    "user_is_member": Meaning((409,), "the person has a role in this workspace already"),
    "own_role": Meaning((409,), "people cannot change their own role, or remove or disable themselves"),
    "workspace_name_taken": Meaning(
        (409,), "there is a workspace of this name, or one was deleted whose entries in the audit log are kept"
    ),
    "workspace_deleted": Meaning((409,), "the workspace is being deleted, or is deleted: nothing new starts in it"),
    "first_workspace": Meaning((409,), "the first workspace administers the installation, and cannot be deleted"),
    "audit_not_ended": Meaning((409,), "the audit is queued or runs; cancel it before you delete it"),
    "audit_in_use": Meaning((409,), "exports of the audit are queued or run; let them end, or cancel them"),
    "audit_not_retryable": Meaning((409,), "the audit has succeeded, or is just being cancelled"),
    "audit_not_finished": Meaning((409,), "the audit has no results yet, or failed or was cancelled"),
    "export_not_finished": Meaning((409,), "the export has no content yet, or failed or was cancelled"),
    "export_not_ended": Meaning((409,), "the export is queued or runs; cancel it before you delete it"),
    "bulk_changed": Meaning((409,), "other samples fit the filter now than in the dry run; ask for another one"),
    "bulk_undone": Meaning((409,), "these verdicts were undone before"),
    "view_name_taken": Meaning((409,), "the workspace has a saved view of this name"),
    "view_quota": Meaning((409,), "the workspace has 100 saved views"),
    "probe_in_use": Meaning((409,), "audits use this probe; delete them first"),
    "dataset_in_use": Meaning((409,), "audits use this dataset; delete them first"),
    "dataset_replaced": Meaning((409,), "the dataset to be replaced has a newer version already, which `detail` names"),
    "model_in_use": Meaning((409,), "audits use this model; delete them first"),
    "queued_audits_quota": Meaning(
        (409,),
        "the workspace has as many audits in the queue as it may: `FINETOOTH_MAX_QUEUED_AUDITS`, or a limit of its own",
    ),
    "dataset_quota": Meaning(
        (409,), "the workspace's datasets would have more than `FINETOOTH_MAX_WORKSPACE_ROWS` samples"
    ),
    "probe_quota": Meaning((409,), "the workspace has `FINETOOTH_MAX_WORKSPACE_PROBES` probes"),
    "export_quota": Meaning((409,), "the workspace has `FINETOOTH_MAX_WORKSPACE_EXPORTS` exports"),
    "idempotency_quota": Meaning(
        (409,),
        "the kept answers to the workspace's requests with an `Idempotency-Key` are "
        "`FINETOOTH_MAX_IDEMPOTENCY_RECORDS` or have `..._BYTES`",
    ),
    "idempotency_key_in_use": Meaning((409,), "a request with this `Idempotency-Key` is being handled just now"),
    "model_name_taken": Meaning((409,), "the workspace has a model of this name"),
    "upload_offset": Meaning((409,), "`Upload-Offset` is not where the upload ends; ask with HEAD where that is"),
    "upload_not_complete": Meaning((409,), "bytes of the upload are missing; send them with PATCH"),
    "upload_being_finished": Meaning((409,), "a dataset is being made of the upload just now"),
    "upload_quota": Meaning((409,), "the workspace has `FINETOOTH_MAX_WORKSPACE_UPLOADS` unfinished uploads"),
    "too_many_parts": Meaning((409,), "the upload has 10,000 parts; begin it anew, and send larger ones"),
    "tus_version": Meaning((412,), "`Tus-Resumable: 1.0.0` is missing"),
    "precondition_failed": Meaning((412,), "it has changed: `If-Match` does not hold its `ETag`"),
    "body_too_large": Meaning((413,), "the body is larger than this path accepts"),
    "upload_too_large": Meaning(
        (413,), "the upload has more than `FINETOOTH_MAX_UPLOAD_BYTES`, or than it was begun with"
    ),
    "decompression_limit": Meaning(
        (413,),
        "the file is too large when decompressed, grows too much or has too many empty parts, or its zstd window is "
        "above 128 MiB",
    ),
    "too_many_rows": Meaning((413,), "more samples than `FINETOOTH_MAX_DATASET_ROWS`"),
    "unsupported_media_type": Meaning((415,), "the body must be JSON, with its `Content-Type`"),
    "unsupported_content_encoding": Meaning(
        (415,), "the body may come as it is, as gzip or as zstd, and in no other encoding"
    ),
    "range_not_satisfiable": Meaning((416,), "`Range` begins behind the last byte"),
    "invalid_request": Meaning((422,), "values of the request are wrong; `errors` points to each"),
    "invalid_cursor": Meaning((422,), "`after` is not a cursor of this list, or of another sort"),
    "unstorable_value": Meaning((422,), "a value holds a NUL character or a number out of range"),
    "unknown_format": Meaning((422,), "`format` is `auto` or one of those that are listed"),
    "idempotency_key_reused": Meaning((422,), "the `Idempotency-Key` came with another request before"),
    "workspace_name_wrong": Meaning(
        (422,), "`name` is not the name of the workspace that the request would delete; nothing was deleted"
    ),
    "dataset_empty": Meaning((422,), "the file holds no record"),
    "dataset_invalid": Meaning((422,), "some records are not valid; `errors` names the first 100, and nothing is kept"),
    "parser_crashed": Meaning(
        (422,), "the library that reads the file's format crashed on it; a damaged file does that"
    ),
    "parser_memory_limit": Meaning((422,), "parsing needs more than `FINETOOTH_PARSER_MEMORY_BYTES`"),
    "parser_time_limit": Meaning((422,), "parsing takes more processor time than an upload of this size can need"),
    "model_invalid": Meaning(
        (422,), "a hub model needs `owner/name` and a commit; a bundled one must be this version's"
    ),
    "model_folder_invalid": Meaning(
        (422,),
        "the path is not a folder with a complete, unquantised Transformers model in safetensors that the API can read",
    ),
    "model_unsafe": Meaning(
        (422,), "the folder holds a pickle, which could run code, or an adapter, which would load another model"
    ),
    "gzip_corrupt": Meaning((422,), "the body is said to be gzip and is not, or is damaged"),
    "gzip_truncated": Meaning((422,), "the gzip data ends too early"),
    "zstd_corrupt": Meaning((422,), "the body is said to be zstd and is not, or is damaged"),
    "zstd_truncated": Meaning((422,), "the zstd data ends too early"),
    "json_invalid": Meaning((422,), "the JSON array itself is broken: cut, or not JSON from one record on"),
    "csv_invalid": Meaning((422,), "the file is not valid CSV from one row on: quotes, UTF-8, or a column named twice"),
    "parquet_invalid": Meaning(
        (422,), "the Parquet file is cut or damaged, or its footer declares what no honest file does"
    ),
    "parquet_type_unsupported": Meaning((422,), "a column of the Parquet file has a type that JSON cannot express"),
    "arrow_invalid": Meaning(
        (422,), "the Arrow file is cut or damaged, has no end mark, or its streams have different columns"
    ),
    "arrow_type_unsupported": Meaning((422,), "a column of the Arrow file has a type that JSON cannot express"),
    "line_too_long": Meaning((422,), "a line or record is longer than `FINETOOTH_MAX_LINE_BYTES`"),
    "format_not_recognised": Meaning(
        (422,),
        "the file is not JSONL, JSON, CSV, Parquet or Arrow, or its first record or header fits none of the formats",
    ),
    "dataset_too_small": Meaning((422,), "an audit needs at least 20 samples, 10 of them different"),
    "group_column_not_found": Meaning((422,), "the dataset has no such extra column"),
    "trusted_column_not_found": Meaning((422,), "the dataset has no such extra column"),
    "trusted_column_invalid": Meaning(
        (422,), "the column has values that say neither yes nor no, or none that says yes; no sample would be trusted"
    ),
    "dry_run_first": Meaning((422,), "a bulk needs the token of its dry run"),
    "bulk_too_large": Meaning(
        (422,), "the filter of a bulk keeps more than 50,000 samples, or too few among too many to find them"
    ),
    "internal_error": Meaning((500,), "a fault of the service; its log has more under the `request_id`"),
    "object_missing": Meaning(
        (500,), "a file of the resource is gone from the object store; the service's log names it"
    ),
    "object_store_unavailable": Meaning((503,), "the bucket that holds the objects does not answer; nothing was kept"),
    "database_busy": Meaning((503,), "try again after `Retry-After`"),
    "database_unavailable": Meaning((503,), "the database does not answer; nothing was changed"),
    "schema_outdated": Meaning((503,), "the database's schema is older than this version: run its migrations"),
    "version_outdated": Meaning((503,), "the database's schema is newer than this version runs on: start a newer one"),
    "too_many_uploads": Meaning((503,), "as many uploads run as the server takes; try again after `Retry-After`"),
    "upload_share_taken": Meaning(
        (503,), "half of the uploads that the server takes are this workspace's; try again after `Retry-After`"
    ),
    "too_many_waiting": Meaning(
        (503,), "`FINETOOTH_MAX_WAITING_REQUESTS` requests wait for news already; try again after `Retry-After`"
    ),
    "waiting_share_taken": Meaning(
        (503,), "half of the requests that may wait for news are this workspace's; try again after `Retry-After`"
    ),
    "storage_full": Meaning((507,), "the server's disk is full; nothing was kept"),
    "storage_quota": Meaning(
        (507,),
        "the workspace would store more than it may: `FINETOOTH_MAX_WORKSPACE_BYTES`, or a limit of its own; `detail` "
        "says of what it stores how much",
    ),
}
"""Every code of a problem, with its statuses and its meaning; docs/api.md lists them."""
