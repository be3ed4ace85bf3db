"""Models over REST: pinned, in safetensors, and with no code of their own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.store.seed import REGISTERED_MODELS
from service.store.tables import Audit
from tests.support.model_folders import make_model_folder, safetensors

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
    return make_model_folder(tmp_path)


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


@pytest.mark.parametrize("name", ["pytorch_model.bin", "x.PT", "weights.pth", "a.pkl", "a.ckpt", "__0_0.distcp"])
def test_pickles_are_refused(client: TestClient, folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    response = register(client, folder)
    assert (response.status_code, response.json()["code"]) == (422, "model_unsafe")
    assert name in response.json()["detail"]


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("adapter_config.json", b"{}", "model_unsafe", ["adapter", "merge_and_unload"]),
        ("config.json", b"[]", "model_folder_invalid", ["config.json", "damaged"]),
        ("config.json", b'{"a": {"quantization_config": {"bits": 4}}}', "model_folder_invalid", ["quantised", "full"]),
        ("config.json", b'{"quantization_config": {"quant_method": "gptq"}}', "model_folder_invalid", ["quantised"]),
        ("config.json", b'{"transformers_weights": "../other.safetensors"}', "model_unsafe", ["outside"]),
        ("config.json", b'{"transformers_weights": "weights.h5"}', "model_unsafe", ["weights.h5"]),
        ("model.safetensors", b"", "model_folder_invalid", ["model.safetensors", "damaged"]),
        ("model.safetensors", safetensors()[:-3], "model_folder_invalid", ["bytes", "header says"]),
        ("model.safetensors", safetensors(length=9), "model_folder_invalid", ["bytes", "header says"]),
        ("model.safetensors", safetensors(x=None), "model_folder_invalid", ["header"]),
        ("model.safetensors", safetensors()[:20], "model_folder_invalid", ["cut"]),
        ("model.safetensors", b"\xff" * 100, "model_folder_invalid", ["damaged"]),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\nsize 9\n", "model_folder_invalid", ["LFS"]),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(
    client: TestClient, folder: Path, name: str, content: bytes, code: str, words: list[str]
) -> None:
    (folder / name).write_bytes(content)
    response = register(client, folder)
    assert (response.status_code, response.json()["code"]) == (422, code), response.text
    assert all(word in response.json()["detail"] for word in words), response.json()["detail"]


def test_weights_in_several_files(client: TestClient, folder: Path) -> None:
    """All files that the index names have to be there, and in the folder itself."""
    (folder / "model.safetensors").rename(folder / "part-1.safetensors")
    index = folder / "model.safetensors.index.json"

    def registered(**weight_map: str) -> Any:
        index.write_text(json.dumps({"weight_map": weight_map}))
        response = register(client, folder)
        return response.json().get("code"), response.json().get("detail", "")

    code, detail = registered(a="part-1.safetensors", b="part-2.safetensors")
    assert code == "model_folder_invalid"
    assert "part-2.safetensors" in detail
    assert registered(a="part-1.safetensors", b="../part-1.safetensors")[0] == "model_unsafe"
    assert registered(a="part-1.bin")[0] == "model_unsafe"
    assert registered()[0] == "model_folder_invalid"
    assert registered(a="part-1.safetensors")[0] is None
