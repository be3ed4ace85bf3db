"""One audit from files to findings, over REST: what `finetooth audit` and `finetooth demo` share."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.cli.errors import FAILED, CommandError, as_sentences, refused
from service.cli.probes import OwnProbe, PackProbe, create_probe
from service.cli.progress import ProgressDisplay
from service.client import ApiError, Client, UnreachableError


@dataclass(frozen=True)
class Request:
    """The dataset, the probes, the model and the settings of one audit."""

    dataset: Path
    dataset_name: str
    probes: Sequence[OwnProbe | PackProbe]
    model: str
    """A registered name."""
    training: Mapping[str, Any]
    q: float
    seeds: int = 1
    group_column: str | None = None
    trusted_column: str | None = None
    text_columns: Mapping[str, str] = field(default_factory=dict)
    """For records in another format: `prompt_column`, `answer_column` and, if they have one, `system_column`."""
    priority: str = "normal"
    """low, normal or high, among the workspace's own waiting audits."""
    replaces: str | None = None
    """The id of the dataset of which this one is the next version."""


def run_audit(client: Client, request: Request, progress: ProgressDisplay) -> dict[str, Any]:
    """Upload the dataset, start the audit and wait until it has ended.

    KeyboardInterrupt, or anything else that ends the wait, cancels the audit first.

    Args:
        client: The service.
        request: What to audit.
        progress: Shows what is being done.

    Returns:
        The audit, which has succeeded.

    Raises:
        CommandError: The dataset cannot be read, the service refuses it or the audit, or the audit failed or was
            cancelled.
        ApiError: The service refuses while the audit is watched.
        UnreachableError: The service stopped answering.
    """
    try:
        dataset = client.upload_dataset(
            request.dataset,
            name=request.dataset_name,
            **request.text_columns,
            replaces=request.replaces,
            on_progress=progress.upload,
        )
    except ApiError as error:
        raise refused(error, str(request.dataset)) from None
    except OSError as error:
        raise CommandError(f"{request.dataset}: cannot read the dataset: {error.strerror}") from None
    probes: list[str] = []
    try:
        for probe in request.probes:
            probes.append(create_probe(client, probe))
        audit = client.create_audit(
            dataset["id"],
            probes,
            request.model,
            training=request.training,
            seeds=request.seeds,
            q=request.q,
            group_column=request.group_column,
            trusted_column=request.trusted_column,
            priority=request.priority,
        )
    except ApiError as error:
        _take_back(client, dataset["id"], probes)
        raise refused(error) from None
    audit = _wait(client, audit["id"], progress)
    if audit["status"] == "succeeded":
        return audit
    if audit["status"] == "cancelled":
        raise CommandError(f"audit {audit['id']} was cancelled; `finetooth retry {audit['id']}` continues it", FAILED)
    reason = audit["error"]
    said = as_sentences(reason["message"], reason["hint"])
    raise CommandError(f"audit {audit['id']} failed ({reason['code']}): {said}", FAILED)


def _take_back(client: Client, dataset_id: str, probe_ids: Sequence[str]) -> None:
    """Delete what was created for an audit that the service refuses: left there, it would fill the lists."""
    with suppress(ApiError, UnreachableError):
        for probe_id in probe_ids:
            client.delete_probe(probe_id)
        client.delete_dataset(dataset_id)


def _wait(client: Client, audit_id: str, progress: ProgressDisplay) -> dict[str, Any]:
    try:
        return client.wait(audit_id, on_progress=progress.audit)
    except (ApiError, UnreachableError):
        raise
    except BaseException:
        progress.report("Cancelling the audit")
        with suppress(ApiError, UnreachableError):
            client.cancel(audit_id)
        raise
