"""Where a command writes to, checked before the work: hours of it must not end at a folder that takes no file."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from service.cli.errors import CommandError


def check_output_folder(folder: Path) -> None:
    """Check that a folder can be written to, by creating it and a file in it and removing both again.

    Args:
        folder: The folder, which may be missing.

    Raises:
        CommandError: It cannot be created or written to.
    """
    try:
        with folders_made(folder, keep=False):
            _try_a_file(folder)
    except (FileExistsError, NotADirectoryError):
        raise CommandError(f"{folder}: not a folder; --out is the folder for the results") from None
    except OSError as error:
        raise CommandError(f"{folder}: cannot be written to: {error.strerror}") from None


def check_output_file(path: Path) -> None:
    """Check that a file can be written, by creating another one beside it and removing it again.

    Args:
        path: The file, which may be missing.

    Raises:
        CommandError: It cannot be written.
    """
    try:
        if path.is_dir():
            raise CommandError(f"{path}: a folder; --out is the file to write")
        if not path.parent.is_dir():
            raise CommandError(f"{path.parent}: no such folder; create it first")
        _try_a_file(path.parent)
    except OSError as error:
        raise CommandError(f"{path}: cannot be written: {error.strerror}") from None


def _try_a_file(folder: Path) -> None:
    with NamedTemporaryFile(dir=folder, prefix=".", suffix=".part"):
        pass


@contextmanager
def folders_made(folder: Path, *, keep: bool) -> Iterator[None]:
    """Create a folder and its missing parents for the time of the block, and remove them again after an error.

    Args:
        folder: The folder.
        keep: Whether to keep them after a block that succeeds.

    Raises:
        OSError: A folder cannot be created.
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
