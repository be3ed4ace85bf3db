"""Which files are one dataset: a file alone, or the shards in a folder that `save_to_disk` made."""

import errno
import json
from pathlib import Path


def files_of(path: Path) -> list[Path]:
    """Return the file, or the shards in order of a folder that `save_to_disk` of Hugging Face `datasets` made.

    Args:
        path: A file or such a folder.

    Returns:
        The files, whose contents follow one another in the dataset.

    Raises:
        OSError: The folder was not made by `save_to_disk`, or holds several splits; `strerror` says what to do.
    """
    if not path.is_dir():
        return [path]
    if (path / "dataset_dict.json").exists():
        splits = ", ".join(sorted(state.parent.name for state in path.glob("*/state.json")))
        raise _refused(path, f"a folder of several splits ({splits}); name the folder of one of them")
    try:
        state = json.loads((path / "state.json").read_bytes())
        names = [shard["filename"] for shard in state["_data_files"]]
    except FileNotFoundError:
        raise _refused(path, "a folder that `save_to_disk` did not make; name the file with the samples") from None
    except (ValueError, KeyError, TypeError):
        raise _refused(path, "the folder's state.json names no shards; save the dataset again") from None
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise _refused(path, "the folder's state.json names no shards beside it; save the dataset again")
    return [path / name for name in names]


def _refused(path: Path, reason: str) -> OSError:
    return OSError(errno.EISDIR, reason, str(path))
