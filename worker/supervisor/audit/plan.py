"""Which child runs an attempt has to make: the audit's steps in their order, without those whose output is there."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.contract.protocol import RECORDING_FILE, ROWS_FILE
from service.contract.spec import COMBINE, ModelSpec, StepSpec, TrainingConfig
from service.contract.spec import Probe as ContractProbe
from service.lifecycle.jobs import Claim
from service.store.objects import ObjectStore, audit_key, dataset_key
from service.store.tables import Audit, AuditProbe, AuditStep, Dataset, Model, Probe
from worker.supervisor.audit.step_folder import spec_sha256


@dataclass(frozen=True)
class PlannedStep:
    """One step to run."""

    spec: StepSpec
    dataset: str
    """Key of the stored rows.parquet."""
    rows: int
    recordings: Mapping[int, str]
    """What the step needs of other steps: the key of each seed's stored recording."""


def plan_steps(session: Session, objects: ObjectStore, claim: Claim) -> list[PlannedStep]:
    """The steps that this attempt has to run.

    A training step is left out where it has succeeded with the same specification, in whatever attempt, and its
    recording is still stored.
    """
    audit = session.get_one(Audit, claim.subject_id)
    dataset = session.get_one(Dataset, audit.dataset_id)
    rows = dataset_key(claim.workspace_id, dataset.id, ROWS_FILE)
    first = _spec(session, claim, audit)
    steps = session.scalars(select(AuditStep).where(AuditStep.audit_id == audit.id).order_by(AuditStep.step_no)).all()
    recordings: dict[int, str] = {}
    plan = []
    for step in steps:
        combines = step.step_key == COMBINE
        seed = first.training.seed if combines else first.seeds[step.step_no - 1]
        training = first.training.model_copy(update={"seed": seed})
        spec = first.model_copy(update={"step_key": step.step_key, "training": training})
        if combines:
            plan.append(PlannedStep(spec=spec, dataset=rows, rows=dataset.rows, recordings=recordings))
            continue

        def recording(attempt: int, step_key: str = step.step_key) -> str:
            return audit_key(claim.workspace_id, audit.id, attempt, step_key, RECORDING_FILE)

        if step.state == "succeeded" and step.attempt is not None and step.spec_sha256 == spec_sha256(spec):
            recordings[seed] = recording(step.attempt)
            if objects.exists(recordings[seed]):
                continue
        recordings[seed] = recording(claim.attempt)
        plan.append(PlannedStep(spec=spec, dataset=rows, rows=dataset.rows, recordings={}))
    return plan


def _spec(session: Session, claim: Claim, audit: Audit) -> StepSpec:
    """What all steps of the audit have in common; the step is the last one, the seed the first."""
    model = session.get_one(Model, audit.model_id)
    probes = session.scalars(
        select(Probe)
        .join(AuditProbe, AuditProbe.probe_id == Probe.id)
        .where(AuditProbe.audit_id == audit.id)
        .order_by(AuditProbe.probe_no)
    )
    training = TrainingConfig.model_validate(audit.training)
    return StepSpec(
        audit_id=audit.id,
        attempt=claim.attempt,
        step_key=COMBINE,
        model=ModelSpec(source=model.source, location=model.location, revision=model.revision),
        training=training,
        seeds=tuple(range(training.seed, training.seed + audit.seeds)),
        probes=tuple(ContractProbe(name=probe.name, items=probe.items) for probe in probes),
        q=audit.q,
        group_column=audit.group_column,
        trusted_column=audit.trusted_column,
    )
