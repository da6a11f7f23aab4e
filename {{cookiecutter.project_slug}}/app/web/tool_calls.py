"""Answers tool calls directly, as the MCP library does only for the newest revision of the protocol.

For older revisions, which today's clients use, it starts a server with its own streams for each request, which is more
work than most tools do. Anything but a valid tool call is left to the library.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
from mcp.server.connection import Connection
from mcp.server.runner import serve_one
from mcp.server.streamable_http import check_accept_headers
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.jsonrpc_dispatcher import handler_exception_to_error_data
from mcp.shared.message import MessageMetadata, ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import DEFAULT_NEGOTIATED_VERSION, JSONRPCError, JSONRPCRequest, JSONRPCResponse, RequestId
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send


@dataclass
class Exchange:
    """What the library's server sees of a request. It can send nothing but the response, which is one JSON document."""

    request_id: RequestId
    message_metadata: MessageMetadata
    transport: TransportContext
    can_send_request: bool = False
    cancel_requested: anyio.Event = field(default_factory=anyio.Event)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        pass

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        pass


class ToolCalls:
    def __init__(self, manager: StreamableHTTPSessionManager) -> None:
        self._manager = manager

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        headers = request.headers
        version = headers.get("mcp-protocol-version", DEFAULT_NEGOTIATED_VERSION)
        length = headers.get("content-length", "")
        if not (
            version in HANDSHAKE_PROTOCOL_VERSIONS
            and headers.get("content-type") == "application/json"
            and check_accept_headers(request)[0]
            and length.isdecimal()
            and int(length) <= self._manager.max_request_body_size
        ):
            await self._manager.handle_request(scope, receive, send)
            return
        messages: list[Message] = [await receive()]
        while messages[-1].get("more_body"):
            messages.append(await receive())
        call = _call_in(b"".join(message.get("body", b"") for message in messages))
        if call is not None:
            await (await self._answer(call, version, request))(scope, receive, send)
            return

        async def receive_again() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._manager.handle_request(scope, receive_again, send)

    async def _answer(self, call: JSONRPCRequest, version: str, request: Request) -> Response:
        exchange = Exchange(
            call.id,
            ServerMessageMetadata(request_context=request),
            TransportContext(kind="streamable-http", can_send_request=False),
        )
        connection = Connection.from_envelope(version, None, None)
        answer: JSONRPCResponse | JSONRPCError
        try:
            result = await serve_one(
                self._manager.app, exchange, call.method, call.params, connection=connection, lifespan_state={}
            )
            answer = JSONRPCResponse(jsonrpc="2.0", id=call.id, result=result)
        except Exception as error:
            data = handler_exception_to_error_data(error)
            if data is None:
                raise
            answer = JSONRPCError(jsonrpc="2.0", id=call.id, error=data)
        return Response(answer.model_dump_json(by_alias=True, exclude_unset=True), media_type="application/json")


def _call_in(body: bytes) -> JSONRPCRequest | None:
    try:
        request = JSONRPCRequest.model_validate_json(body, by_name=False)
    except ValidationError:
        return None
    return request if request.method == "tools/call" else None
