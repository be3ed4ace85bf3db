"""What speaks against an audit before it is started: too little data, a training that tells little, a weak probe."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.audits.schemas import AuditCreate
from service.contract.results import Caution
from service.contract.spec import WARN_DATASET_ROWS, ProbeItem
from service.principal import Principal
from service.probes.weaknesses import quoting, weaknesses
from service.scoping import owned
from service.store.objects import ObjectMissingError, ObjectStoreUnavailableError
from service.store.stored_rows import StoredRows
from service.store.tables import Dataset, Probe

SAMPLES_READ = 1_000
"""How many samples, from the first on, are read to see whether a probe quotes the data."""


def audit_cautions(dataset: Dataset, body: AuditCreate, *, longest: int | None, mean: int | None) -> list[Caution]:
    """Find what speaks against the data and the training.

    Args:
        dataset: What is audited.
        body: The request.
        longest: Tokens of the longest sample before truncation; None: not known.
        mean: Likewise of a sample on average.
    """
    training = body.training
    found = []

    def warn(code: str, message: str) -> None:
        found.append(Caution(code=code, message=message))

    if dataset.rows < WARN_DATASET_ROWS:
        warn(
            "few_rows",
            f"{dataset.rows} samples: below {WARN_DATASET_ROWS} the null is fitted on few, and less is found.",
        )
    if training.epochs * body.seeds == 1:
        warn("seen_once", "Every sample is seen once: effects have no interval. Use two epochs, or two seeds.")
    if longest is not None and mean is not None and longest > training.max_length:
        often = "many samples lose" if mean > training.max_length / 2 else "the longest samples may lose"
        warn(
            "truncation_likely",
            f"With max_length {training.max_length}, {often} their end: the mean is about {mean} tokens.",
        )
    duplicates = dataset.statistics.get("exact_duplicates", 0)
    if duplicates > dataset.rows / 10:
        warn(
            "many_duplicates", f"{duplicates} of {dataset.rows} samples repeat an earlier one; they are tested as one."
        )
    return found


def probe_cautions(session: Session, principal: Principal, body: AuditCreate, rows: StoredRows) -> list[Caution]:
    """Find what makes the request's probes weak; with several of them each caution says which one it is of.

    Args:
        session: An open transaction.
        principal: Who is asking.
        body: The request, which has been checked.
        rows: Where the dataset's first samples are read.
    """
    query = select(Probe.id, Probe.name, Probe.items).where(owned(Probe, principal), Probe.id.in_(body.probe_ids))
    probes = {identity: (name, items) for identity, name, items in session.execute(query)}
    answers = first_answers(rows, principal.workspace_id, body.dataset_id)
    found = []
    for identity in body.probe_ids:
        name, stored = probes[identity]
        items = [ProbeItem.model_validate(item) for item in stored]
        of_this = weaknesses(items)
        if (quotes := quoting(items, answers)) is not None:
            of_this.append(quotes)
        which = f"{name}: " if len(probes) > 1 else ""
        found += [Caution(code=caution.code, message=f"{which}{caution.message}") for caution in of_this]
    return found


def first_answers(rows: StoredRows, workspace_id: str, dataset_id: str) -> list[str]:
    """Read what the assistant says in the first samples of a dataset.

    Args:
        rows: Where they are read.
        workspace_id: Whose dataset it is.
        dataset_id: Which dataset.

    Returns:
        Nothing where the object store does not give them: the audit itself will say so.
    """
    try:
        samples = rows.page(workspace_id, dataset_id, None, SAMPLES_READ)
    except (ObjectMissingError, ObjectStoreUnavailableError):
        return []
    return [turn["content"] for sample in samples for turn in sample["messages"] if turn["role"] == "assistant"]
