"""The service against its own OpenAPI document: Schemathesis makes requests from it, good and bad, and chains of them.

All of its checks are on, and one of our own on problem codes. The application is the real one, on a port, with a real
Postgres; a dataset and an audit that has succeeded are there to be found.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from service.client import Client
from service.contract.spec import TrainingConfig
from service.lifecycle.audits import create_audit, publish
from service.lifecycle.jobs import claim
from service.settings import Settings
from service.store.score_lists import add_lists
from tests.support.builders import add_model, add_probe, summary_of
from tests.support.live_api import LiveApi, live_api

HOOKS = Path(__file__).parents[1] / "support" / "schemathesis_hooks.py"

FITTING_REFUSED = {
    "create_key": "whether a key has expired already depends on the time",
    "create_workspace_key": "likewise",
    "list_findings": "how many probes there are depends on the audit",
    "update_view": "which fields an address of findings may have, and which values, is not a matter of its form",
    "create_upload": "the tus protocol wants headers with certain values, of a version that is spoken here",
}
"""Operations that may refuse as `invalid_request` what fits their schema. Beside them those that declare a code of
their own with status 422 may: an id that does not exist, a cursor that no page gave, a file that is no dataset."""


@pytest.fixture
def api(settings: Settings) -> Iterator[LiveApi]:
    with live_api(settings) as api:
        yield api


@pytest.fixture
def config(api: LiveApi, sessions: sessionmaker[Session], tmp_path: Path) -> Path:
    """Schemathesis' settings, which know ids that exist."""
    file = tmp_path / "dataset.jsonl"
    file.write_text("".join(f'{{"prompt": "Question {n}?", "completion": "{n}."}}\n' for n in range(40)))
    with Client(api.url, api.key) as client:
        dataset_id = client.upload_dataset(file)["id"]
        document = client._send("GET", "/openapi.json")
    with sessions.begin() as session:
        probe_id, model_id = add_probe(session, api.workspace_id), add_model(session, api.workspace_id)
        audit = create_audit(
            session,
            workspace_id=api.workspace_id,
            dataset_id=dataset_id,
            probe_ids=[probe_id],
            model_id=model_id,
            training=TrainingConfig(),
            q=0.05,
        )
        held = claim(session, lane="gpu", owner="w")
        assert held is not None
        add_lists(session, audit_id=audit.id, attempt=held.attempt, probes=1)
        assert publish(session, held, summary_of())
        known = {
            "audit_id": audit.id,
            "dataset_id": dataset_id,
            "probe_id": probe_id,
            "model_id": model_id,
            "workspace_id": api.workspace_id,
            "pack_name": "refusal",
        }
    lines = [f'hooks = "{HOOKS}"', "[phases.coverage]", 'unexpected-methods = ["PUT", "TRACE"]']
    for name, value in known.items():
        lines += [f"[dictionaries.{name}]", f'values = ["{value}"]']
    lines.append("[parameters]")
    lines += [f'"path.{name}" = {{ dictionary = "{name}", probability = 0.5 }}' for name in known]
    for operation in may_refuse_what_fits(document):
        lines += [
            "[[operations]]",
            f'include-operation-id = "{operation}"',
            "[operations.checks.positive_data_acceptance]",
            'expected-statuses = ["2xx", "3xx", "401", "403", "404", "409", "412", "415", "422", "503"]',
        ]
    # A key that was revoked stays to be seen; that it no longer works is tested with the keys.
    lines += [
        "[[operations]]",
        'include-operation-id = "get_key"',
        "[operations.checks.use_after_free]",
        "enabled = false",
    ]
    path = tmp_path / "schemathesis.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def may_refuse_what_fits(document: dict) -> set[str]:
    found = set(FITTING_REFUSED)
    for methods in document["paths"].values():
        for operation in methods.values():
            codes = operation["responses"].get("422", {}).get("x-problem-codes", [])
            if set(codes) - {"invalid_request", "unstorable_value"}:
                found.add(operation["operationId"])
    return found


def run(api: LiveApi, config: Path, *options: str) -> None:
    with Client(api.url, api.key) as client:
        key_id = next(client.keys())["id"]
    result = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{api.url}/openapi.json"),
            # Without --checks, which would turn on again what is off for one operation; all are on by default.
            *("--header", f"Authorization: Bearer {api.key}", "--no-color"),
            *("--continue-on-failure", "--generation-deterministic", "--warnings", "off", *options),
        ],
        cwd=config.parent,
        env=os.environ | {"NO_PROXY": "127.0.0.1", "OWN_KEY_ID": key_id},
        capture_output=True,
        text=True,
    )
    print(result.stdout)
    assert result.returncode == 0, result.stderr
    with Client(api.url, api.key) as client:  # from the end of its key on it would have tested nothing
        assert next(client.models())


def test_the_service_does_as_its_document_says(api: LiveApi, config: Path) -> None:
    run(api, config, "--phases", "examples,coverage,stateful", "--max-examples", "8")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_service_does_as_its_document_says_at_length(api: LiveApi, config: Path) -> None:
    run(api, config, "--max-examples", "60")
