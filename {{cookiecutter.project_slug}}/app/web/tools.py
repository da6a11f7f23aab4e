"""Tools for AI assistants: their annotations, short results and error messages."""

import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp_types import CallToolResult, InputRequiredResult, Tool, ToolAnnotations
from pydantic import BaseModel, Field, ValidationError

from app.errors import ServiceError
from app.logs import request_notes
from app.web.authentication import current_caller
from app.web.metrics import TOOL_CALLS, TOOL_DURATION

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
SETS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
REPLACES = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)

_NOTHING = object()
_VALUES = frozenset({"const", "default", "enum", "examples"})

NOT_SENT: Any = Field(default_factory=lambda: _NOTHING)
"""Default of an argument for which leaving it out differs from null."""


def sent(**arguments: Any) -> dict[str, Any]:
    """The arguments that the caller sent."""
    return {name: value for name, value in arguments.items() if value is not _NOTHING}


def compact(model: BaseModel, **options: Any) -> str:
    """The model as JSON without white space and null fields; `options` are those of `model_dump_json`."""
    return model.model_dump_json(exclude_none=True, **options)


class ToolServer(MCPServer):
    """An MCP server whose tools return text, reject unknown arguments, and explain their errors.

    A caller that may not write sees, and can call, only the tools that are declared as `READS`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._arguments: dict[str, list[str]] = {}

    def add_tool(self, fn: Callable[..., Any], name: str | None = None, *args: Any, **options: Any) -> None:
        options["description"] = options.get("description") or inspect.getdoc(fn)  # removes the indentation
        super().add_tool(fn, name, *args, **options | {"structured_output": False})
        self._arguments[name or fn.__name__] = list(inspect.signature(fn).parameters)

    async def list_tools(self) -> list[Tool]:
        return [
            tool.model_copy(update={"input_schema": _without_titles(tool.input_schema)})
            for tool in await super().list_tools()
            if _only_reads(tool) or current_caller.get().may_write
        ]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        known = name in self._arguments
        label = name if known else "unknown"
        outcome = "failed"
        started = time.perf_counter()
        try:
            await self._refuse_tool(name)
            self._refuse_arguments(name, arguments)
            result = await super().call_tool(name, arguments, context)
            outcome = "succeeded"
            return result
        except ToolError as error:
            cause = error.__cause__
            if isinstance(cause, ValidationError):
                outcome = "refused"
                raise ToolError(explain(cause)) from None
            if isinstance(cause, ServiceError):
                outcome = "failed" if cause.status >= 500 else "refused"
                raise ToolError(str(cause)) from None
            if isinstance(error, UnexpectedToolError):
                raise
            outcome = "refused"
            raise
        finally:
            TOOL_CALLS.labels(label, outcome).inc()
            TOOL_DURATION.labels(label).observe(time.perf_counter() - started)
            request_notes.get({}).update(tool=label, outcome=outcome)

    async def _refuse_tool(self, name: str) -> None:
        caller = current_caller.get()
        if caller.may_write and name in self._arguments:
            return
        allowed = [tool.name for tool in await self.list_tools()]
        if name not in self._arguments:
            raise ToolError(f"There is no tool {name!r}. The tools are: {', '.join(allowed)}.")
        if name not in allowed:
            raise ToolError(
                f"{name} changes data, and this {caller.credential} may only read. Tell the user that it needs one that"
                f" may write. It may use: {', '.join(allowed) or 'no tool'}."
            )

    def _refuse_arguments(self, name: str, arguments: Mapping[str, Any]) -> None:
        accepted = self._arguments[name]
        if unknown := [argument for argument in arguments if argument not in accepted]:
            raise ToolError(
                f"{name} has no argument {', '.join(map(repr, unknown))}. It takes: {', '.join(accepted) or 'none'}."
            )


def _only_reads(tool: Tool) -> bool:
    return tool.annotations is not None and tool.annotations.read_only_hint is True


def _without_titles(schema: Any) -> Any:
    """Remove titles: Pydantic repeats each argument's name as its title, which would cost assistants tokens."""
    if isinstance(schema, list):
        return [_without_titles(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: value if name in _VALUES else _without_titles(value)
        for name, value in schema.items()
        if name != "title" or not isinstance(value, str)
    }


def explain(error: ValidationError) -> str:
    """What is wrong with the arguments, one line for each."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return "\n".join(
        f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}" for fault in faults
    )
