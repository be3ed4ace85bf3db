"""The step `combine`: the recordings of all seeds become scores, traces, baselines and the summary."""

from pathlib import Path

from service.contract.protocol import NoticeEvent, Stage
from service.contract.spec import StepSpec
from worker.child.events import Reporter
from worker.results.baselines import baselines_of
from worker.results.files import read_inputs, write_summary, write_tables
from worker.results.scoring import Question, score
from worker.results.summary import summarise
from worker.results.views import over_seeds, with_views
from worker.text.duplicate_clusters import sample_clusters, sample_texts

PARTS = 5
"""How many parts of the scoring are reported as progress."""

UNIT = "parts of the work"
"""What users read behind the number of parts."""


def combine(folder: Path, spec: StepSpec, reporter: Reporter) -> None:
    """Load the recordings and the rows, score the samples, summarise the scores, and write the six files.

    Args:
        folder: Holds the recordings and the rows; the files are left in it.
        spec: What the audit asks.
        reporter: Is told how far the step is, and of the summary's warnings.

    Raises:
        OSError, KeyError, ValueError: A file cannot be read or written, or no null distribution can be fitted.
    """
    inputs = read_inputs(folder, spec)
    recordings, messages = inputs.recordings, inputs.messages
    reporter.stage(Stage.SCORING, PARTS, UNIT)
    question = Question(len(messages), spec.q, sample_texts(messages), sample_clusters(messages), inputs.trusted)
    reporter.progress(1, PARTS, UNIT)

    viewed, by_seed = with_views(recordings, question.text, question.cluster)
    views = over_seeds(by_seed)
    scores = score(viewed, question)
    reporter.progress(2, PARTS, UNIT)
    baselines = baselines_of(recordings, messages, [item.unwanted for probe in spec.probes for item in probe.items])
    reporter.progress(3, PARTS, UNIT)

    summary = summarise(spec, viewed, [own.weights for own in views], question, scores, baselines, inputs.groups)
    for caution in summary.warnings:
        reporter.event(NoticeEvent(level="warning", code=caution.code, message=caution.message))
    reporter.progress(4, PARTS, UNIT)

    write_tables(folder, inputs, scores, views, baselines, question, spec)
    reporter.progress(PARTS, PARTS, UNIT)
    reporter.close()
    seconds = {**summary.seconds, **{name: summary.seconds.get(name, 0) + s for name, s in reporter.seconds.items()}}
    write_summary(folder, summary.model_copy(update={"seconds": seconds}))
