"""The images and services as Dockerfile and docker-compose.yml describe them."""

import json
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def dockerfile_commands() -> dict[str, list[str]]:
    """The default command of each build target."""
    commands: dict[str, list[str]] = {}
    target = ""
    for line in DOCKERFILE.replace("\\\n", " ").splitlines():
        if line.startswith("FROM "):
            target = line.rsplit(" ", 1)[1]
        elif line.startswith("CMD "):
            commands[target] = json.loads(line[4:])
    return commands


def command_of(service: dict[str, Any]) -> list[str]:
    return service.get("command") or dockerfile_commands()[service["build"]["target"]]
