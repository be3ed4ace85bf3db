"""The OpenAPI document, with the problem document among its schemas."""

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from service.http.problems import ProblemDocument


def install_openapi(app: FastAPI) -> None:
    """Makes `app.openapi()` complete: routes declare problems by reference, since they are no JSON of a route's own."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        _, problems = models_json_schema(
            [(ProblemDocument, "serialization")], ref_template="#/components/schemas/{model}"
        )
        document.setdefault("components", {}).setdefault("schemas", {}).update(problems["$defs"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]
