"""The routes of features: FastAPI's, except that they reject unknown query parameters.

A mistyped filter would otherwise return everything.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute


class FeatureRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        accepted = [parameter.alias for parameter in self.dependant.query_params]

        async def refuse_unknown_parameters(request: Request) -> Response:
            if unknown := [name for name in request.query_params if name not in accepted]:
                takes = f"This route takes {', '.join(accepted)}" if accepted else "This route takes none"
                raise RequestValidationError([_fault(name, f"Unknown parameter. {takes}.") for name in unknown])
            return await handle(request)

        return refuse_unknown_parameters


class FeatureRouter(APIRouter):
    def __init__(self, **options: Any) -> None:
        # Generated clients use it as the name of the function.
        super().__init__(**options, route_class=FeatureRoute, generate_unique_id_function=lambda route: route.name)


def _fault(name: str, text: str) -> dict[str, Any]:
    return {"type": "extra_forbidden", "loc": ("query", name), "msg": text}
