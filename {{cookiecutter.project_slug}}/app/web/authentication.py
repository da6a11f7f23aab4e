"""Lets nobody in without an API key or an access token, on both ports, and nobody write who may only read."""

import hmac
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, Protocol

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import NotFound
from app.logs import request_notes

READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Caller:
    name: str
    """Whose key it is, or the subject of the token."""
    credential: Literal["API key", "access token"]
    may_write: bool


current_caller: ContextVar[Caller] = ContextVar("current_caller")
"""Who sent the request that is being answered."""


class InvalidCredential(Exception):
    """Answered with 401; the text is written for the caller."""


class Verifier(Protocol):
    async def verify(self, credential: str) -> Caller:
        """Whose credential this is.

        Raises: InvalidCredential.
        """


class AuthenticationMiddleware:
    """401 unless the request carries a service key, or the admin key below `admin_path`; 403 if it may not do this.

    `checks_methods` says that the method tells whether a request writes, as in REST. Over MCP each tool does.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Verifier,
        *,
        public_paths: frozenset[str],
        checks_methods: bool,
        admin_path: str | None = None,
        admin_key: str | None = None,
    ) -> None:
        self._app = app
        self._keys = keys
        self._public_paths = public_paths
        self._checks_methods = checks_methods
        self._admin_path = admin_path
        self._admin_key = admin_key.encode() if admin_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._public_paths:
            await self._app(scope, receive, send)
            return
        credential = credential_of(Headers(scope=scope))
        if self._admin_path and f"{scope['path']}/".startswith(f"{self._admin_path}/"):
            await self._check_admin(credential)
            await self._app(scope, receive, send)
            return
        caller = await self._identify(credential, scope["path"])
        request_notes.get({}).update({"caller": caller.name, "credential": caller.credential})
        if self._checks_methods and scope["method"] not in READING_METHODS and not caller.may_write:
            raise HTTPException(403, f"This {caller.credential} may only read. Use one that may write.")
        token = current_caller.set(caller)
        try:
            await self._app(scope, receive, send)
        finally:
            current_caller.reset(token)

    async def _identify(self, credential: str | None, path: str) -> Caller:
        if credential is None:
            if path.startswith("/.well-known/") or path == "/register":
                # Clients that find a 401 here begin a discovery of OAuth that leads nowhere.
                raise NotFound(f"There is nothing at {path}.")
            raise unauthorized("Send an API key as `X-API-Key: KEY` or `Authorization: Bearer KEY`.")
        try:
            return await self._keys.verify(credential)
        except InvalidCredential as error:
            raise unauthorized(str(error)) from None

    async def _check_admin(self, key: str | None) -> None:
        if self._admin_key is None:
            raise HTTPException(403, "Admin endpoints are disabled: ADMIN_API_KEY is not set.")
        if key is None:
            raise unauthorized("Send the admin key as `X-API-Key: KEY` or `Authorization: Bearer KEY`.")
        if not hmac.compare_digest(key.encode(), self._admin_key):
            try:
                await self._keys.verify(key)
            except InvalidCredential:
                raise unauthorized("This is not the admin key.") from None
            raise HTTPException(403, "This needs the admin key, not a service key.")
        request_notes.get({}).update({"credential": "admin key"})


def unauthorized(detail: str) -> HTTPException:
    return HTTPException(401, detail, headers={"WWW-Authenticate": "Bearer"})


def credential_of(headers: Headers) -> str | None:
    if (key := headers.get("x-api-key")) is not None:
        return key.strip()
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else None
