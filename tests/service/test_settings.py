"""Mistakes in the settings: whatever is started, one line names the variable, quotes no value, and the code is 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.http.auth.key_format import new_key
from service.secret_files import secret_fields
from service.settings import BadSettingsError, Settings, ensure_folder, get_settings

FOLDERS = {"data_dir", "cache_dir", "object_dir", "work_dir"}
"""Any text is a path: whether it can be used is seen when it is."""

TEXTS = {"oidc_groups_claim"}
"""Any text is one."""

BAD = {
    "database_url": ["postgres://me:hunter2@host/x", "postgresql+psycopg://me:hunter2@host:port/x", "mysql://hunter2"],
    "admin_key": ["hunter2", "ft_short"],
    "train_on": ["cpu", "GPU"],
    "broker_url": [
        "amqp://:hunter2@host",
        "redis://:hunter2@host:port",
        "host:6379",
        "redis://a;rediss://:hunter2@b",
        "redis+socket:///a;redis+socket:///b",
        "redis://a;",
        "sentinel://:hunter2@a:26379",
    ],
    "object_url": ["/var/objects", "s3://me:hunter2@bucket"],
    "object_endpoint": ["minio:9000", "http://minio:9000"],
    "database_pooler": ["pgbouncer", "Transaction"],
    "database_pool_size": ["1", "201", "many", "2.5", "1" * 5000],
    "statement_timeout_ms": ["99", "5s"],
    "max_waiting_requests": ["-1", "none"],
    "max_upload_bytes": ["0", "20GB", "1e3"],
    "max_decompression_ratio": ["1", "x"],
    "max_line_bytes": ["1023", "16M"],
    "max_dataset_rows": ["0", "1_000_000 rows"],
    "parser_memory_bytes": ["1", "2GiB"],
    "session_hours": ["0", "12h"],
    "sign_in_link_minutes": ["0", "half an hour"],
    "audit_log_days": ["0", "half an hour"],
    "poll_seconds": ["0", "1s"],
    "lease_seconds": ["0", "-1"],
    "cancel_seconds": ["0", "soon"],
    "retry_seconds": ["0", "nan"],
    "reconcile_seconds": ["0", "often"],
    "heartbeat_seconds": ["0", "ten"],
    "checkpoint_seconds": ["-1", "never"],
    "findings_top": ["-1", "all"],
    "max_queued_audits": ["0", "many"],
    "dataset_days": ["0", "40000"],
    "recording_days": ["0", "40000"],
    "export_days": ["0", "40000"],
    "audit_days": ["0", "40000"],
    "max_running_audits": ["0", "many"],
    "max_workspace_bytes": ["0", "1TiB"],
    "max_workspace_rows": ["0", "1e9"],
    "max_workspace_probes": ["0", "ten"],
    "max_workspace_uploads": ["0", "ten"],
    "upload_hours": ["0", "8761", "a day"],
    "max_workspace_exports": ["0", "few"],
    "max_idempotency_records": ["0", "1e4"],
    "max_idempotency_bytes": ["0", "1GiB"],
    "log_format": ["xml", "JSON"],
    "root_path": ["finetooth", "/a b", "/../up", "//host", "https://host/finetooth"],
    "oidc_issuer": ["login.example.org", "ftp://x.org", "http://x.org", "https://me:hunter2@x.org", "https://x.org?a"],
    "oidc_client_id": ["without-an-issuer"],
    "oidc_client_secret": ["hunter2"],
    "oidc_scopes": ["email", "openid-connect"],
    "oidc_label": ["x" * 61],
    "sign_in_proxies": ["10.0.0.1", '"10.0.0.1"', '["proxy"]', "[1, 2]]", '["10.0.0.1/8"]'],
    "proxy_user_header": ["X Forwarded User", "X-User:"],
    "proxy_email_header": ["x" * 61],
    "proxy_groups_header": ["X_Groups"],
    "group_roles": ["reviewers", "[]", '{"a": "owner"}', '{"a": {"default": ["admin"]}}', '{"a": 1}'],
    "default_role": ["owner", "Viewer"],
    "first_admin_email": ["ada"],
    "allowed_hosts": ["localhost", '"localhost"', "[1]", "[", "*", "[" * 100_000],
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FINETOOTH_")]:
        monkeypatch.delenv(name)
    get_settings.cache_clear()


def test_every_setting_is_tried() -> None:
    assert set(BAD) | FOLDERS | TEXTS == set(Settings.model_fields)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_mistake_is_one_line_with_the_variable_and_without_the_value(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = f"FINETOOTH_{name.upper()}"
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadSettingsError) as caught:
        get_settings()
    message = str(caught.value)
    assert variable in message
    assert "\n" not in message
    assert "hunter2" not in message
    assert "pydantic" not in message
    assert "Input should" not in message
    assert len(message) < 200


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(f"FINETOOTH_{name.upper()}", "")
    assert get_settings() == Settings()
    assert get_settings().object_url is None


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_a_folder_that_cannot_be_used_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/finetooth"), tmp_path / ("x" * 300)):
        settings = Settings(**{"data_dir": tmp_path / "data", "cache_dir": tmp_path / "cache", name: path})
        used = {"object_dir": settings.objects, "work_dir": settings.work}.get(name, path)
        with pytest.raises(BadSettingsError, match=f"^FINETOOTH_{name.upper()}: ") as caught:
            ensure_folder(settings, used)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["database_url", "broker_url", "oidc_client_secret", "admin_key"])
def test_secrets_may_lie_in_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"database_url": POSTGRES, "broker_url": BROKER, "oidc_client_secret": "hunter2", "admin_key": new_key()}
    assert set(secret_fields(Settings)) == set(values)
    if name == "oidc_client_secret":
        monkeypatch.setenv("FINETOOTH_OIDC_ISSUER", "https://login.example.org")
        monkeypatch.setenv("FINETOOTH_OIDC_CLIENT_ID", "finetooth")
    variable = f"FINETOOTH_{name.upper()}"
    file = tmp_path / "secret"
    monkeypatch.setenv(f"{variable}_FILE", str(file))
    for content, complaint in ((None, "No such file"), (b"", "empty"), (b"\xff", "no text")):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(BadSettingsError, match=f"^{variable}_FILE: .*{complaint}"):
            get_settings()
    file.write_text(f"{values[name]}\n")
    assert getattr(get_settings(), name).get_secret_value() == values[name]
    get_settings.cache_clear()
    monkeypatch.setenv(variable, values[name])
    with pytest.raises(BadSettingsError, match="not both"):
        get_settings()


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("rediss://:p@h:6379/0", "rediss://:p@h:6379/0?ssl_cert_reqs=required"),
        ("rediss://h?ssl_ca_certs=/ca.pem", "rediss://h?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required"),
        ("rediss://h?ssl_cert_reqs=none", "rediss://h?ssl_cert_reqs=none"),
        ("redis://h/0", "redis://h/0"),
    ],
)
def test_a_broker_over_tls_has_to_show_a_certificate(given: str, used: str) -> None:
    url = Settings(broker_url=given).broker_url  # type: ignore[arg-type]
    assert url is not None
    assert url.get_secret_value() == used


POSTGRES = "postgresql+psycopg://me:hunter2@127.0.0.1:1/none"
BROKER = "redis://:hunter2@127.0.0.1:1/0"
PROGRAMS = {
    "up": [sys.executable, "-c", "from service.cli.app import app; app()", "up", "--port", "0"],
    "audit": [
        sys.executable, "-c", "from service.cli.app import app; app()", "audit", __file__, "--probe", "pack:refusal",
    ],
    "bootstrap": [sys.executable, "-m", "service.bootstrap"],
    "api": [sys.executable, "-m", "uvicorn", "--factory", "service.app:create_app", "--port", "0"],
    "worker": [sys.executable, "-m", "celery", "-A", "worker.celery_app", "worker", "-Q", "io"],
    "health": [sys.executable, "-m", "worker.health"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("program", "variables"),
    [
        *((program, {"FINETOOTH_MAX_UPLOAD_BYTES": "20GB"}) for program in PROGRAMS),
        *((program, {"FINETOOTH_DATABASE_URL": "postgres://me:hunter2@127.0.0.1/x"}) for program in PROGRAMS),
        *((program, {"FINETOOTH_DATABASE_URL": ""}) for program in ("bootstrap", "api", "worker", "health")),
        *((program, {"FINETOOTH_DATABASE_URL": POSTGRES}) for program in ("bootstrap", "up")),
        *((program, {"FINETOOTH_DATA_DIR": "FILE"}) for program in ("up", "audit", "bootstrap", "api", "worker")),
        *((program, {"FINETOOTH_CACHE_DIR": "FILE"}) for program in ("up", "worker")),
        *((program, {"FINETOOTH_WORK_DIR": "/proc/finetooth"}) for program in ("up", "api", "worker")),
        *((program, {"FINETOOTH_OBJECT_DIR": "/proc/finetooth"}) for program in ("up", "api", "worker")),
        ("worker", {"FINETOOTH_BROKER_URL": "amqp://:hunter2@127.0.0.1"}),
    ],
)
def test_whatever_is_started_says_it_in_one_line(program: str, variables: dict[str, str], short_folder: Path) -> None:
    file = short_folder / "file"
    file.touch()
    serves = {"FINETOOTH_DATABASE_URL": POSTGRES, "FINETOOTH_BROKER_URL": BROKER}
    environment = {
        **os.environ,
        "FINETOOTH_DATA_DIR": str(short_folder / "data"),
        "FINETOOTH_CACHE_DIR": str(short_folder / "cache"),
        **({} if program in ("up", "audit") else serves),
        **{name: str(file) if value == "FILE" else value for name, value in variables.items()},
    }
    done = subprocess.run(PROGRAMS[program], env=environment, capture_output=True, text=True, timeout=120)
    said = (done.stdout if program == "health" else "") + done.stderr
    lines = [line for line in said.splitlines() if line.strip()]
    assert done.returncode == 2, said
    assert "Traceback" not in said
    assert next(iter(variables)) in lines[-1]
    assert "hunter2" not in said
