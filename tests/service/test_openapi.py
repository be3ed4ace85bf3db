"""The OpenAPI document is complete, true, and the committed copy is the code's."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from service.app import create_app
from service.http.openapi import examples
from service.http.problems.codes import PROBLEM_CODES
from service.settings import Settings

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import openapi as renewal  # noqa: E402

Json = dict[str, Any]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Json:
    url = SecretStr("postgresql+psycopg://nobody@127.0.0.1:1/none")  # never connected to
    found: Json = create_app(Settings(database_url=url, data_dir=tmp_path_factory.mktemp("data"))).openapi()
    return found


def operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def bodies(document: Json) -> Iterator[tuple[str, Json]]:
    """Every JSON body of a request, and of an answer that is no problem, but for /openapi.json's own."""
    for place, operation in operations(document):
        answers = [answer for status, answer in operation["responses"].items() if int(status) < 400]
        for body in [operation.get("requestBody", {}), *answers]:
            content = body.get("content", {}).get("application/json", {})
            # A file that happens to be JSON has no shape of ours.
            if content.get("schema", {"format": "binary"}).get("format") != "binary" and place != "GET /openapi.json":
                yield place, content


def test_the_copies_in_docs_are_the_codes_own() -> None:
    """After a change of a route: `make openapi`."""
    assert (ROOT / "docs" / "openapi.json").read_text() == renewal.document(), "run `make openapi`"
    api = (ROOT / "docs" / "api.md").read_text()
    assert api == renewal.with_problem_codes(api), "run `make openapi`"


def test_every_operation_is_described(document: Json) -> None:
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(ids) == len(set(ids)) > 35
    for place, operation in operations(document):
        assert len(operation["description"]) > 10, place
        assert operation["summary"], place
        assert operation["tags"], place
        for parameter in operation.get("parameters", ()):
            assert parameter.get("description"), (place, parameter["name"])


def test_every_body_has_an_example_that_fits_its_schema(document: Json) -> None:
    seen = 0
    for place, content in bodies(document):
        assert content.get("examples"), f"{place}: add an example to service/http/examples.json"
        schema = {**content["schema"], "components": document["components"]}
        validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
        for example in content["examples"].values():
            errors = [
                f"{'/'.join(map(str, error.instance_path))}: {error.message}"
                for error in validator.iter_errors(example["value"])
            ]
            assert not errors, (place, errors)
            seen += 1
    assert seen > 40


def test_no_example_is_left_over(document: Json) -> None:
    shown = json.dumps([content["examples"] for _, content in bodies(document)])
    unused = [name for name, example in examples().items() if json.dumps(example) not in shown]
    assert not unused


def test_every_problem_is_declared_with_codes_of_its_status(document: Json) -> None:
    reference = {"$ref": "#/components/schemas/ProblemDocument"}
    seen = set()
    for place, operation in operations(document):
        for status, answer in operation["responses"].items():
            if int(status) < 400:
                continue
            codes = answer["x-problem-codes"]
            assert codes, f"{place} {status}: name the codes in declared_problems(...)"
            content = answer["content"]["application/problem+json"]
            assert content["schema"] == reference
            assert list(content["examples"]) == codes
            for code in codes:
                assert int(status) in PROBLEM_CODES[code].statuses, (place, status, code)
                example = document["components"]["examples"][f"problem_{code}"]["value"]
                assert example["code"] == code
            seen |= set(codes)
    anywhere = {"not_found", "method_not_allowed"}
    of_pages = {"sign_in_link_invalid"}
    assert seen == set(PROBLEM_CODES) - anywhere - of_pages, "codes that no route declares, or the other way round"


def test_security_is_declared(document: Json) -> None:
    assert set(document["components"]["securitySchemes"]) == {"key", "session"}
    for place, operation in operations(document):
        public = place.split(" ")[1] in {"/healthz", "/readyz", "/sign-out"}
        assert operation.get("security") == (None if public else [{"key": []}, {"session": []}]), place
        assert ("401" in operation["responses"]) is not public, place
        if "x-required-scope" in operation:
            assert operation["x-required-scope"] in operation["description"]
            assert "scope_missing" in operation["responses"]["403"]["x-problem-codes"]


def test_links_lead_from_what_is_made_to_what_takes_its_id(document: Json) -> None:
    made = document["paths"]["/v1/audits"]["post"]["responses"]["202"]["links"]
    assert made["cancel_audit"] == {"operationId": "cancel_audit", "parameters": {"audit_id": "$response.body#/id"}}
    for collection, status in [("keys", "201"), ("probes", "201"), ("models", "201"), ("workspaces", "201")]:
        assert document["paths"][f"/v1/{collection}"]["post"]["responses"][status]["links"]


def test_the_service_serves_this_document(client: TestClient, document: Json) -> None:
    assert client.get("/openapi.json").json() == json.loads(json.dumps(document))
