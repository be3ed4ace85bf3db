"""The container files agree with the specification, with hadolint and with the code. No engine is needed."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.local.laptop import worker_command
from service.secret_files import secret_fields
from service.settings import Settings
from service.sign_in_settings import SignInSettings
from tests.support.compose import COMPOSE, DOCKERFILE, ROOT, SERVICES, command_of
from tests.support.requirements import declared

BIN = Path(sys.executable).parent
OURS = [name for name, service in SERVICES.items() if "build" in service]
TARGETS = ("api", "worker")
DEPENDENCIES = ("dependencies", "worker-dependencies")
"""Stages that install libraries."""

VARIABLE = re.compile(r"\$\$|\$\{(?P<name>\w+)(?P<operator>:[-?])?(?P<operand>[^}]*)\}")


class UnsetError(Exception):
    """A required variable has no value."""


def interpolate(value: str, environment: dict[str, str]) -> str:
    """What Compose makes of ${NAME}, ${NAME:-default}, ${NAME:?message} and $$."""

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        found = environment.get(match["name"], "")
        if found or match["operator"] is None:
            return found
        if match["operator"] == ":?":
            raise UnsetError(match["name"])
        return match["operand"]

    return VARIABLE.sub(replace, value)


def test_compose_file_follows_the_specification() -> None:
    result = subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yml"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_schema_check_can_fail(tmp_path: Path) -> None:
    broken = tmp_path / "docker-compose.yml"
    broken.write_text("services: {api: {imagine: finetooth-api}}\n")
    result = subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", broken], capture_output=True, text=True
    )
    assert result.returncode == 1, result.stdout + result.stderr


def test_dockerfile_passes_hadolint() -> None:
    result = subprocess.run([BIN / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", ["postgres", "redis", "own-database", "migrate", "api", "worker-gpu", "worker-io"])
def test_every_part_of_the_stack_is_a_service(name: str) -> None:
    assert name in SERVICES


@pytest.mark.parametrize("name", OURS)
def test_commands_name_things_that_exist(name: str) -> None:
    command = command_of(SERVICES[name])
    match command:
        case ["celery", *arguments]:
            assert ["-m", "celery", *arguments] == worker_command(name.removeprefix("worker-"))[1:]
            assert importlib.util.find_spec(arguments[1]) is not None
        case ["python", "-m", module, *_]:
            assert runs_as_main(module), f"python -m {module} would do nothing"
        case _:
            pytest.fail(f"{name} runs {command}, which this test does not know")


def runs_as_main(module: str) -> bool:
    """Whether `python -m module` does anything: a package with __main__, or a module that asks for its name."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return False
    if spec.submodule_search_locations is not None:
        return importlib.util.find_spec(f"{module}.__main__") is not None
    tree = ast.parse(Path(spec.origin).read_text())
    return any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in tree.body)


@pytest.mark.parametrize("name", OURS)
def test_build_targets_exist(name: str) -> None:
    target = SERVICES[name]["build"]["target"]
    assert re.search(rf"^FROM base AS {target}$", DOCKERFILE, re.MULTILINE)
    assert interpolate(SERVICES[name]["image"], {}) == f"finetooth-{target}:latest"
    assert interpolate(SERVICES[name]["image"], {"FINETOOTH_TAG": "1.2.3"}) == f"finetooth-{target}:1.2.3"


def test_the_gpu_lane_reserves_a_gpu_and_has_torch() -> None:
    assert SERVICES["worker-gpu"]["build"]["target"] == "worker"
    (device,) = devices(SERVICES["worker-gpu"])
    assert device["capabilities"] == ["gpu"]


def devices(service: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service["deploy"]["resources"]["reservations"]["devices"]
    return found


class Overlay(yaml.SafeLoader):
    """Reads Compose's own tags: what they mark stands as it is."""


Overlay.add_constructor("!override", lambda loader, node: loader.construct_sequence(node, deep=True))
Overlay.add_constructor("!reset", lambda loader, node: None)
OVERLAYS = {
    path.name: yaml.load(path.read_text(), Overlay)  # a safe loader with two tags more
    for path in sorted((ROOT / "deploy" / "compose").glob("*.yml"))
}


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_change_services_that_exist(name: str, tmp_path: Path) -> None:
    plain = tmp_path / "overlay.yml"
    plain.write_text(yaml.safe_dump(OVERLAYS[name]))
    result = subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", plain], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for service, parts in OVERLAYS[name]["services"].items():
        base = parts["extends"]["service"] if "extends" in parts else service
        assert base in SERVICES
    assert f"-f deploy/compose/{name} " in (ROOT / "deploy" / "compose" / name).read_text()


def test_each_card_has_one_worker() -> None:
    """`count: 1` would mean the first card for each of them."""
    workers = [SERVICES["worker-gpu"], OVERLAYS["two-cards.yml"]["services"]["worker-gpu-1"]]
    cards = [interpolate(card, {}) for worker in workers for one in devices(worker) for card in one["device_ids"]]
    assert cards == ["0", "1"]
    assert not any("count" in one for worker in workers for one in devices(worker))


def test_files_of_secrets_are_read_by_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay = OVERLAYS["secret-files.yml"]
    for name, parts in overlay["services"].items():
        given = SERVICES[name]["environment"] | parts["environment"]
        files = {key: value for key, value in parts["environment"].items() if key.endswith("_FILE")}
        assert {Path(path).name for path in files.values()} == set(parts["secrets"]) <= set(overlay["secrets"])
        for variable in files:
            secret = variable.removesuffix("_FILE")
            assert secret.removeprefix("FINETOOTH_").lower() in secret_fields(Settings)
            assert not given.get(secret), "a secret and its file are not both given"


@pytest.mark.parametrize("name", list(SERVICES))
def test_no_service_takes_the_whole_host_or_fills_its_disk_with_logs(name: str) -> None:
    service = SERVICES[name]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["pids_limit"] > 0
    if service["restart"] != "no":
        assert re.fullmatch(r"\d+[mg]", interpolate(service["mem_limit"], {}))


def test_every_setting_reaches_whoever_reads_it() -> None:
    """Of the documented ones, but for folders, which the images and volumes fix."""
    fixed = {"data_dir", "cache_dir", "object_dir"}
    api = {f"FINETOOTH_{name.upper()}" for name in set(Settings.model_fields) - fixed - {"train_on", "admin_key"}}
    assert api <= set(SERVICES["api"]["environment"])
    sign_in = {f"FINETOOTH_{name.upper()}" for name in SignInSettings.model_fields}
    assert "FINETOOTH_ADMIN_KEY" in SERVICES["migrate"]["environment"]
    of_the_api = sign_in | {"FINETOOTH_ALLOWED_HOSTS", "FINETOOTH_ROOT_PATH"}
    for name in ("worker-gpu", "worker-io"):
        given = set(SERVICES[name]["environment"])
        assert api - of_the_api <= given
        assert not of_the_api & given
    assert {"FINETOOTH_TRAIN_ON", "HF_TOKEN", "HTTPS_PROXY"} <= set(SERVICES["worker-gpu"]["environment"])


@pytest.mark.parametrize("name", ["worker-gpu", "worker-io"])
def test_workers_can_write_where_they_look_whether_they_can(name: str) -> None:
    """The root is read-only, and a worker that cannot write to its data or cache folder does not start."""
    service = SERVICES[name]
    places = {volume.partition(":")[2] for volume in service["volumes"]} | set(service["tmpfs"])
    assert {"/data", "/cache", "/tmp"} <= places


@pytest.mark.parametrize("name", ["api", "worker-gpu", "worker-io"])
def test_whoever_reads_objects_reaches_a_bucket(name: str) -> None:
    assert "outside" in SERVICES[name]["networks"]


@pytest.mark.parametrize("missing", ["POSTGRES_PASSWORD", "DATABASE_PASSWORD", "REDIS_PASSWORD"])
def test_no_password_has_a_default(missing: str) -> None:
    given = {"POSTGRES_PASSWORD": "a", "DATABASE_PASSWORD": "b", "REDIS_PASSWORD": "c"}
    text = yaml.safe_dump(COMPOSE)
    interpolate(text, given)
    with pytest.raises(UnsetError, match=missing):
        interpolate(text, given | {missing: ""})


def test_example_environment_holds_no_secret_and_names_every_variable() -> None:
    text = (ROOT / ".env.example").read_text()
    named = dict(re.findall(r"^(?:# )?([A-Z_]+)=(.*)$", text, re.MULTILINE))
    interpolated = {match["name"] for match in VARIABLE.finditer(yaml.safe_dump(COMPOSE)) if match["name"]}
    passed = set().union(*(passed_on(SERVICES[name]["environment"]) for name in OURS))
    assert set(named) == interpolated | passed
    assert not [name for name, value in named.items() if value and re.search("PASSWORD|TOKEN|KEY", name)]


def passed_on(environment: dict[str, str | None]) -> set[str]:
    """Variables that a service gets as .env sets them, or not at all."""
    return {name for name, value in environment.items() if value is None}


@pytest.mark.parametrize("name", OURS)
def test_environment_is_read_by_the_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"POSTGRES_PASSWORD": "super", "DATABASE_PASSWORD": "pa55", "REDIS_PASSWORD": "w0rd"}
    named = SERVICES[name]["environment"]
    environment = {key: interpolate(value, given) for key, value in named.items() if value is not None}
    known = {f"FINETOOTH_{field.upper()}" for field in Settings.model_fields}
    assert {key for key in named if key.startswith("FINETOOTH_")} <= known
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    settings = Settings()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql+psycopg://finetooth_app:pa55@postgres:5432/finetooth"
    assert settings.broker_url is not None
    assert settings.broker_url.get_secret_value() == "redis://:w0rd@redis:6379/0"
    assert settings.allowed_hosts
    assert "*" not in settings.allowed_hosts


def test_example_of_allowed_hosts_is_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"^# FINETOOTH_ALLOWED_HOSTS='(.*)'$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert found is not None
    monkeypatch.setenv("FINETOOTH_ALLOWED_HOSTS", found[1])
    assert Settings().allowed_hosts == ("127.0.0.1", "localhost", "audits.example.org")


def test_only_the_api_is_published_and_on_the_loopback_interface_only() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["api"]
    assert interpolate(published["api"][0], {}) == "127.0.0.1:8000:8000"
    for name in ("postgres", "redis"):
        assert SERVICES[name]["networks"] == ["backend"]
    assert COMPOSE["networks"]["backend"] == {"internal": True}


@pytest.mark.parametrize("name", list(SERVICES))
def test_services_are_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service.get("privileged") is None
    if name in OURS:
        assert service["cap_drop"] == ["ALL"]


def test_the_superusers_password_reaches_what_makes_the_services_role_and_nothing_else() -> None:
    holders = [name for name, service in SERVICES.items() if "POSTGRES_PASSWORD" in str(service)]
    assert holders == ["postgres", "own-database"]
    assert SERVICES["own-database"]["environment"]["PGUSER"] == SERVICES["postgres"]["environment"]["POSTGRES_USER"]
    assert SERVICES["own-database"]["restart"] == "no"


@pytest.mark.parametrize("name", OURS)
def test_services_start_in_order(name: str) -> None:
    conditions = {other: wait["condition"] for other, wait in SERVICES[name]["depends_on"].items()}
    if name == "own-database":
        assert conditions == {"postgres": "service_healthy"}
    elif name == "migrate":
        assert conditions == {"postgres": "service_healthy", "own-database": "service_completed_successfully"}
    else:
        assert conditions == {
            "postgres": "service_healthy",
            "redis": "service_healthy",
            "migrate": "service_completed_successfully",
        }
    for other, condition in conditions.items():
        assert condition != "service_healthy" or "test" in SERVICES[other]["healthcheck"]


@pytest.mark.parametrize("name", ["api", "worker-gpu", "worker-io"])
def test_services_share_the_objects_and_have_time_to_stop(name: str) -> None:
    assert "data:/data" in SERVICES[name]["volumes"]
    assert SERVICES[name]["stop_grace_period"] != "10s"


def test_images_run_without_root_and_from_pinned_bases() -> None:
    finals = {target: DOCKERFILE.split(f"FROM base AS {target}\n", 1)[1].split("\nFROM ", 1)[0] for target in TARGETS}
    for text in finals.values():
        assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    bases = re.findall(r"^FROM (\S+) AS", DOCKERFILE, re.MULTILINE)
    stages = set(re.findall(r" AS (\S+)$", DOCKERFILE, re.MULTILINE))
    images = [base for base in bases if base not in stages]
    images += [service["image"] for name, service in SERVICES.items() if name not in OURS]
    assert images
    for image in images:
        assert re.fullmatch(r"[\w./-]+:\d[\w.-]*", image), f"{image} names no version"


def test_what_holds_the_passwords_is_closed_to_the_services_own_user() -> None:
    """Nobody reads the environment of a program that they may run and not read."""
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)$(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL))
    assert 'ENTRYPOINT ["tini", "--"]' in stages["base"]
    assert "chmod 0711 /usr/bin/tini" in stages["base"]
    # Its program would be another one, which everybody may read.
    assert not [name for name in OURS if SERVICES[name].get("init") or "entrypoint" in SERVICES[name]]
    closing = 'chmod 0711 "$(readlink --canonicalize /opt/finetooth/bin/python)"'
    assert stages["api"].index(closing) < stages["api"].index("USER 10001")
    assert "ENTRYPOINT" not in stages["api"] + stages["worker"]


def test_the_api_image_gets_no_torch() -> None:
    api = DOCKERFILE.split("FROM base AS api\n", 1)[1].split("\nFROM ", 1)[0]
    assert "--from=dependencies" in api
    assert "worker-dependencies" not in api
    dependencies = DOCKERFILE.split(" AS dependencies\n", 1)[1].split("\nFROM ", 1)[0]
    assert sorted(printed_by(dependencies)) == sorted(declared("service", "s3"))


def test_the_worker_image_gets_all_that_a_worker_needs() -> None:
    stages = [DOCKERFILE.split(f" AS {name}\n", 1)[1].split("\nFROM ", 1)[0] for name in DEPENDENCIES]
    got = {line for stage in stages for line in printed_by(stage)}
    assert got == set(declared("worker", "s3"))


def printed_by(stage: str) -> list[str]:
    """Requirements that a stage of the Dockerfile writes, by running what it runs."""
    (program,) = re.findall(r'python -c "(.+?)"', stage, re.DOTALL)
    command = [sys.executable, "-c", program.replace("\\\n", "")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_builder_is_sent_what_it_copies() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied: set[str] = set()
    for line in DOCKERFILE.splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= set(line.split()[1:-1])
    assert copied == allowed
    for name in copied:
        assert (ROOT / name).exists()
