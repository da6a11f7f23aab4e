"""Lets nobody in without an API key, on both ports."""

import hmac
from typing import Protocol

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import NotFound


class KeyVerifier(Protocol):
    async def verify(self, key: str) -> bool:
        """Whether this is a key in use."""


class ApiKeyMiddleware:
    """401 unless the request carries a service key, or the admin key below `admin_path`."""

    def __init__(
        self,
        app: ASGIApp,
        verifier: KeyVerifier,
        *,
        public_paths: frozenset[str],
        admin_path: str | None = None,
        admin_key: str | None = None,
    ) -> None:
        self._app = app
        self._verifier = verifier
        self._public_paths = public_paths
        self._admin_path = admin_path
        self._admin_key = admin_key.encode() if admin_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._public_paths:
            key = credential(Headers(scope=scope))
            if self._admin_path and f"{scope['path']}/".startswith(f"{self._admin_path}/"):
                await self._check_admin(key)
            else:
                await self._check(key, scope["path"])
        await self._app(scope, receive, send)

    async def _check(self, key: str | None, path: str) -> None:
        if key is None:
            if path.startswith("/.well-known/") or path == "/register":
                # Clients that find a 401 here begin a discovery of OAuth that leads nowhere.
                raise NotFound(f"There is nothing at {path}.")
            raise unauthorized("Send an API key as `X-API-Key: KEY` or `Authorization: Bearer KEY`.")
        if not await self._verifier.verify(key):
            raise unauthorized("This API key is not valid or was revoked.")

    async def _check_admin(self, key: str | None) -> None:
        if self._admin_key is None:
            raise HTTPException(403, "Admin endpoints are disabled: ADMIN_API_KEY is not set.")
        if key is None:
            raise unauthorized("Send the admin key as `X-API-Key: KEY` or `Authorization: Bearer KEY`.")
        if not hmac.compare_digest(key.encode(), self._admin_key):
            if await self._verifier.verify(key):
                raise HTTPException(403, "This needs the admin key, not a service key.")
            raise unauthorized("This is not the admin key.")


def unauthorized(detail: str) -> HTTPException:
    return HTTPException(401, detail, headers={"WWW-Authenticate": "Bearer"})


def credential(headers: Headers) -> str | None:
    if (key := headers.get("x-api-key")) is not None:
        return key.strip()
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else None
