"""The OpenAPI document: what FastAPI knows of the routes, and what follows from them.

The problems that a route can answer with (service.http.problems.codes), the scope that it needs, and the links from
what creates a resource to what takes its id are derived from the route. Examples of bodies are in examples.json, by the
schema's name.
"""

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext, iter_route_contexts
from pydantic.json_schema import models_json_schema

from service.http.auth.authentication import SAFE_METHODS, RequireScope
from service.http.dependencies import _objects, _rows
from service.http.idempotency import Idempotent, streamed_key
from service.http.middleware.edge import HEALTH_PATHS
from service.http.problems.codes import PROBLEM_CODES, title_of
from service.http.problems.problem import MEDIA_TYPE, ProblemDocument

Json = dict[str, Any]

CODES_KEY = "x-problem-codes"
"""The key under which a response lists the codes of its problem documents."""

PAGE_OF = "Page_"
"""How FastAPI begins the name of a page's schema; the item's follows."""


def install_openapi(app: FastAPI, root: str) -> None:
    """Make `app.openapi()` return the complete document, which is built once.

    Args:
        app: The application with all its routes.
        root: The path before every path, such as `/finetooth`; empty at the root of a host.
    """
    generate = app.openapi

    @cache
    def openapi() -> Json:
        document = generate()
        if root:
            document["servers"] = [{"url": root}]
        components = document.setdefault("components", {})
        # Routes declare problems by reference, since they are not the JSON of one route.
        _, problems = models_json_schema(
            [(ProblemDocument, "serialization")], ref_template="#/components/schemas/{model}"
        )
        components.setdefault("schemas", {}).update(problems["$defs"])
        components["examples"] = {f"problem_{code}": _problem_example(code) for code in PROBLEM_CODES}
        for context in iter_route_contexts(app.routes):
            for method in context.methods or ():
                operation = document["paths"].get(context.path, {}).get(method.lower())
                if operation is not None:
                    _complete(operation, method, context)
        _link(document)
        _drop_unused(components, document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def dependencies(dependant: Dependant) -> Iterator[object]:
    """Yield every dependency of a route, in the order in which they are called."""
    for child in dependant.dependencies:
        yield child.call
        yield from dependencies(child)


def _complete(operation: Json, method: str, context: RouteContext) -> None:
    operation["summary"] = operation["operationId"].replace("_", " ").capitalize()
    guards = [call for call in dependencies(context.dependant) if isinstance(call, RequireScope)]
    for guard in guards:
        if guard.scope is not None:
            operation["x-required-scope"] = guard.scope
            whose = " and a key of the installation's first workspace" if guard.installation else ""
            operation["description"] += f"\n\nNeeds the scope `{guard.scope}`{whose}."
    responses = operation["responses"]
    declared = [(int(status), code) for status, answer in responses.items() for code in answer.get(CODES_KEY, ())]
    codes: dict[int, list[str]] = {int(status): [] for status in responses if int(status) >= 400}
    for status, code in [*_derived(operation, method, context), *declared]:
        codes.setdefault(status, []).append(code)
    for status, found in sorted(codes.items()):
        responses[str(status)] = _problem_response(status, found)
    operation["responses"] = dict(sorted(responses.items()))
    _add_examples(operation)


def _derived(operation: Json, method: str, context: RouteContext) -> Iterator[tuple[int, str]]:
    """Yield status and code of the problems that follow from what the route is."""
    calls = list(dependencies(context.dependant))
    guards = [call for call in calls if isinstance(call, RequireScope)]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    json_body = body is not None and body["schema"].get("format") != "binary"
    parameters = {parameter["name"] for parameter in operation.get("parameters", ())}
    yield 400, "nul_in_address"
    if context.path not in HEALTH_PATHS:
        yield 400, "host_not_allowed"
    if guards:
        for code in ("unauthenticated", "key_malformed", "key_invalid", "key_expired", "session_ended"):
            yield 401, code
        if method not in SAFE_METHODS:
            yield 403, "cross_site"
    if any(guard.scope is not None for guard in guards):
        yield 403, "scope_missing"
    if streamed_key in calls or any(isinstance(call, Idempotent) for call in calls):
        yield 409, "idempotency_key_in_use"
        yield 409, "idempotency_quota"
        yield 422, "idempotency_key_reused"
    if any(guard.installation for guard in guards):
        yield 403, "installation_admin_only"
    for name in sorted(parameters):
        kind, _, tail = name.rpartition("_")
        if tail == "id" and f"{kind}_not_found" in PROBLEM_CODES:
            yield 404, f"{kind}_not_found"
    if json_body:
        yield 400, "bad_request"
        yield 400, "malformed_json"
        yield 408, "body_stalled"
        yield 413, "body_too_large"
        yield 415, "unsupported_media_type"
    if parameters or json_body:
        yield 422, "invalid_request"
        yield 422, "unstorable_value"
    if "pack_name" in parameters:
        yield 404, "probe_pack_not_found"
    if "after" in parameters:
        yield 422, "invalid_cursor"
    yield 500, "internal_error"
    if guards or calls:
        yield 503, "database_busy"
        yield 503, "database_unavailable"
    if _objects in calls or _rows in calls:
        yield 500, "object_missing"
        yield 503, "object_store_unavailable"


def _problem_response(status: int, codes: list[str]) -> Json:
    codes = sorted(set(codes))
    return {
        "description": title_of(status),
        CODES_KEY: codes,
        "content": {
            MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/ProblemDocument"},
                "examples": {code: {"$ref": f"#/components/examples/problem_{code}"} for code in codes},
            }
        },
    }


def _problem_example(code: str) -> Json:
    status, when = PROBLEM_CODES[code].statuses[0], PROBLEM_CODES[code].when
    return {
        "summary": when,
        "value": {
            "type": f"urn:finetooth:problem:{code}",
            "title": title_of(status),
            "status": status,
            "detail": "What happened, and what to do next.",
            "instance": "/v1/...",
            "code": code,
            "request_id": "req_019a2b3c4d5e6f708192a3b4c5d6e7f8",
            "errors": [],
        },
    }


@cache
def examples() -> Json:
    """Return the example of a body for each schema, by its name."""
    found: Json = json.loads(files("service.http").joinpath("examples.json").read_text())
    return found


def _add_examples(operation: Json) -> None:
    bodies = [operation.get("requestBody", {})]
    bodies += [answer for status, answer in operation["responses"].items() if int(status) < 400]
    for body in bodies:
        for media_type, content in body.get("content", {}).items():
            if media_type != "application/json" or "schema" not in content:
                continue
            named = [(name, _example(name)) for name in _schema_names(content["schema"])]
            known = {name: {"value": value} for name, value in named if value is not None}
            if known:
                content["examples"] = known


def _schema_names(schema: Json) -> Iterator[str]:
    """Yield the name of the schema itself, or of its alternatives."""
    if "$ref" in schema:
        yield schema["$ref"].rpartition("/")[2]
    for alternative in [*schema.get("oneOf", ()), *schema.get("anyOf", ())]:
        yield from _schema_names(alternative)


def _example(name: str) -> Any:
    if name.startswith(PAGE_OF):
        item = examples().get(name.removeprefix(PAGE_OF).strip("_"))
        return None if item is None else {"object": "list", "data": [item], "has_more": False, "next_after": None}
    return examples().get(name)


def _link(document: Json) -> None:
    """Link the answer that creates a resource to every operation that takes its id."""
    for path, methods in document["paths"].items():
        made = methods.get("post", {}).get("responses", {})
        answer = made.get("201") or made.get("202")
        if answer is None or "{" in path or not answer.get("content"):
            continue
        for other, operations in document["paths"].items():
            head, _, tail = other.removeprefix(path + "/").partition("}")
            if not other.startswith(path + "/{") or "{" in tail:
                continue
            for operation in operations.values():
                answer.setdefault("links", {})[operation["operationId"]] = {
                    "operationId": operation["operationId"],
                    "parameters": {head.removeprefix("{"): "$response.body#/id"},
                }


def _drop_unused(components: Json, document: Json) -> None:
    """Remove FastAPI's own schema of a validation error, which no route answers with, and examples that none shows."""
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    used = json.dumps(document["paths"])
    components["examples"] = {name: example for name, example in components["examples"].items() if f"/{name}" in used}
