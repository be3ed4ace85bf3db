"""Plans which steps an attempt has to run: the audit's steps in their order, without those whose output is stored."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.contract.notices import REPEATED
from service.contract.protocol import RECORDING_FILE, ROWS_FILE
from service.contract.spec import COMBINE, ModelSource, ModelSpec, StepSpec, TrainingConfig
from service.contract.spec import Probe as ContractProbe
from service.contract.stored_models import StoredModel
from service.store.objects import audit_key, dataset_key
from service.store.tables import Audit, AuditProbe, AuditStep, Dataset, Model, Probe
from worker.supervisor.audit.step_folder import StepInputs, StoredInput, spec_sha256
from worker.supervisor.audit.step_kinds import Combine, StepKind, TrainSeed
from worker.supervisor.context import AttemptContext


@dataclass(frozen=True)
class PlannedStep:
    """One step that an attempt has to run."""

    kind: StepKind
    inputs: StepInputs


def plan_steps(session: Session, context: AttemptContext) -> list[PlannedStep]:
    """Return the steps that this attempt has to run, in their order.

    A training step is left out if it has succeeded with the same specification, in whatever attempt, and its recording
    is still stored.

    Args:
        session: An open transaction.
        context: What the attempt works with.
    """
    claim = context.claim
    audit = session.get_one(Audit, claim.subject_id)
    dataset = session.get_one(Dataset, audit.dataset_id)
    rows = dataset_key(claim.workspace_id, dataset.id, ROWS_FILE)
    first = _common_spec(session, context, audit, dataset)
    steps = session.scalars(select(AuditStep).where(AuditStep.audit_id == audit.id).order_by(AuditStep.step_no)).all()
    recordings: dict[int, str] = {}
    plan = []
    for step in steps:
        combines = step.step_key == COMBINE
        seed = first.training.seed if combines else first.seeds[step.step_no - 1]
        training = first.training.model_copy(update={"seed": seed})
        spec = first.model_copy(update={"step_key": step.step_key, "training": training})
        if combines:
            plan.append(PlannedStep(Combine(), StepInputs(spec, rows, dataset.rows, recordings)))
            continue

        def recording(attempt: int, step_key: str = step.step_key) -> str:
            return audit_key(claim.workspace_id, audit.id, attempt, step_key, RECORDING_FILE)

        if step.state == "succeeded" and step.attempt is not None and step.spec_sha256 == spec_sha256(spec):
            recordings[seed] = recording(step.attempt)
            if context.objects.exists(recordings[seed]):
                continue
        recordings[seed] = recording(claim.attempt)
        inputs = StepInputs(spec, rows, dataset.rows, recordings={}, model=_stored_model(session, audit))
        plan.append(PlannedStep(TrainSeed(), inputs))
    return plan


def _stored_model(session: Session, audit: Audit) -> StoredInput | None:
    """Return the files of the audit's model, if they lie in the object store."""
    model = session.get_one(Model, audit.model_id)
    return None if model.stored is None else StoredInput(model.id, StoredModel.model_validate(model.stored))


def _common_spec(session: Session, context: AttemptContext, audit: Audit, dataset: Dataset) -> StepSpec:
    """Return what all steps of the audit have in common, as the combining step with the first seed."""
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
        attempt=context.claim.attempt,
        step_key=COMBINE,
        model=ModelSpec(
            source=model.source if model.stored is None else ModelSource.STORED,
            location=model.location,
            revision=model.revision,
        ),
        training=training,
        seeds=tuple(range(training.seed, training.seed + audit.seeds)),
        probes=tuple(ContractProbe(name=probe.name, items=probe.items) for probe in probes),
        q=audit.q,
        group_column=audit.group_column,
        trusted_column=audit.trusted_column,
        noticed={n["kind"]: n["rows"] for n in dataset.notices or () if n["kind"] in REPEATED},
        checkpoint_seconds=context.settings.checkpoint_seconds,
    )
