"""Models over REST: pinned, in safetensors, and with no code of their own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.store.seed import REGISTERED_MODELS
from service.store.tables import Audit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = {"name": "my-model", "source": "hub", "location": "owner/model", "revision": COMMIT}
BUNDLED = next(model for model in REGISTERED_MODELS if model["source"] == "bundled")


def test_the_registered_models_are_there(client: TestClient) -> None:
    names = {model["name"] for model in client.get("/v1/models").json()["data"]}
    assert names == {"llama-3.1-8b", "smollm2-135m-instruct"}


def test_a_hub_model(client: TestClient) -> None:
    response = client.post("/v1/models", json=HUB)
    assert response.status_code == 201
    made = response.json()
    assert {name: made[name] for name in HUB} == HUB
    assert response.headers["location"] == f"/v1/models/{made['id']}"
    assert client.get(f"/v1/models/{made['id']}").json() == made
    assert client.get("/v1/models/my-model").json() == made
    response = client.post("/v1/models", json=HUB)
    assert (response.status_code, response.json()["code"]) == (409, "model_name_taken")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"revision": None}, "model_invalid"),
        ({"revision": "main"}, "model_invalid"),
        ({"revision": COMMIT[:-1]}, "model_invalid"),
        ({"revision": COMMIT + "\n"}, "model_invalid"),
        ({"location": "model"}, "model_invalid"),
        ({"location": "../model"}, "model_invalid"),
        ({"location": "owner/../model"}, "model_invalid"),
        ({"location": "https://evil.example/owner/model"}, "model_invalid"),
        ({"location": "owner/model?x"}, "model_invalid"),
        ({"source": "bundled"}, "model_invalid"),
        ({"source": "bundled", "location": BUNDLED["location"]}, "model_invalid"),
        ({"source": "local", "location": "/nonexistent", "revision": None}, "model_folder_invalid"),
        ({"source": "local", "location": "relative", "revision": None}, "model_folder_invalid"),
        ({"source": "local", "location": "/tmp/../tmp", "revision": None}, "model_folder_invalid"),
        ({"source": "local", "location": "/tmp"}, "model_invalid"),
        ({"source": "pickle"}, "invalid_request"),
        ({"name": "My Model"}, "invalid_request"),
        ({"name": "mdl_x"}, "invalid_request"),
        ({"name": ""}, "invalid_request"),
        ({"location": "a\0b"}, "invalid_request"),
        ({"trust_remote_code": True}, "invalid_request"),
    ],
)
def test_what_may_not_be_registered(client: TestClient, change: dict[str, Any], code: str) -> None:
    response = client.post("/v1/models", json={**HUB, **change})
    assert (response.status_code, response.json()["code"]) == (422, code), response.text
    assert len(client.get("/v1/models").json()["data"]) == len(REGISTERED_MODELS)


def test_the_bundled_model_by_its_hash(client: TestClient) -> None:
    body = {**BUNDLED, "name": "demo"}
    assert client.post("/v1/models", json=body).status_code == 201


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    return tmp_path


def test_a_folder_is_for_admins_of_the_installation(
    make_client: Callable[..., TestClient], other_workspace_id: str, folder: Path
) -> None:
    """Else a tenant could look around on the server's disk."""
    tenant = make_client("admin", workspace=other_workspace_id)
    for location in (folder, "/nonexistent"):
        response = register(tenant, Path(location))
        assert (response.status_code, response.json()["code"]) == (403, "installation_admin_only")
    assert tenant.post("/v1/models", json=HUB).status_code == 201


def test_deleting(client: TestClient, make_audit: Callable[[], Audit], folder: Path) -> None:
    made = client.post("/v1/models", json=HUB).json()
    assert client.delete(f"/v1/models/{made['id']}").status_code == 204
    for response in (client.delete(f"/v1/models/{made['id']}"), client.get("/v1/models/my-model")):
        assert (response.status_code, response.json()["code"]) == (404, "model_not_found")
    assert register(client, folder).status_code == 201
    assert client.delete("/v1/models/mine").status_code == 204
    assert (folder / "model.safetensors").exists()
    used = make_audit().model_id
    response = client.delete(f"/v1/models/{used}")
    assert (response.status_code, response.json()["code"]) == (409, "model_in_use")
    assert client.get(f"/v1/models/{used}").status_code == 200


def register(client: TestClient, folder: Path) -> Any:
    return client.post("/v1/models", json={"name": "mine", "source": "local", "location": str(folder)})


def test_a_local_folder(client: TestClient, folder: Path) -> None:
    assert register(client, folder).status_code == 201


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_that_is_no_model(client: TestClient, folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    response = register(client, folder)
    assert (response.status_code, response.json()["code"]) == (422, "model_folder_invalid")
    assert missing.rpartition(".")[2] in response.json()["detail"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "x.PT", "weights.pth", "a.pkl", "a.ckpt"])
def test_pickles_are_refused(client: TestClient, folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    response = register(client, folder)
    assert (response.status_code, response.json()["code"]) == (422, "model_unsafe")
    assert name in response.json()["detail"]
