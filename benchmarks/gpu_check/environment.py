"""What the machine has, and whether it computes as it should."""

import os
from importlib.metadata import version

import pynvml
import torch

from benchmarks.gpu_check.report import Report

PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy")
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def check_environment(report: Report, device: torch.device) -> None:
    """Driver, versions, precision and allocator."""
    versions = {name: version(name) for name in PACKAGES}
    report.checked("versions", True, ", ".join(f"{name} {own}" for name, own in versions.items()), **versions)
    settings = {name: os.environ[name] for name in ALLOCATOR if name in os.environ}
    report.checked(
        "the allocator's settings", True, ", ".join(f"{k}={v}" for k, v in settings.items()) or "none", **settings
    )
    # Results of float32 LoRA layers would be rounded to ten bits.
    precision = torch.get_float32_matmul_precision()
    tf32 = torch.backends.cuda.matmul.allow_tf32
    report.checked("TF32 is off", precision == "highest" and not tf32, f"float32 products: {precision}", tf32=tf32)
    if device.type == "cpu":
        report.not_measured("the GPU", f"no GPU; torch {torch.__version__} is built for CUDA {torch.version.cuda}")
        return
    pynvml.nvmlInit()
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
    finally:
        pynvml.nvmlShutdown()
    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    facts = {
        "name": properties.name,
        "driver": driver,
        "cuda": torch.version.cuda,
        "capability": f"{properties.major}.{properties.minor}",
        "total_bytes": total,
        "free_bytes": free,
    }
    report.checked(
        "the GPU",
        True,
        f"{facts['name']}, driver {driver}, CUDA {facts['cuda']}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free",
        **facts,
    )
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    report.checked("it computes in bfloat16", bf16, str(bf16))
