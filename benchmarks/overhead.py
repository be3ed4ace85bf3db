"""What measuring costs beside plain LoRA training: time and peak memory, as ratios.

    python -m benchmarks.overhead SET_FOLDER [--samples 1000] [--steps 60] [--probes 1 8] [--out FOLDER]
    python -m benchmarks.overhead SET_FOLDER --shape llama-3.1-8b   # on a GPU: random weights of the true shape
    ... --fill --max-length 2048 --micro-batch-size 1               # every sample that long, one at a time

Time: the plain and the instrumented run of the same model, data and seed take turns step by step in one process, so
that whatever else the machine does falls on both alike. On a CPU it is processor time (OMP_NUM_THREADS=1 keeps waiting
threads out of it), on a GPU the wall clock's. Of --steps steps, without the warm-up, which records nothing, it gives
what the hooks cost (steps without a measurement) and what one measurement costs in plain steps; the ratio of a whole
run over --samples follows from those and from the most measurements that its schedule allows. Intervals are of a
bootstrap over steps. Memory: each run alone, on a CPU in a process of its own; on a GPU without the model's creation.
"""

import argparse
import contextlib
import gc
import json
import multiprocessing
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks.detection import DEMO_MODEL, read_probe, read_rows
from service.contract.protocol import MetricEvent
from service.contract.spec import Probe, TrainingConfig
from service.settings import get_settings
from worker.child.train import directions_of, encoded_probe
from worker.influence.capture.per_sample_gradients import lora_layers
from worker.influence.capture.recorder import Recorder
from worker.training.bundled import bundled_model
from worker.training.loop import steps_of, train
from worker.training.lora import with_lora
from worker.training.models import load_model
from worker.training.refresh_schedule import RefreshSchedule, warm_up_of
from worker.training.tokenization import TokenizedSample, encode

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LLAMA_8B = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
}


FORWARD_ALONE = 2 / 3
"""The probes' losses before the first step and after the last, in measurements: a forward pass is a third of one."""


class Enough(Exception):  # noqa: N818  # no error
    """As many steps as were asked for have been timed."""


class Baton:
    """Lets runs take turns and notes the seconds of each one's steps, by the clock given."""

    def __init__(self, names: list[str], turns: int, clock: Callable[[], float], *, turn: int = 1) -> None:
        """Begin with the first of the runs.

        Args:
            names: Of the runs.
            turns: That each run takes.
            clock: Gives seconds.
            turn: Steps of a turn.
        """
        self.seconds: dict[str, list[float]] = {name: [] for name in names}
        """Of a step, the mean of each turn."""
        self.measured: dict[str, list[bool]] = {name: [] for name in names}
        """Whether a step of the turn began with a measurement of the probes."""
        # There and back, so that each run follows itself as often as the other: what a step leaves in the caches
        # falls on both.
        self._order, self._turns, self._clock = [*names, *reversed(names)], turns, clock
        self._length, self._turn = turn, 0
        self._given_up = False
        self._changed = threading.Condition()
        self._started = 0.0

    def wait(self, name: str) -> None:
        """Blocks until it is the run's turn. Raises Enough where the other has failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._given_up or self._order[self._turn] == name)
        if self._given_up:
            raise Enough
        self._started = self._clock()

    def give_up(self) -> None:
        """A run has failed: none is to wait for it."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()

    def play(self, run: Callable[[str, Callable[[MetricEvent, int], None]], None]) -> None:
        """Let all runs take their turns, each in a thread of its own.

        Args:
            run: Called with a run's name and its on_step.

        Raises:
            BaseException: What the first run that failed has raised.
        """
        failures: list[BaseException] = []

        def go(name: str) -> None:
            try:
                self.wait(name)
                run(name, self.passes(name))
            except BaseException as error:
                failures.append(error)
                self.give_up()

        threads = [threading.Thread(target=go, args=(name,), daemon=True) for name in self.seconds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def passes(self, name: str) -> Callable[[MetricEvent, int], None]:
        """The run's on_step: notes each turn and hands over."""
        measured: list[bool] = []

        def on_step(metric: MetricEvent, _total: int) -> None:
            measured.append(metric.probe_loss is not None)
            if len(measured) < self._length:
                return
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds[name].append((self._clock() - self._started) / self._length)
            self.measured[name].append(any(measured))
            measured.clear()
            done = len(self.seconds[name]) >= self._turns
            with self._changed:
                self._turn = (self._turn + 1) % len(self._order)
                self._changed.notify_all()
            if done:
                raise Enough
            self.wait(name)

        return on_step


class Setting:
    """One model, one dataset, one probe, as the command line asks for them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.large = options.shape == "llama-3.1-8b"
        self.config = TrainingConfig(
            epochs=2,
            max_length=options.max_length,
            micro_batch_size=options.micro_batch_size,
            learning_rate=2e-4 if self.large else None,
            lora_r=16 if self.large else 8,
            target_modules=ALL_LINEAR if self.large else ("q_proj", "v_proj"),
        )
        self.cache = Path(get_settings().cache_dir) / "models"

    def tokenizer(self) -> Any:
        """The demo model's, whatever the shape."""
        return AutoTokenizer.from_pretrained(bundled_model(DEMO_MODEL, self.cache))

    def model(self) -> Any:
        """A fresh model with LoRA on the device."""
        if not self.large:
            base, _ = load_model(DEMO_MODEL, self.config, self.device, cache=self.cache)
            return with_lora(base, self.config).to(self.device)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device(self.device):
                base = LlamaForCausalLM(LlamaConfig(**LLAMA_8B))
        finally:
            torch.set_default_dtype(before)
        return with_lora(base, self.config).to(self.device)

    def samples(self, tokenizer: Any) -> list[TokenizedSample]:
        """The set's rows, again from the first until there are enough."""
        rows = read_rows(self.options.set)
        encoded = [encode(row["messages"], tokenizer, max_length=self.config.max_length) for row in rows]
        if self.options.fill:
            # Every sample of the full length: its answer goes on until there.
            ids = [sample.ids for sample in encoded]
            encoded = [_filled(ids, number, self.config.max_length) for number in range(len(ids))]
        return [encoded[number % len(encoded)] for number in range(self.options.samples)]

    def schedule(self, probes: int) -> tuple[int, int]:
        """Steps of a whole run, and measurements of `probes` probes in it at most."""
        tokenizer = self.tokenizer()
        samples = self.samples(tokenizer)
        probe = encoded_probe(Probe(name="probe", items=read_probe(self.options.set)), tokenizer, self.config)
        steps = steps_of(len(samples), self.config)
        cost = probes * sum(len(sample.ids) for side in probe.sides for sample in side)
        planned = self.config.epochs * sum(len(sample.ids) for sample in samples)
        return steps, RefreshSchedule(
            start=warm_up_of(steps), total=steps, planned=planned, cost=cost, probes=probes
        ).most

    def run(self, probes: int, on_step: Callable[[MetricEvent, int], None]) -> None:
        """Trains; with `probes` > 0 instrumented."""
        model, tokenizer = self.model(), self.tokenizer()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        probe = Probe(name="probe", items=read_probe(self.options.set))
        recorder = Recorder(lora_layers(model), directions_of([probe] * probes, seed=0)) if probes else None
        with contextlib.suppress(Enough):
            train(
                model,
                self.samples(tokenizer),
                self.config,
                pad=tokenizer.pad_token_id,
                probes=[encoded_probe(probe, tokenizer, self.config)] * probes,
                recorder=recorder,
                on_step=on_step,
            )


def _filled(ids: list[tuple[int, ...]], start: int, length: int) -> TokenizedSample:
    long: list[int] = []
    while len(long) < length:
        long += ids[start % len(ids)]
        start += 1
    return TokenizedSample(tuple(long[:length]), tuple([-100] * 8 + long[8:length]))


def take_turns(setting: Setting, probes: int) -> Baton:
    """The times of a plain and of an instrumented run's steps."""
    counts = [0, probes]
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    baton = Baton([str(count) for count in counts], setting.options.steps, clock)
    baton.play(lambda name, on_step: setting.run(int(name), on_step))
    return baton


def time_ratios(setting: Setting) -> dict[str, Any]:
    """Of each number of probes: cost of the hooks, of a measurement, and of both over a whole run."""
    found: dict[str, Any] = {}
    for count in setting.options.probes:
        baton = take_turns(setting, count)
        steps, most = setting.schedule(count)
        warm_up = warm_up_of(steps)
        plain = np.array(baton.seconds["0"][warm_up:])
        own = np.array(baton.seconds[str(count)][warm_up:])
        measured = np.array(baton.measured[str(count)][warm_up:])
        rng = np.random.default_rng(0)
        draws = rng.integers(0, len(plain), size=(2000, len(plain)))
        parts = [_parts(plain[d], own[d], measured[d]) for d in draws if 0 < measured[d].sum() < len(d)]
        hooks, cost = _parts(plain, own, measured)
        # The last is the run's own, the others are the bootstrap's.
        *ratios, ratio = [
            1 + (each - 1) * (1 - warm_up / steps) + (most + FORWARD_ALONE) * of_one / steps
            for each, of_one in [*parts, (hooks, cost)]
        ]
        found[f"{count}_probes"] = {
            "plain_median_seconds": float(np.median(plain)),
            "hooks": hooks,
            "hooks_interval": np.percentile([each for each, _ in parts], [2.5, 97.5]).tolist(),
            "measurement_in_steps": cost,
            "measurements": most,
            "steps": steps,
            "ratio": ratio,
            "interval": np.percentile(ratios, [2.5, 97.5]).tolist(),
            "timed": float(own.sum() / plain.sum()),
        }
    return found


def _parts(plain: np.ndarray, own: np.ndarray, measured: np.ndarray) -> tuple[float, float]:
    """Ratio of the steps without a measurement, and the cost of one in mean plain steps."""
    hooks = float(own[~measured].sum() / plain[~measured].sum())
    extra = own[measured].mean() - hooks * plain[measured].mean()
    return hooks, float(extra / plain.mean())


def _peak(options: argparse.Namespace, probes: int) -> int:
    setting = Setting(options)
    enough = warm_up_of(setting.schedule(max(probes, 1))[0]) + 15

    def on_step(metric: MetricEvent, _total: int) -> None:
        if metric.step >= min(options.steps, enough):
            raise Enough

    setting.run(probes, on_step)
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _resident_peak()


def _tell_peak(options: argparse.Namespace, probes: int, answer: Any) -> None:
    answer.send(_peak(options, probes))


def _resident_peak() -> int:
    """Largest resident size of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: on Linux a new process inherits that of the one which started it.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peak_bytes(options: argparse.Namespace, probes: int) -> int:
    """Peak memory of a run: of the device, or resident, of a process of its own."""
    if torch.cuda.is_available():
        found = _peak(options, probes)
        gc.collect()
        torch.cuda.empty_cache()
        return found
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_tell_peak, args=(options, probes, sender))
    process.start()
    process.join()
    return int(receiver.recv())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--probes", type=int, nargs="+", default=[1])
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--micro-batch-size", type=int, help="samples in memory at once")
    parser.add_argument("--fill", action="store_true", help="make every sample --max-length tokens long")
    parser.add_argument("--shape", choices=["demo", "llama-3.1-8b"], default="demo")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    # Before anything of this process lies on the device.
    peaks = {count: peak_bytes(options, count) for count in [0, *options.probes]}
    found = time_ratios(Setting(options))
    for count in options.probes:
        found[f"{count}_probes"] |= {"memory_ratio": peaks[count] / peaks[0], "peak_bytes": peaks[count]}
    found["plain_peak_bytes"] = peaks[0]
    name = f"overhead-{options.shape}{'-filled' if options.fill else ''}.json"
    (options.out / name).write_text(json.dumps(found, indent=1))
    print("| probes | hooks | a measurement, in plain steps | measurements | whole run, time | peak memory |")
    print("|---|---|---|---|---|---|")
    for count in options.probes:
        own = found[f"{count}_probes"]
        low, high = own["interval"]
        least, greatest = own["hooks_interval"]
        print(
            f"| {count} | {own['hooks']:.3f} ({least:.3f} to {greatest:.3f}) | {own['measurement_in_steps']:.2f} | "
            f"{own['measurements']} in {own['steps']} steps | {own['ratio']:.3f} ({low:.3f} to {high:.3f}) | "
            f"{own['memory_ratio']:.3f} |"
        )


if __name__ == "__main__":
    main()
