"""The acceptance on a GPU, in at most ten minutes; without one, the same code on a tiny model.

    python -m benchmarks.gpu_check [--shape llama-3.1-8b|tiny] [--work FOLDER] [--out FOLDER]

Prints a table of checks, each ok, failed or not measured, and writes gpu_check.json. Exits with 1 where one failed.
Children are started as a worker starts them, so the package has to be installed (`pip install -e .`). The shape of
Llama-3.1-8B needs 18 GB in the work folder and a GPU of 80 GB. docs/gpu-check.md says what the rows mean.
"""

import argparse
import gc
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.gpu_check.audits import check_demo_model, check_interruptions, check_out_of_memory, check_planned_passes
from benchmarks.gpu_check.environment import check_environment
from benchmarks.gpu_check.report import Report
from benchmarks.gpu_check.shapes import LLAMA, SHAPES, TINY, Shape, write_model
from benchmarks.gpu_check.signals import check_signals
from benchmarks.gpu_check.speed import check_speed
from benchmarks.gpu_check.steps import Children
from service.settings import get_settings
from worker.child.device import forbid_tf32

SECONDS = 480.0
"""Speed cases that would begin later are not measured."""


def run(shape: Shape, device: torch.device, work: Path) -> Report:
    """Run all checks; whatever fails, the others run."""
    report = Report(seconds=SECONDS)
    forbid_tf32()  # as a child does
    if device.type == "cpu":
        torch.set_num_threads(1)
    with report.part("environment"):
        check_environment(report, device)
    with report.part("signals"):
        check_signals(report, shape, device)
        _free(device)
    children = Children(Path(get_settings().cache_dir), device)
    with report.part("demo model"):
        check_demo_model(report, children, work, device)
    with report.part(f"shape {shape.name}"):
        model = write_model(shape, device, work / "model")
        _free(device)
        check_interruptions(report, children, work, shape, model, device)
        check_out_of_memory(report, children, work, shape, model, device)
        check_planned_passes(report, children, work, shape, model, device)
    shutil.rmtree(work / "model", ignore_errors=True)
    with report.part("speed"):
        check_speed(report, shape, device)
    return report


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def main() -> None:
    """Command line."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default=(TINY if device.type == "cpu" else LLAMA).name)
    parser.add_argument(
        "--work", type=Path, help="where models and audits lie meanwhile; by default a temporary folder"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.work, prefix="gpu_check-") as work:
        report = run(SHAPES[options.shape], device, Path(work))
    report.save(options.out / "gpu_check.json")
    print(f"\n{report.table()}\n")
    print(", ".join(f"{part} {seconds:g} s" for part, seconds in report.seconds.items()))
    sys.exit(report.failed)


if __name__ == "__main__":
    main()
