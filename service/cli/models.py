"""Choosing the base model: a registered name, a local folder, or the default."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from service.cli.errors import CommandError, refused
from service.cli.server import Server
from service.client import ApiError

DEMO_MODEL = "smollm2-135m-instruct"
"""The model that comes with Finetooth and needs no download."""


def choose_model(server: Server, wanted: str | None, report: Callable[[str], None]) -> str:
    """Find the base model to audit with, and register a local folder that is not registered yet.

    Args:
        server: The service.
        wanted: A registered name or a folder; None for the default, which only a service on this machine has.
        report: Called with the choice.

    Returns:
        The registered name.

    Raises:
        CommandError: There is no such model, none was named, or the service refuses the folder.
    """
    registered = {model["name"]: model for model in server.client.models()}
    if wanted is None:
        if not server.local:
            raise CommandError(f"name the base model with --model; registered are {_list(registered)}")
        wanted = DEMO_MODEL
    if wanted in registered:
        report(f"Model: {wanted}")
        return wanted
    folder = Path(wanted).expanduser()
    if not folder.is_dir():
        raise CommandError(
            f"unknown model {wanted!r}: neither a registered one ({_list(registered)}) nor a folder here"
        )
    location = str(folder.resolve())
    for model in registered.values():
        if model["source"] == "local" and model["location"] == location:
            report(f"Model: {model['name']} ({location})")
            return str(model["name"])
    name = _name(location)
    try:
        server.client.create_model(name, "local", location)
    except ApiError as error:
        raise refused(error, str(folder)) from None
    report(f"Model: {name} ({location})")
    return name


def _name(location: str) -> str:
    """Make a name that the same folder always gets and no other folder has."""
    stem = re.sub(r"[^a-z0-9.-]+", "-", Path(location).name.lower()).strip("-.")[:60]
    return f"{stem or 'model'}-{hashlib.sha256(location.encode(errors='surrogateescape')).hexdigest()[:8]}"


def _list(names: dict[str, object] | dict[str, dict[str, object]]) -> str:
    return ", ".join(sorted(names)) or "none"
