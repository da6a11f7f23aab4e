"""Adds to FastAPI's OpenAPI document what the layers around the routes do: authentication and errors."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.problems import UNEXPECTED
from app.schemas import Problem, ValidationProblem

REF = "#/components/schemas/{model}"

DETAILS = {
    401: "This API key is not valid or was revoked.",
    403: "This needs the admin key, not a service key.",
    404: "There is no task 42.",
    413: "The body is larger than 1048576 bytes.",
    415: "Send the body as JSON, with the header Content-Type: application/json.",
    422: "The request does not fit; `errors` says where.",
    500: UNEXPECTED,
    503: "Connection refused",
    504: "The request took longer than 25 s and was given up.",
}

SECURITY_SCHEMES = {
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}


def describe(app: FastAPI) -> None:
    """Make `app.openapi()`, and so `/docs` and `/redoc`, show the completed document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    openapi = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = openapi.setdefault("components", {})
    _, problems = models_json_schema([(ValidationProblem, "validation"), (Problem, "validation")], ref_template=REF)
    components["schemas"] = {**components.get("schemas", {}), **problems["$defs"]}
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    components["securitySchemes"] = SECURITY_SCHEMES
    for path, operations in openapi["paths"].items():
        for operation in operations.values():
            _complete(operation, needs_key="probes" not in operation["tags"], is_admin_door=path.startswith("/admin"))
    return openapi


def _complete(operation: dict[str, Any], *, needs_key: bool, is_admin_door: bool) -> None:
    details = dict(DETAILS)
    statuses = {500, 503, 504}
    if conflict := operation["responses"].get("409"):
        statuses.add(409)
        details[409] = conflict["description"]
    if needs_key:
        operation["security"] = [{name: []} for name in SECURITY_SCHEMES]
        statuses |= {401, 403} if is_admin_door else {401}
    parameters = operation.get("parameters", [])
    if any(parameter["in"] == "path" for parameter in parameters):
        statuses.add(404)
    if "requestBody" in operation:
        statuses |= {413, 415}
    if parameters or "requestBody" in operation:
        statuses.add(422)
    for status in sorted(statuses):
        operation["responses"][str(status)] = _response(status, details[status])


def _response(status: int, detail: str) -> dict[str, Any]:
    title = HTTPStatus(status).phrase
    example: dict[str, Any] = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "request_id": "7f6e4f0c9d3a4d0f8a2b1c5e6d7f8a9b",
    }
    model: type[BaseModel] = Problem
    if status == 422:
        model = ValidationProblem
        example["errors"] = [{"pointer": "body/title", "detail": "Field required"}]
    schema = {"$ref": REF.format(model=model.__name__)}
    return {"description": title, "content": {"application/problem+json": {"schema": schema, "example": example}}}
