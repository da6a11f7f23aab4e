"""Every error as problem details (RFC 9457): any code can raise one, and `problem_for` turns it into a response."""

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from mcp_types import INTERNAL_ERROR, INVALID_REQUEST
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

from app.errors import ServiceError
from app.logs import request_id

UNEXPECTED = "Unexpected error; quote this request id when you report it."
INVALID = "Validation failed; see `errors`."
NOT_JSON = "Send the body as JSON, with the header Content-Type: application/json."

REGISTRATION_PATH = "/register"
"""Where MCP clients try to register if they find no OAuth metadata."""

logger = logging.getLogger(__name__)


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = Field(default="about:blank")
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is nothing at /nothing."])
    request_id: str | None = Field(default=None, description="Find it in the logs", examples=["0f8fad5bd9cb469fa165"])


class FieldError(BaseModel):
    pointer: str = Field(description="Where: `body/name`, `query/limit`", examples=["body/name"])
    detail: str = Field(examples=["String should have at least 1 character"])


class ValidationProblem(Problem):
    errors: list[FieldError]


class ProblemResponse(JSONResponse):
    media_type = "application/problem+json"


def problem(
    status: int,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[FieldError] | None = None,
) -> ProblemResponse:
    content = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, request_id=request_id.get())
    if errors is not None:
        content = ValidationProblem(**content.model_dump(), errors=list(errors))
    return ProblemResponse(content.model_dump(), status, headers)


def problem_for(error: Exception) -> ProblemResponse:
    """The response to a request that raised this error. Unexpected errors are logged with their traceback."""
    match error:
        case ServiceError():
            return problem(error.status, str(error), headers={"Retry-After": "1"} if error.status == 503 else None)
        case HTTPException():
            return problem(error.status_code, str(error.detail), headers=error.headers)
        case RequestValidationError():
            # Never the input itself: it may contain a secret, or text that JSON cannot represent.
            faults = error.errors()
            errors = [
                FieldError(pointer="/".join(map(str, fault["loc"])), detail=fault["msg"].removeprefix("Value error, "))
                for fault in faults
            ]
            return problem(422, INVALID, errors=errors)
        case _:
            logger.error("unexpected error", exc_info=error)
            return problem(500, UNEXPECTED)


def for_mcp_clients(answer: ProblemResponse, path: str) -> JSONResponse:
    """Add a JSON-RPC error to the body: otherwise MCP clients would only tell people that there was an error.

    On registering for OAuth, they understand only OAuth's errors.
    """
    content = json.loads(bytes(answer.body))
    if path == REGISTRATION_PATH:
        content |= {"error": "invalid_request", "error_description": content["detail"]}
    else:
        code = INTERNAL_ERROR if answer.status_code >= 500 else INVALID_REQUEST
        content |= {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": content["detail"]}}
    headers = {name: value for name, value in answer.headers.items() if not name.startswith("content-")}
    return JSONResponse(content, answer.status_code, headers)


def add_problem_handlers(app: FastAPI) -> None:
    """Add handlers for errors that FastAPI itself raises, where the answer depends on the request."""

    @app.exception_handler(ServiceError)
    async def service_error(_request: Request, error: ServiceError) -> ProblemResponse:
        return problem_for(error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> ProblemResponse:
        match error.status_code:
            case 400:  # FastAPI's answer to a body that cannot even be decoded
                return problem(422, "The body is not JSON.", errors=[])
            case 404:
                return problem(404, f"There is nothing at {request.url.path}.")
            case 405:
                detail = f"{request.method} is not allowed here; see the Allow header."
                return problem(405, detail, headers={"Allow": ", ".join(sorted(_methods(request)))})
            case _:
                return problem_for(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> ProblemResponse:
        # FastAPI parses a body only if its Content-Type is JSON; any other body arrives here as a string.
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        is_json = media_type == "application/json" or media_type.endswith("+json")
        if error.errors()[0]["loc"][0] == "body" and not is_json:
            return problem(415, NOT_JSON)
        return problem_for(error)


def _methods(request: Request) -> set[str]:
    """The methods of all routes that match the path; the router itself names only those of the first one."""
    routes = iter_route_contexts(request.app.routes)
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in matching for method in route.methods or ()}
