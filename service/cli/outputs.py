"""Where a command writes to, tried before the work: hours are not to end at a folder that takes no file."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from service.cli.errors import CommandError


def check_output_folder(folder: Path) -> None:
    """Makes the folder and a file in it, and takes both away again. Raises CommandError where that fails."""
    try:
        with folders_made(folder, keep=False):
            _try_a_file(folder)
    except (FileExistsError, NotADirectoryError):
        raise CommandError(f"{folder}: not a folder; --out is the folder for the results") from None
    except OSError as error:
        raise CommandError(f"{folder}: cannot be written to: {error.strerror}") from None


def check_output_file(path: Path) -> None:
    """Makes a file beside `path` and takes it away again. Raises CommandError where `path` could not be written."""
    try:
        if path.is_dir():
            raise CommandError(f"{path}: a folder; --out is the file to write")
        if not path.parent.is_dir():
            raise CommandError(f"{path.parent}: there is no such folder")
        _try_a_file(path.parent)
    except OSError as error:
        raise CommandError(f"{path}: cannot be written: {error.strerror}") from None


def _try_a_file(folder: Path) -> None:
    with NamedTemporaryFile(dir=folder, prefix=".", suffix=".part"):
        pass


@contextmanager
def folders_made(folder: Path, *, keep: bool) -> Iterator[None]:
    """Makes the folder and those above it that are missing; without `keep`, or after an error, takes them away again.

    Raises OSError where one cannot be made.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    done = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
        done = keep
    finally:
        if not done:
            _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # one that could not be made, or that holds what somebody else has put there
            folder.rmdir()
