"""Every error as problem details (RFC 9457), whichever layer finds it."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

from app.errors import ServiceError
from app.logs import request_id
from app.schemas import FieldError, Problem, ValidationProblem

UNEXPECTED = "The service failed; its logs say more under this request id."


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


def add_problem_handlers(app: FastAPI) -> None:
    @app.exception_handler(ServiceError)
    async def service_error(_request: Request, error: ServiceError) -> ProblemResponse:
        return problem(error.status, str(error), headers={"Retry-After": "1"} if error.status == 503 else None)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> ProblemResponse:
        match error.status_code:
            case 400:  # FastAPI's answer to a body that no JSON parser can even decode
                return problem(422, "The body is not JSON.", errors=[])
            case 404:
                detail = f"There is nothing at {request.url.path}."
            case 405:
                detail = f"{request.method} is not possible here; see the Allow header."
                return problem(405, detail, headers={"Allow": ", ".join(sorted(_methods(request)))})
            case _:
                detail = str(error.detail)
        return problem(error.status_code, detail, headers=error.headers)

    @app.exception_handler(Exception)
    async def unexpected(_request: Request, _error: Exception) -> ProblemResponse:
        return problem(500, UNEXPECTED)  # the error goes on to the envelope around the app, which logs it

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> ProblemResponse:
        # FastAPI parses a body only if it is declared as JSON: any other one is at this point just text.
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        faults = error.errors()
        if faults[0]["loc"][0] == "body" and media_type != "application/json" and not media_type.endswith("+json"):
            return problem(415, "Send the body as JSON, with the header Content-Type: application/json.")
        # Never the input itself: it may hold a secret, or text that no JSON can carry.
        errors = [FieldError(pointer="/".join(map(str, fault["loc"])), detail=fault["msg"]) for fault in faults]
        return problem(422, "The request does not fit; `errors` says where.", errors=errors)


def _methods(request: Request) -> set[str]:
    """What all routes with the request's path take; the router's own answer names the first one's only."""
    routes = iter_route_contexts(request.app.routes)
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in matching for method in route.methods or ()}
