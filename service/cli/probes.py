"""The probes that a command names: JSONL files, or built-in packs as `pack:NAME` or `pack:NAME:PARAMETER=VALUE`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.cli.errors import CommandError, refused
from service.cli.inputs import file_name, read_probe
from service.client import ApiError, Client

PACK = "pack:"
"""How --probe names a pack that comes with Finetooth instead of a file."""

_PARAMETER = re.compile(r":(?=[a-z_]+=)")


@dataclass(frozen=True)
class OwnProbe:
    """A probe of the user's own items {prompt, unwanted, reference}."""

    name: str
    items: Sequence[Mapping[str, str | None]]


@dataclass(frozen=True)
class PackProbe:
    """A built-in pack and a value for each of its parameters."""

    pack: str
    parameters: Mapping[str, str]


def parse_probe(argument: str) -> OwnProbe | PackProbe:
    """Read an argument of --probe.

    Args:
        argument: The path of a JSONL file, or a pack.

    Raises:
        CommandError: The file cannot be read or is wrong, or the pack is misspelt.
    """
    if not argument.startswith(PACK):
        path = Path(argument)
        return OwnProbe(file_name(path), read_probe(path))
    pack, *assignments = _PARAMETER.split(argument.removeprefix(PACK))
    if not re.fullmatch(r"[a-z_]+", pack):
        raise CommandError(f"--probe {argument}: write pack:NAME or pack:NAME:PARAMETER=VALUE")
    values = (assignment.partition("=") for assignment in assignments)
    return PackProbe(pack, {name: value for name, _, value in values})


def check_packs(client: Client, probes: Sequence[OwnProbe | PackProbe]) -> None:
    """Check that the service has the named packs, and that they take the given parameters.

    Args:
        client: The service.
        probes: The probes; those from files are not looked at.

    Raises:
        CommandError: There is no such pack, or its parameters are others.
    """
    for probe in probes:
        if isinstance(probe, OwnProbe):
            continue
        try:
            expected = [parameter["name"] for parameter in client.probe_pack(probe.pack)["parameters"]]
        except ApiError as error:
            if error.code != "probe_pack_not_found":
                raise refused(error) from None
            known = ", ".join(pack["name"] for pack in client.probe_packs())
            raise CommandError(f"there is no probe pack {probe.pack}; the packs are {known}") from None
        if sorted(expected) != sorted(probe.parameters):
            form = "".join(f":{name}=..." for name in expected)
            raise CommandError(f"the probe pack {probe.pack} is used as --probe {PACK}{probe.pack}{form}")


def create_probe(client: Client, probe: OwnProbe | PackProbe) -> str:
    """Create the probe in the service.

    Args:
        client: The service.
        probe: The probe.

    Returns:
        Its id.

    Raises:
        ApiError: The service refuses.
    """
    if isinstance(probe, PackProbe):
        made = client.create_probe_from_pack(probe.pack, probe.parameters)
    else:
        made = client.create_probe(probe.name, probe.items)
    return str(made["id"])
