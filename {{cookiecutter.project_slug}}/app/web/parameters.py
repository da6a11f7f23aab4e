"""Query parameters that a route does not have are refused: a mistyped filter would otherwise return everything."""

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError


async def refuse_unknown_parameters(request: Request) -> None:
    """A dependency of every route but the probes, to which monitors may add what they like."""
    if not request.query_params:
        return
    accepted = [parameter.alias for parameter in request.scope["route"].dependant.query_params]
    unknown = [name for name in request.query_params if name not in accepted]
    if unknown:
        takes = f"This route takes {', '.join(accepted)}" if accepted else "This route takes none"
        raise RequestValidationError([_fault(name, f"Unknown parameter. {takes}.") for name in unknown])


def _fault(name: str, text: str) -> dict[str, Any]:
    return {"type": "extra_forbidden", "loc": ("query", name), "msg": text}
