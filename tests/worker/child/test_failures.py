"""What libraries raise has a code and says what to do; `internal` is left to our own defects."""

import ast
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jinja2
import numpy as np
import pynvml
import pytest
import torch
from huggingface_hub import errors as hub
from jinja2.exceptions import SecurityError
from safetensors import SafetensorError, safe_open

from service.contract.failure import ErrorCode
from worker.child.failures import failure_of
from worker.influence.errors import IndistinguishableError
from worker.influence.statistics.null_distribution import fit_location_and_scale, fit_null_to_trusted
from worker.supervisor.failures import is_retried
from worker.training.errors import at_row

ROOT = Path(__file__).parents[3]
RESPONSE = httpx.Response(503, request=httpx.Request("GET", "https://hub.example/m"))


def raised(act: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # any
        act()
    return caught.value


def template(text: str) -> Exception:
    return raised(lambda: jinja2.Environment(autoescape=True).from_string(text).render())


def damaged(folder: Path) -> Exception:
    (folder / "x.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{damaged")
    return raised(lambda: safe_open(folder / "x.safetensors", framework="np"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (jinja2.TemplateError("roles must alternate"), ErrorCode.BAD_CONFIG),
        (template("{{ a.b.c }}"), ErrorCode.BAD_CONFIG),
        (template("{% broken"), ErrorCode.BAD_CONFIG),
        (SecurityError("no"), ErrorCode.MODEL_UNSAFE),
        (SafetensorError("header"), ErrorCode.MODEL_NOT_FOUND),
        (hub.LocalEntryNotFoundError("no"), ErrorCode.NETWORK),
        (hub.RemoteEntryNotFoundError("no", response=RESPONSE), ErrorCode.MODEL_NOT_FOUND),
        (hub.RepositoryNotFoundError("no", response=RESPONSE), ErrorCode.MODEL_NOT_FOUND),
        (hub.RevisionNotFoundError("no", response=RESPONSE), ErrorCode.MODEL_NOT_FOUND),
        (hub.GatedRepoError("no", response=RESPONSE), ErrorCode.MODEL_GATED),
        (hub.HfHubHTTPError("no", response=RESPONSE), ErrorCode.NETWORK),
        (hub.OfflineModeIsEnabled("no"), ErrorCode.NETWORK),
        (httpx.ProxyError("no"), ErrorCode.NETWORK),
        (httpx.ReadTimeout("no"), ErrorCode.NETWORK),
        (ConnectionResetError(), ErrorCode.NETWORK),
        (TimeoutError(), ErrorCode.NETWORK),
        (RuntimeError("Data processing error: Network error: Reqwest error: error sending request"), ErrorCode.NETWORK),
        (OSError("Consistency check failed: file should be of size 9 but has size 5"), ErrorCode.NETWORK),
        (OSError(errno.ENOSPC, "no"), ErrorCode.DISK_FULL),
        (RuntimeError("Data processing error: I/O error: No space left on device (os error 28)"), ErrorCode.DISK_FULL),
        (OSError(errno.EDQUOT, "no"), ErrorCode.DISK_FULL),
        (PermissionError(errno.EACCES, "no"), ErrorCode.DISK_ERROR),
        (OSError(errno.EROFS, "no"), ErrorCode.DISK_ERROR),
        (OSError(errno.EIO, "no"), ErrorCode.DISK_ERROR),
        (OSError(errno.EMFILE, "no"), ErrorCode.DISK_ERROR),
        (OSError(errno.ENOMEM, "no"), ErrorCode.OUT_OF_MEMORY),
        (MemoryError(), ErrorCode.OUT_OF_MEMORY),
        (raised(lambda: np.empty(1 << 50)), ErrorCode.OUT_OF_MEMORY),
        (raised(lambda: torch.empty(1 << 60)), ErrorCode.OUT_OF_MEMORY),
        (ImportError("no"), ErrorCode.BAD_CONFIG),
        (raised(lambda: fit_location_and_scale(np.zeros(9))), ErrorCode.SAMPLES_ALIKE),
        (raised(lambda: fit_location_and_scale(np.zeros(50))), ErrorCode.SAMPLES_ALIKE),
        (raised(lambda: fit_null_to_trusted(np.zeros(5))), ErrorCode.SAMPLES_ALIKE),
        (IndistinguishableError("Every sample is the same."), ErrorCode.SAMPLES_ALIKE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_what_is_known_is_not_internal(error: Exception, code: ErrorCode) -> None:
    found = failure_of(error)
    assert found.code is code
    assert is_sentence(found.message), found.message
    assert is_sentence(found.hint), found.hint


ON_THE_DEVICE = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB, other allocations: 1 MB, max allowed: 9 GB)"),
)
ON_THE_HOST = (
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("unable to mmap 99 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    raised(lambda: torch.empty(1 << 60)),
    raised(lambda: np.empty(1 << 50)),
)
DEVICE_FAILURES = (
    torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    torch.AcceleratorError("CUDA error: unspecified launch failure"),
    torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
    torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA driver error: device not ready"),
    RuntimeError("CUDA driver version is insufficient for CUDA runtime version"),
    RuntimeError(
        "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver by "
        "downloading and installing a new version"
    ),
    RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"),
    RuntimeError("No CUDA GPUs are available"),
    RuntimeError(
        "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() "
        "that might have already set an error? Error 802: system not yet initialized"
    ),
    RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment"),
    torch.cuda.DeferredCudaCallError("CUDA call failed lazily at initialization with error: CUDA error: unknown error"),
    pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST),
)


@pytest.mark.parametrize("error", ON_THE_DEVICE, ids=str)
def test_memory_of_the_device(error: Exception) -> None:
    found = failure_of(error)
    assert (found.code, found.message) == (ErrorCode.OUT_OF_MEMORY, "The worker's GPU ran out of memory.")
    assert "GPU with more memory" in found.hint


@pytest.mark.parametrize("error", ON_THE_HOST, ids=str)
def test_memory_of_the_machine(error: Exception) -> None:
    found = failure_of(error)
    assert (found.code, found.message) == (ErrorCode.OUT_OF_MEMORY, "The worker's machine ran out of memory.")
    assert "GPU" not in found.hint


@pytest.mark.parametrize("error", DEVICE_FAILURES, ids=str)
def test_a_device_that_failed(error: Exception) -> None:
    found = failure_of(error)
    assert found.code is ErrorCode.DEVICE_FAILED
    assert "nvidia-smi" in found.hint
    assert is_retried(found)


@pytest.mark.parametrize("text", ["shape '[3]' is invalid for input of size 2", "a sample that says: CUDA"])
def test_what_is_not_the_device_s_fault(text: str) -> None:
    assert failure_of(RuntimeError(text)).code is ErrorCode.INTERNAL


def test_a_file_that_the_library_cannot_read(tmp_path: Path) -> None:
    assert failure_of(damaged(tmp_path)).code is ErrorCode.MODEL_NOT_FOUND


@pytest.mark.parametrize("error", [KeyError("a sample's text"), AssertionError(), ValueError("a sample's text")])
def test_the_rest_is_ours_to_mend(error: Exception) -> None:
    found = failure_of(error)
    assert found.code is ErrorCode.INTERNAL
    assert "sample" not in found.message
    assert type(error).__name__ in found.message


def test_the_row_is_named() -> None:
    def act() -> None:
        with at_row(17):
            raise jinja2.TemplateError("roles must alternate")

    found = failure_of(raised(act))
    assert "(row 17)." in found.message
    assert "alternate" not in found.message


def is_sentence(text: str) -> bool:
    return bool(text) and (text[0].isupper() or not text[0].isalpha()) and text.endswith(".")


MADE_BY = {"Failure", "TrainingError", "ModelFilesError", "IndistinguishableError"}


def texts() -> Iterator[tuple[str, str]]:
    """Where the text of a failure is written, and the text; {} for what is filled in."""
    for folder in ("worker", "service"):
        for path in (ROOT / folder).rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_text())):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") in MADE_BY:
                    given = [*call.args, *(k.value for k in call.keywords if k.arg in ("message", "hint"))]
                    for part in given:
                        if isinstance(part, ast.Constant) and isinstance(part.value, str):
                            yield f"{path.name}:{part.lineno}", part.value
                        elif isinstance(part, ast.JoinedStr):
                            words = [str(v.value) if isinstance(v, ast.Constant) else "{}" for v in part.values]
                            yield f"{path.name}:{part.lineno}", "".join(words)


def test_failures_are_told_in_full_sentences_that_join() -> None:
    """A user reads the message and the hint one after the other, on one line."""
    found = list(texts())
    assert len(found) > 40
    broken = [
        (place, text)
        for place, text in found
        if not (text.endswith((".", "{}")) and (text[0].isupper() or text[0] == "{"))
    ]
    # What is completed with the row.
    assert [text for _, text in broken if "nobody expected" not in text] == []
