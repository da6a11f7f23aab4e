"""Requires an API key or an access token on both ports, and rejects writes by callers who may only read."""

import hmac
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, Protocol

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import NotFound
from app.logs import request_notes
from app.web.problems import REGISTRATION_PATH

READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
AUTHORIZATION_SERVER = frozenset({"/authorize", REGISTRATION_PATH, "/token"})
"""Paths that clients try at an authorization server that publishes no metadata."""

AS_HEADER = "as `X-API-Key: KEY` or `Authorization: Bearer KEY`"


@dataclass(frozen=True)
class Caller:
    name: str
    """The name of the key, or the subject of the token."""
    credential: Literal["API key", "access token"]
    may_write: bool


current_caller: ContextVar[Caller] = ContextVar("current_caller")
"""Who sent the current request."""


class InvalidCredential(Exception):
    """Becomes a 401; the text is meant for the caller."""


class InsufficientScope(Exception):
    """Becomes a 403; the text is meant for the caller."""

    def __init__(self, text: str, scope: str) -> None:
        super().__init__(text)
        self.scope = scope


class Verifier(Protocol):
    async def verify(self, credential: str) -> Caller:
        """Return the caller whose credential this is.

        Raises: InvalidCredential, InsufficientScope.
        """


class AuthenticationMiddleware:
    """401 unless the request carries a service key, or the admin key below `admin_path`; 403 if it is not permitted.

    With `tokens`, access tokens are accepted as well, and `challenge` tells clients how to get one. With
    `checks_methods`, the HTTP method determines whether a request writes, as in REST. In MCP, that depends on the tool.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Verifier,
        tokens: Verifier | None = None,
        *,
        challenge: Mapping[str, str] | None = None,
        public_paths: frozenset[str],
        checks_methods: bool,
        admin_path: str | None = None,
        admin_key: str | None = None,
    ) -> None:
        self._app = app
        self._keys = keys
        self._tokens = tokens
        self._remedy = f"Send a valid API key {AS_HEADER}; ask whoever runs this service for one."
        if tokens:
            self._remedy = f"Log in with OAuth, or send a valid API key {AS_HEADER}."
        self._challenge = challenge or {}
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
            detail = f"This {caller.credential} may only read. Use one that may write."
            raise self._refusal(403, detail, error="insufficient_scope")
        token = current_caller.set(caller)
        try:
            await self._app(scope, receive, send)
        finally:
            current_caller.reset(token)

    async def _identify(self, credential: str | None, path: str) -> Caller:
        is_token = credential is not None and credential.count(".") == 2  # a JWT has two dots, a key none
        verifier = self._tokens if self._tokens and is_token else self._keys
        try:
            if credential is None:
                raise InvalidCredential(self._remedy)
            return await verifier.verify(credential)
        except InvalidCredential as error:
            if path in AUTHORIZATION_SERVER or "/.well-known/" in path:
                # If a client that looks for OAuth gets a 401, it waits for a login that nobody can make.
                detail = f"There is nothing at {path}." if self._tokens else f"There is no OAuth here. {error}"
                raise NotFound(detail) from None
            named = {} if credential is None else {"error": "invalid_token"}
            raise self._refusal(401, str(error), **named) from None
        except InsufficientScope as error:
            raise self._refusal(403, str(error), error="insufficient_scope", scope=error.scope) from None

    async def _check_admin(self, key: str | None) -> None:
        if self._admin_key is None:
            raise HTTPException(403, "Admin endpoints are disabled: ADMIN_API_KEY is not set.")
        if key is None:
            raise self._refusal(401, f"Send the admin key {AS_HEADER}.")
        if not hmac.compare_digest(key.encode(), self._admin_key):
            try:
                await self._keys.verify(key)
            except InvalidCredential:
                raise self._refusal(401, "This is not the admin key.") from None
            raise HTTPException(403, "This needs the admin key, not a service key.")
        request_notes.get({}).update({"credential": "admin key"})

    def _refusal(self, status: int, detail: str, **parameters: str) -> HTTPException:
        """An error with the challenge of RFC 6750, which has more parameters if access tokens are accepted."""
        named = {**parameters, **self._challenge} if self._challenge else {}
        challenge = "Bearer " + ", ".join(f'{name}="{value}"' for name, value in named.items())
        headers = {"WWW-Authenticate": challenge.rstrip()} if status == 401 or named else None
        return HTTPException(status, detail, headers=headers)


def credential_of(headers: Headers) -> str | None:
    """The key or token. An empty one counts as none: a client may have filled it in from an unset variable."""
    if (key := headers.get("x-api-key")) is not None:
        return key.strip() or None
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    return credentials.strip() or None if scheme.lower() == "bearer" else None
