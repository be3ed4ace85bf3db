"""A run that is interrupted and gone on with is, bit for bit, the run that was left alone."""

import random
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.contract.protocol import CheckpointEvent, MetricEvent, NoticeEvent
from service.contract.spec import ModelSpec, TrainingConfig
from worker.influence.capture import layer_stacks
from worker.influence.capture.per_sample_gradients import lora_layers
from worker.influence.capture.recorder import Recorder
from worker.influence.directions import ProbeShape, plan
from worker.training.checkpointing.format import read_checkpoint
from worker.training.checkpointing.manager import Checkpoints
from worker.training.errors import StoppedError
from worker.training.loop import train
from worker.training.lora import with_lora
from worker.training.measurement import EncodedProbe
from worker.training.models import load_model
from worker.training.tokenization import IGNORED, TokenizedSample

CPU = torch.device("cpu")
IDENTITY = {"spec": "a"}
CONFIG = TrainingConfig(
    learning_rate=3e-2, lora_dropout=0.2, epochs=2, batch_size=3, micro_batch_size=2, dtype="float32"
)
STEPS = 26
EPOCH = 13
WARM_UP = 4
REFRESHED = [14, 19, 23]
"""Steps, from 0, before which the probes are measured again; first before step WARM_UP."""


def made_samples() -> list[TokenizedSample]:
    generator = torch.Generator().manual_seed(11)
    lengths = [6 + number % 11 for number in range(37)]
    ids = [torch.randint(3, 250, (length,), generator=generator).tolist() for length in lengths]
    return [TokenizedSample(tuple(own), tuple([IGNORED] * 2 + own[2:])) for own in ids]


SAMPLES = made_samples()
PROBES = [EncodedProbe(SAMPLES[:9], SAMPLES[3:12]), EncodedProbe(SAMPLES[20:24])]
SHAPES = [ProbeShape(np.arange(9) % 3, has_reference=True), ProbeShape(np.zeros(4, dtype=np.int64), False)]


class KilledError(Exception):
    """Stands for a kill: the process is gone in the middle of something."""


@dataclass
class Process:
    """One process's part in a run: it loads the model anew and, with a folder, goes on from what is there."""

    spec: ModelSpec
    folder: Path | None = None
    config: TrainingConfig = CONFIG
    stop_after: int | None = None
    """It is asked to stop for later once so many boundaries have gone by."""
    die_in_forward: int | None = None
    """The training pass, counted from 0 in this process, in whose forward it is killed."""
    identity: dict[str, str] = field(default_factory=lambda: dict(IDENTITY))
    told: list[Any] = field(default_factory=list)
    metrics: list[MetricEvent] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """All that a run leaves, by name."""
        random.seed(5)
        np.random.seed(5)
        base, _ = load_model(self.spec, self.config, CPU, cache=Path())
        model = with_lora(base, self.config)
        recorder = Recorder(lora_layers(model), plan(SHAPES, seed=0))
        passes = count()

        def before(module: Any, args: Any, kwargs: Any) -> None:
            # Draws that training itself does not make: their states have to come back too.
            random.random()
            np.random.rand()
            if module.training and next(passes) == self.die_in_forward:
                raise KilledError

        model.register_forward_pre_hook(before, with_kwargs=True)
        outcome = train(
            model, SAMPLES, self.config, pad=0, probes=PROBES, recorder=recorder,
            on_step=lambda metric, total: self.took(metric), checkpoints=self.checkpoints(),
        )  # fmt: skip
        observations, steps = recorder.result()
        product, norm = recorder.products()
        found = outcome.by_products
        return {
            **{name: p.detach().numpy() for name, p in model.named_parameters() if p.requires_grad},
            **{f"observations.{name}": value for name, value in vars(observations).items()},
            **{f"steps.{name}": value for name, value in vars(steps).items()},
            **{f"items.{n}.{m}": own for n, ours in enumerate(recorder.item_alignment) for m, own in enumerate(ours)},
            "product": product,
            "norm": norm,
            "loss": found.loss.whole().numpy(),
            "similarity": found.similarity.whole().numpy(),
            "inner": found.inner.whole().numpy(),
            "turns": found.turns.whole().numpy(),
            **{f"inner.{n}.{m}": own.numpy() for n, ours in enumerate(found.inner_items) for m, own in enumerate(ours)},
            "measured_at": np.array(found.measured_at),
            "probe_loss": np.stack(found.probe_loss),
            "run": np.array([outcome.steps, outcome.tokens, outcome.measurements]),
            "losses": np.array(outcome.losses),
            "torch": torch.random.get_rng_state().numpy(),
            "python": np.array(random.getstate()[1]),
            "numpy": np.random.get_state(legacy=False)["state"]["key"],  # type: ignore[call-overload]
        }

    def took(self, metric: MetricEvent) -> None:
        self.metrics.append(metric)
        self.metric(metric.step)

    def metric(self, step: int) -> None:
        """What happens to it after a step, before the checkpoint."""

    def checkpoints(self) -> Checkpoints | None:
        if self.folder is None:
            return None
        boundaries = count(1)
        return Checkpoints(
            self.folder, self.identity, every_seconds=0, tell=self.told.append,
            stop_asked=lambda: next(boundaries) == self.stop_after,
        )  # fmt: skip

    def codes(self) -> list[str]:
        return [event.code for event in self.told if isinstance(event, NoticeEvent)]


def assert_same(run: dict[str, Any], other: dict[str, Any]) -> None:
    assert run.keys() == other.keys()
    for name, value in run.items():
        assert value.dtype == other[name].dtype, name
        assert value.tobytes() == other[name].tobytes(), name


@pytest.fixture(scope="module")
def undisturbed(tiny_spec: ModelSpec) -> dict[str, Any]:
    return Process(tiny_spec).run()


def test_the_cases_below_are_what_they_say(undisturbed: dict[str, Any]) -> None:
    assert undisturbed["run"].tolist()[0] == STEPS == 2 * EPOCH
    assert undisturbed["measured_at"].tolist() == [0, WARM_UP, *REFRESHED, STEPS]
    assert (np.flatnonzero(np.diff(undisturbed["steps.block"])) + 1).tolist() == REFRESHED
    signals = np.isfinite(undisturbed["observations.alignment"][:, 0])
    assert undisturbed["observations.step"][signals].min() == WARM_UP


@pytest.mark.parametrize(
    "stop_after",
    [
        pytest.param(1, id="in the warm-up"),
        pytest.param(WARM_UP, id="before the first measurement"),
        pytest.param(REFRESHED[0], id="just before a refresh"),
        pytest.param(REFRESHED[0] + 1, id="just after a refresh"),
        pytest.param(EPOCH, id="between epochs"),
        pytest.param(REFRESHED[1] - 2, id="in mid-epoch"),
        pytest.param(STEPS - 1, id="before the last step"),
        pytest.param(STEPS, id="after the last step"),
    ],
)
def test_stopped_for_later(tiny_spec: ModelSpec, undisturbed: dict[str, Any], tmp_path: Path, stop_after: int) -> None:
    first = Process(tiny_spec, tmp_path, stop_after=stop_after)
    with pytest.raises(StoppedError) as stopped:
        first.run()
    assert stopped.value.saved
    assert len(first.metrics) == stop_after
    second = Process(tiny_spec, tmp_path)
    assert_same(second.run(), undisturbed)
    assert second.codes() == ["resumed"]
    assert [metric.step for metric in second.metrics] == list(range(stop_after + 1, STEPS + 1))


def test_stopped_for_later_where_layers_are_contracted_side_by_side(
    tiny_spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, with directions in bfloat16."""
    monkeypatch.setattr(layer_stacks, "STACKED", {"cpu": 3})
    monkeypatch.setattr(layer_stacks, "KEPT", {"cpu": torch.bfloat16})
    whole = Process(tiny_spec).run()
    with pytest.raises(StoppedError):
        Process(tiny_spec, tmp_path, stop_after=REFRESHED[0] + 1).run()
    assert_same(Process(tiny_spec, tmp_path).run(), whole)


def test_with_checkpoints_and_left_alone(tiny_spec: ModelSpec, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    process = Process(tiny_spec, tmp_path)
    assert_same(process.run(), undisturbed)
    assert process.told == [CheckpointEvent(name=f"{step:09d}") for step in range(1, STEPS + 1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{STEPS - 1:09d}", f"{STEPS:09d}"]


def test_interrupted_again_and_again(tiny_spec: ModelSpec, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """Killed between micro-batches of a step, once between measuring the probes and the step that follows."""
    for passes in (2 * REFRESHED[0], 5, 4, 3):  # two passes a step
        with pytest.raises(KilledError):
            Process(tiny_spec, tmp_path, die_in_forward=passes).run()
    last = Process(tiny_spec, tmp_path)
    assert_same(last.run(), undisturbed)
    assert last.codes() == ["resumed"]


def test_stopped_while_rows_of_the_warm_up_are_scored_at_the_end(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"epochs": 1})  # what the warm-up drew is drawn no more
    whole = Process(tiny_spec, config=config).run()
    steps = whole["run"][0]
    assert len(whole["steps.learning_rate"]) > steps + 1
    with pytest.raises(StoppedError):
        Process(tiny_spec, tmp_path, config, stop_after=steps + 1).run()
    assert_same(Process(tiny_spec, tmp_path, config).run(), whole)


@pytest.fixture
def left(tiny_spec: ModelSpec, tmp_path: Path) -> Path:
    """Checkpoints after steps 7 and 8."""
    with pytest.raises(StoppedError):
        Process(tiny_spec, tmp_path, stop_after=8).run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000007", "000000008"]
    return tmp_path


def truncate(checkpoint: Path) -> None:
    file = checkpoint / "measurement.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(checkpoint: Path) -> None:
    file = checkpoint / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def lose_a_file(checkpoint: Path) -> None:
    (checkpoint / "state.json").unlink()


def lose_the_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()


def garble_the_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").write_text("[]")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lose_a_file, lose_the_manifest, garble_the_manifest])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tiny_spec: ModelSpec, undisturbed: dict[str, Any], left: Path, damage: Callable[[Path], None]
) -> None:
    damage(left / "000000008")
    process = Process(tiny_spec, left)
    assert_same(process.run(), undisturbed)
    assert process.codes() == ["checkpoint_damaged", "resumed"]
    assert process.metrics[0].step == 8


def test_without_a_whole_checkpoint_the_run_starts_anew(
    tiny_spec: ModelSpec, undisturbed: dict[str, Any], left: Path
) -> None:
    for checkpoint in left.iterdir():
        truncate(checkpoint)
    process = Process(tiny_spec, left)
    assert_same(process.run(), undisturbed)
    assert process.codes() == ["checkpoint_damaged", "checkpoint_damaged", "started_anew"]
    assert process.metrics[0].step == 1


@contextmanager
def no_room() -> Iterator[None]:
    """The system refuses to write files of more than 100 bytes, as it does on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_the_representations_stay_in_their_file_and_all_else_is_copied(left: Path) -> None:
    newest = max(path for path in left.iterdir() if path.is_dir())
    state = read_checkpoint(newest, IDENTITY)
    mapped = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith("/measurement.safetensors"):
            start, _, end = line.split()[0].partition("-")
            mapped.append(range(int(start, 16), int(end, 16)))
    found = state["measurement"]["by_products"]
    assert any(found["inner"].data_ptr() in part for part in mapped)
    assert not any(found["loss"].data_ptr() in part for part in mapped)


def test_where_none_can_be_written_the_run_goes_on(
    tiny_spec: ModelSpec, undisturbed: dict[str, Any], left: Path
) -> None:
    """There is no room from step 12 to 14: nothing half is left, and what was there stays."""
    seen = []
    with ExitStack() as room:

        class Fills(Process):
            def metric(self, step: int) -> None:
                if step == 12:
                    room.enter_context(no_room())
                if step == 15:
                    seen.extend(sorted(path.name for path in left.iterdir()))
                    room.close()

        process = Fills(tiny_spec, left)
        assert_same(process.run(), undisturbed)
    assert seen == ["000000010", "000000011"]
    assert process.codes() == ["resumed", "checkpoint_not_written"]
    assert [event.name for event in process.told if isinstance(event, CheckpointEvent)] == [
        f"{step:09d}" for step in range(9, STEPS + 1) if step not in (12, 13, 14)
    ]


def test_asked_to_stop_where_none_can_be_written_it_says_so(tiny_spec: ModelSpec, left: Path) -> None:
    with ExitStack() as room:

        class Fills(Process):
            def metric(self, step: int) -> None:
                room.enter_context(no_room())

        process = Fills(tiny_spec, left, stop_after=1)
        with pytest.raises(StoppedError) as stopped:
            process.run()
    assert process.codes() == ["resumed", "checkpoint_not_written"]
    assert not stopped.value.saved
    assert sorted(path.name for path in left.iterdir()) == ["000000007", "000000008"]


def test_one_of_another_run_is_refused(tiny_spec: ModelSpec, undisturbed: dict[str, Any], left: Path) -> None:
    process = Process(tiny_spec, left, identity={"spec": "b"})
    assert_same(process.run(), undisturbed)
    assert process.codes() == ["checkpoint_foreign", "checkpoint_foreign", "started_anew"]
    assert "it differs in spec" in process.told[0].message


def test_one_of_another_format_is_refused(tiny_spec: ModelSpec, left: Path) -> None:
    for checkpoint in left.iterdir():
        manifest = checkpoint / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 0'))
    process = Process(tiny_spec, left, stop_after=1)
    with pytest.raises(StoppedError):
        process.run()
    assert process.codes() == ["checkpoint_foreign", "checkpoint_foreign", "started_anew"]
    assert "it differs in format" in process.told[0].message


def test_what_was_half_written_is_not_seen_and_goes(tiny_spec: ModelSpec, left: Path) -> None:
    shutil.copytree(left / "000000008", left / ".partial-000000009")
    process = Process(tiny_spec, left, stop_after=1)
    with pytest.raises(StoppedError):
        process.run()
    assert process.metrics[0].step == 9
    assert not list(left.glob(".partial-*"))
