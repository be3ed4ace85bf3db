"""The Helm chart: rendered by Helm's code for three sets of values, validated, and held against the service."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml
from pydantic import SecretStr

from service.app import create_app
from service.http.auth.key_format import new_key
from service.settings import LANES, Settings
from service.sign_in_settings import SignInSettings
from tests.support.chart import CHART, ROOT, SETS, Manifest, pods, rendered, values_of
from tests.support.compose import SERVICES, command_of
from worker.health import LIVENESS

SECRETS = {
    "FINETOOTH_DATABASE_URL": "postgresql+psycopg://role:pa55@db/finetooth",
    "FINETOOTH_BROKER_URL": "rediss://:pa55@broker:6379/0",
    "FINETOOTH_ADMIN_KEY": new_key(),
    "FINETOOTH_OIDC_CLIENT_SECRET": "pa55",
    "HF_TOKEN": "pa55",
    "AWS_ACCESS_KEY_ID": "pa55",
    "AWS_SECRET_ACCESS_KEY": "pa55",
}
"""What the Secret of an installation may hold, by the variable that it ends up in."""

OLDEST, NEWEST = "1.28", "1.37"
"""Of Kubernetes."""


@cache
def release(name: str) -> list[Manifest]:
    return rendered(values_of(name))


@cache
def containers(name: str) -> dict[str, tuple[Manifest, Manifest]]:
    """By what it is (api, io, gpu-..., migrate): its pod and its container."""
    found = {}
    for owner, pod in pods(release(name)):
        (container,) = pod["containers"]
        found[re.sub(r"^(ft-finetooth|audits)-", "", owner)] = (pod, container)
    return found


def environment(container: Manifest) -> dict[str, str]:
    """What the container's process gets, with SECRETS for what a Secret holds."""
    given = {}
    for variable in container["env"]:
        name = variable["name"]
        assert name not in given, f"{name} stands twice"
        given[name] = variable["value"] if "value" in variable else SECRETS[name]
    return given


def test_there_are_three_sets() -> None:
    assert SETS == ["minimal", "production", "sub-path-oidc"]


@pytest.mark.parametrize("name", SETS)
def test_helm_finds_nothing_to_complain_of(name: str) -> None:
    findings = helm.lint(CHART, values_of(name))
    assert [one for one in findings["messages"] if "icon is recommended" not in str(one)] == []


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", SETS)
def test_every_object_follows_its_schema(name: str, version: str) -> None:
    without_schema = set()
    for manifest in release(name):
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            without_schema.add(manifest["kind"])
    assert without_schema == ({"ScaledObject", "ServiceMonitor"} if name == "production" else set())


def test_the_schema_check_can_fail() -> None:
    broken = yaml.safe_load(yaml.safe_dump(release("minimal")[0]))
    broken["spec"]["imagine"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, NEWEST, strict=True)


@pytest.mark.parametrize("name", SETS)
def test_names_are_unique_and_selectors_find_their_own_pods_alone(name: str) -> None:
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in release(name)]
    assert len(names) == len(set(names))
    labels = {
        manifest["metadata"]["name"]: manifest["spec"]["template"]["metadata"]["labels"]
        for manifest in release(name)
        if manifest["kind"] in ("Deployment", "Job")
    }
    for manifest in release(name):
        if manifest["kind"] not in ("Deployment", "PodDisruptionBudget", "Service"):
            continue
        selector = manifest["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)
        found = [owner for owner, has in labels.items() if wanted.items() <= has.items()]
        assert found == [manifest["metadata"]["name"]]


@pytest.mark.parametrize("name", SETS)
def test_every_deployment_has_a_disruption_budget(name: str) -> None:
    by_kind = {
        kind: {one["metadata"]["name"] for one in release(name) if one["kind"] == kind}
        for kind in ("Deployment", "PodDisruptionBudget")
    }
    assert by_kind["Deployment"] == by_kind["PodDisruptionBudget"]


@pytest.mark.parametrize("name", SETS)
def test_no_secret_is_in_the_chart_and_each_goes_only_where_it_is_needed(name: str) -> None:
    assert not [manifest for manifest in release(name) if manifest["kind"] == "Secret"]
    holders: dict[str, set[str]] = {}
    for what, (_, container) in containers(name).items():
        for variable in container["env"]:
            if variable["name"] in SECRETS:
                assert variable["valueFrom"]["secretKeyRef"]["name"] == values_of(name)["secret"]["name"]
                holders.setdefault(variable["name"], set()).add(what.partition("-")[0])
            else:
                assert "valueFrom" not in variable
    everywhere = {"api", "io", "gpu", "migrate"}
    bucket = everywhere if name == "production" else None
    wanted = {
        "FINETOOTH_DATABASE_URL": everywhere,
        "FINETOOTH_BROKER_URL": everywhere,
        "FINETOOTH_ADMIN_KEY": {"migrate"},
        "FINETOOTH_OIDC_CLIENT_SECRET": {"api"} if name == "sub-path-oidc" else None,
        "HF_TOKEN": {"gpu"} if name == "production" else None,
        "AWS_ACCESS_KEY_ID": bucket,
        "AWS_SECRET_ACCESS_KEY": bucket,
    }
    assert holders == {variable: who for variable, who in wanted.items() if who is not None}


@pytest.mark.parametrize("name", SETS)
def test_pods_are_hardened_and_write_where_they_need_to(name: str) -> None:
    for pod, container in containers(name).values():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert {"/tmp", "/data", "/cache"} <= set(mounts)
        assert set(mounts.values()) == volumes
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", SETS)
def test_every_process_reads_its_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {f"FINETOOTH_{field.upper()}" for field in Settings.model_fields}
    for what, (_, container) in containers(name).items():
        given = environment(container)
        assert {key for key in given if key.startswith("FINETOOTH_")} <= known
        with monkeypatch.context() as patched:
            for variable in known:
                patched.delenv(variable, raising=False)
            for variable, value in given.items():
                patched.setenv(variable, value)
            settings = Settings()
        assert "*" not in settings.allowed_hosts
        assert (settings.object_url is None) == (name == "sub-path-oidc")
        if settings.object_url is None:
            assert str(settings.objects) in {mount["mountPath"] for mount in container["volumeMounts"]}
        if what == "api":
            assert {"127.0.0.1", "ft-finetooth-api.audits.svc"} <= set(
                settings.allowed_hosts
            ) or name == "sub-path-oidc"
        if what == "api" and name == "sub-path-oidc":
            assert settings.root_path == "/finetooth"
            assert settings.group_roles == {"ml-reviewers": "reviewer", "ml-leads": {"default": "editor"}}
            assert settings.oidc_client_secret == SecretStr("pa55")
            assert "tools.example.org" in settings.allowed_hosts
        if name == "production":
            assert (settings.lease_seconds, settings.max_upload_bytes) == (60, 50 * 2**30)


@pytest.mark.parametrize("name", SETS)
def test_the_commands_are_those_of_compose(name: str) -> None:
    compose = {"migrate": "migrate", "io": "worker-io", "gpu": "worker-gpu"}
    for what, (_, container) in containers(name).items():
        if what == "api":
            assert "args" not in container  # the image's own
        else:
            assert container["args"] == command_of(SERVICES[compose[what.partition("-")[0]]])
        assert "command" not in container  # tini stays the first process
    images = {what.partition("-")[0]: container["image"] for what, (_, container) in containers(name).items()}
    assert images["api"] == images["io"] == images["migrate"] != images["gpu"]


def seconds(duration: str) -> int:
    """Of Compose's durations."""
    found = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration)
    assert found is not None
    return 60 * int(found[1] or 0) + int(found[2] or 0)


@pytest.mark.parametrize("name", SETS)
def test_grace_periods_fit_what_a_process_needs_to_end(name: str) -> None:
    """A gpu worker: 30 s for its last step, 30 s to store it, 10 s to be ended (docs/operating.md, Checkpoints)."""
    for what, (pod, container) in containers(name).items():
        if what == "migrate":
            continue
        service = {"api": "api", "io": "worker-io"}.get(what, "worker-gpu")
        grace = pod["terminationGracePeriodSeconds"]
        pause = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
        assert grace - int(pause[1]) >= seconds(SERVICES[service]["stop_grace_period"])
        if what.startswith("gpu"):
            assert grace >= 2 * (30 + 30 + 10)


def routes() -> set[str]:
    url = SecretStr("postgresql+psycopg://nobody@127.0.0.1:1/none")  # never connected to
    return set(create_app(Settings(database_url=url)).openapi()["paths"])


@pytest.mark.parametrize("name", SETS)
def test_probes_ask_what_there_is(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("FINETOOTH_DATA_DIR", str(tmp_path))
    known = routes()
    for what, (_, container) in containers(name).items():
        probes = {kind: container.get(f"{kind}Probe") for kind in ("startup", "liveness", "readiness")}
        if what == "migrate":
            assert set(probes.values()) == {None}
            continue
        assert all(probes.values())
        if what == "api":
            paths = {kind: probe["httpGet"]["path"] for kind, probe in probes.items()}
            assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
            assert set(paths.values()) <= known
            continue
        lane = what.partition("-")[0]
        assert lane in LANES
        commands = {kind: probe["exec"]["command"] for kind, probe in probes.items()}
        health = ["python", "-m", "worker.health", lane]
        # A database that is away is no reason to restart all workers.
        assert commands == {
            "startup": [*health, LIVENESS],
            "liveness": [*health, LIVENESS],
            "readiness": health,
        }


def test_each_gpu_worker_has_one_card_and_a_pool_changes_what_it_names() -> None:
    found = {what: pair for what, pair in containers("production").items() if what.startswith("gpu")}
    assert set(found) == {"gpu-h200", "gpu-l4"}
    memory = {what: container["resources"]["limits"].pop("memory") for what, (_, container) in found.items()}
    assert memory == {"gpu-h200": "128Gi", "gpu-l4": "64Gi"}
    for _, container in found.values():
        assert container["resources"]["limits"] == {"nvidia.com/gpu": 1}
        assert environment(container)["FINETOOTH_TRAIN_ON"] == "gpu"
    replicas = {
        one["metadata"]["name"]: one["spec"].get("replicas")
        for one in release("production")
        if "replicas" in one["spec"]
    }
    assert replicas == {"ft-finetooth-api": 3, "ft-finetooth-io": 2, "ft-finetooth-gpu-l4": 2}
    _, cpu = containers("sub-path-oidc")["gpu-cpu"]
    assert set(cpu["resources"]["limits"]) == {"memory"}
    assert environment(cpu)["FINETOOTH_TRAIN_ON"] == "any"


def test_workers_follow_the_queue() -> None:
    (scaled,) = [one for one in release("production") if one["kind"] == "ScaledObject"]
    assert scaled["spec"]["scaleTargetRef"] == {"name": "ft-finetooth-gpu-h200"}
    (trigger,) = scaled["spec"]["triggers"]
    assert (trigger["type"], trigger["metadata"]["threshold"]) == ("prometheus", "1")


def test_the_ingress_leads_to_the_api_under_its_path() -> None:
    for name, path in (("production", "/"), ("sub-path-oidc", "/finetooth")):
        (ingress,) = [one for one in release(name) if one["kind"] == "Ingress"]
        (rule,) = ingress["spec"]["rules"]
        (target,) = rule["http"]["paths"]
        assert target["path"] == path
        (service,) = [one for one in release(name) if one["kind"] == "Service"]
        assert target["backend"]["service"] == {"name": service["metadata"]["name"], "port": {"name": "http"}}
        assert service["spec"]["ports"][0]["targetPort"] == "http"


def test_prometheus_scrapes_the_api_under_the_name_that_the_alerts_know() -> None:
    (monitor,) = [one for one in release("production") if one["kind"] == "ServiceMonitor"]
    (service,) = [one for one in release("production") if one["kind"] == "Service"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] == service["spec"]["ports"][0]["name"]
    assert endpoint["path"] in routes()
    assert endpoint["authorization"]["credentials"] == {"name": "finetooth-metrics", "key": "metrics-key"}
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "finetooth"}]
    assert 'up{job="finetooth"}' in (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()


def test_migrations_come_first() -> None:
    (job,) = [one for one in release("minimal") if one["kind"] == "Job"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    # What the release makes is not there yet.
    assert "serviceAccountName" not in job["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"secret": {"name": ""}}, "secret.name"),
        ({"objects": {"url": ""}}, "objects"),
        ({"objects": {"existingClaim": "both"}}, "not both"),
        ({"ingress": {"enabled": True}}, "ingress.host"),
        ({"api": {"replicsa": 3}}, "replicsa"),
        ({"settings": {"DATABASE_URL": "postgresql://in-the-open"}}, "DATABASE_URL"),
        ({"gpu": {"pools": [{"name": "a", "autoscaling": {"enabled": True}}]}}, "prometheusAddress"),
        ({"serviceMonitor": {"enabled": True}}, "keySecret"),
        ({"gpu": {"pools": [{"nam": "a"}]}}, "name"),
    ],
)
def test_wrong_values_are_refused_with_their_name(change: dict[str, Any], complaint: str) -> None:
    values = values_of("minimal")
    for name, part in change.items():
        values[name] = values.get(name, {}) | part
    with pytest.raises(helm.HelmError, match=complaint):
        rendered(values)


def leaves(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value and name != "resources":
            yield from leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def test_the_readme_has_every_value_with_its_default() -> None:
    text = (CHART / "README.md").read_text()
    body = text.split("<!-- values:start -->\n", 1)[1].split("<!-- values:end -->", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines()[2:]]
    documented = {row[0].strip("`"): row[1] for row in rows}
    defaults = dict(leaves(yaml.safe_load((CHART / "values.yaml").read_text())))
    assert list(documented) == list(defaults)
    for name, value in defaults.items():
        if name.endswith("resources") or name == "gpu.pools":
            continue  # in words
        assert yaml.safe_load(documented[name].strip("`")) == value, name


def test_links_of_the_readme_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)]+)\)", (CHART / "README.md").read_text())
    assert targets
    for target in targets:
        path, _, anchor = target.partition("#")
        text = (CHART / path).read_text()
        headings = [
            heading.lower().replace("`", "").replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.M)
        ]
        assert not anchor or anchor in headings, target


def test_settings_of_the_chart_are_those_of_the_service() -> None:
    named = set(re.findall(r"`\{([A-Z_]+): ", (CHART / "README.md").read_text()))
    assert named
    fields = {field.upper() for field in [*Settings.model_fields, *SignInSettings.model_fields]}
    assert named <= fields
