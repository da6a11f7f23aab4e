"""Adds to FastAPI's OpenAPI document what all routes share: authentication and errors."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from app.errors import DatabaseUnavailable
from app.web.authentication import READING_METHODS
from app.web.problems import INVALID, NOT_JSON, UNEXPECTED, Problem, ValidationProblem

Responses = dict[int | str, dict[str, Any]]

REF = "#/components/schemas/{model}"

SECURITY_SCHEMES = {
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}


def error_response(status: int, detail: str) -> Responses:
    """An error for `responses=` of a route or a router, with an example that has this detail."""
    title = HTTPStatus(status).phrase
    example: dict[str, Any] = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "request_id": "7f6e4f0c9d3a4d0f8a2b1c5e6d7f8a9b",
    }
    model: type[Problem] = Problem
    if status == 422:
        model = ValidationProblem
        example["errors"] = [{"pointer": "body/name", "detail": "Field required"}]
    schema = {"$ref": REF.format(model=model.__name__)}
    return {
        status: {"description": title, "content": {"application/problem+json": {"schema": schema, "example": example}}}
    }


UNAUTHORIZED = error_response(401, "This API key is not valid or was revoked; check it, or ask for a new one.")
READ_ONLY = error_response(403, "This API key may only read. Use one that may write.")
TOO_LARGE = error_response(413, "The body is larger than 1048576 bytes.")
NOT_JSON_RESPONSE = error_response(415, NOT_JSON)
INVALID_RESPONSE = error_response(422, INVALID)
FAILURES = {
    **error_response(500, UNEXPECTED),
    **error_response(503, str(DatabaseUnavailable())),
    **error_response(504, "The request timed out after 25 s."),
}


class RestApi(FastAPI):
    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = _document(self)
        return self.openapi_schema


def _document(app: FastAPI) -> dict[str, Any]:
    openapi = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = openapi.setdefault("components", {})
    _, problems = models_json_schema([(ValidationProblem, "validation"), (Problem, "validation")], ref_template=REF)
    components["schemas"] = {**components.get("schemas", {}), **problems["$defs"]}
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    components["securitySchemes"] = SECURITY_SCHEMES
    for operations in openapi["paths"].values():
        for method, operation in operations.items():
            _complete(method.upper(), operation)
    return openapi


def _complete(method: str, operation: dict[str, Any]) -> None:
    responses = {**FAILURES}
    if "probes" not in operation["tags"]:
        operation["security"] = [{name: []} for name in SECURITY_SCHEMES]
        responses |= UNAUTHORIZED
    if method not in READING_METHODS and "403" not in operation["responses"]:
        responses |= READ_ONLY
    if "requestBody" in operation:
        responses |= TOO_LARGE | NOT_JSON_RESPONSE
    if "requestBody" in operation or operation.get("parameters"):
        responses |= INVALID_RESPONSE
    completed = operation["responses"] | {str(status): response for status, response in responses.items()}
    operation["responses"] = dict(sorted(completed.items()))
