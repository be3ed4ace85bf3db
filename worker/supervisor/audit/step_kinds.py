"""The two kinds of step: what each puts into its folder, and what becomes of a child that has finished."""

from abc import ABC, abstractmethod
from typing import ClassVar

from sqlalchemy.orm import Session

from service.contract.protocol import ProgressEvent, Stage
from service.lifecycle import audits
from service.store.tables import Audit
from worker.supervisor.audit.event_recorder import EventRecorder
from worker.supervisor.audit.result_loader import load_results, score_count
from worker.supervisor.audit.step_folder import StepFolder
from worker.supervisor.context import AttemptContext


class StepKind(ABC):
    """What the steps of one kind do differently from those of the other."""

    trains: ClassVar[bool]
    """Whether such a step trains, which is what the ETA counts."""
    outcome: ClassVar[str | None]
    """How the attempt has ended once such a step was accepted; None if another step follows."""

    @abstractmethod
    def stage(self, folder: StepFolder) -> None:
        """Fill the folder. Raises as StepFolder.stage_inputs does."""

    @abstractmethod
    def accept(self, folder: StepFolder, context: AttemptContext, recorder: EventRecorder) -> bool:
        """Check and store what a finished child has left, and mark the step as succeeded.

        Args:
            folder: The folder of the child.
            context: What the attempt works with.
            recorder: Shows how far this has come.

        Returns:
            False if the job was cancelled or fenced meanwhile; then nothing is kept.

        Raises:
            OutputError: The files are not what the contract promises.
            LeaseLostError: The job is no longer this worker's.
        """


class TrainSeed(StepKind):
    """Trains with one seed, and leaves a recording for the combining step."""

    trains = True
    outcome = None

    def stage(self, folder: StepFolder) -> None:
        """Stage the checkpoints of an earlier attempt too."""
        folder.stage_inputs()
        folder.stage_checkpoints()

    def accept(self, folder: StepFolder, context: AttemptContext, recorder: EventRecorder) -> bool:
        """Store the recording, so that no later attempt has to run the step again, and delete its checkpoints.

        Args:
            folder: The folder of the child.
            context: What the attempt works with.
            recorder: Shows how far this has come.
        """
        folder.check_recording()

        def finish(session: Session) -> bool:
            return audits.finish_step(session, context.claim, folder.step_key, True, size=folder.output_bytes())

        stored = folder.store_outputs(lambda: context.run_with_retry(finish))
        if stored:
            folder.delete_checkpoints()
        return stored


class Combine(StepKind):
    """Combines the recordings of all seeds into the result of the audit."""

    trains = False
    outcome = "published"

    def stage(self, folder: StepFolder) -> None:
        """Stage the inputs alone: the step is too short for checkpoints."""
        folder.stage_inputs()

    def accept(self, folder: StepFolder, context: AttemptContext, recorder: EventRecorder) -> bool:
        """Store the results, load them into the database and publish them, in one transaction.

        Args:
            folder: The folder of the child.
            context: What the attempt works with.
            recorder: Shows how far this has come.
        """
        claim, inputs = context.claim, folder.inputs
        probes = len(inputs.spec.probes)
        summary = folder.read_summary()
        scores = score_count(inputs.rows, probes)

        def show(done: int) -> None:
            recorder.show(ProgressEvent(stage=Stage.PUBLISHING, done=done, total=scores, unit="scores"))

        def publish(session: Session) -> bool:
            if session.get_one(Audit, claim.subject_id).published_attempt == claim.attempt:
                return True  # An earlier try was committed, and the connection broke before we heard of it.
            with context.objects.open(inputs.dataset) as dataset:
                load_results(
                    session,
                    claim,
                    folder.path,
                    dataset=dataset,
                    rows=inputs.rows,
                    probes=probes,
                    findings_top=context.settings.findings_top,
                    on_progress=show,
                )
            size = folder.output_bytes()
            finished = audits.finish_step(session, claim, folder.step_key, True, size=size)
            if finished and audits.publish(session, claim, summary):
                return True
            session.rollback()  # of the scores too
            return False

        show(0)
        return folder.store_outputs(lambda: context.run_with_retry(publish))
