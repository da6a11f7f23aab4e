"""API keys: issue, list and revoke them, and let nobody in without one.

`python -m app.auth issue NAME` makes a key where no admin key is set, or to get the first one.
"""

import argparse
import asyncio
import hashlib
import hmac
import re
import secrets
import sys
import time
from typing import NamedTuple

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.database import Database
from app.errors import Conflict, NotFound, ServiceError
from app.models import ApiKey, utc_now
from app.problems import problem
from app.schemas import ApiKeyCreate, ApiKeyIssued, ApiKeyRead
from app.settings import load_settings

CACHE_SECONDS = 3.0
"""How long a worker trusts what it read of a key: the longest that a revoked key still works."""

_KEY = re.compile(r"key_([1-9][0-9]{0,17})_([A-Za-z0-9_-]{43})")


class ApiKeyNotFound(NotFound):
    def __init__(self, key_id: int) -> None:
        super().__init__(f"There is no API key {key_id}.")


class CachedDigest(NamedTuple):
    digest: str
    expires: float


class ApiKeys:
    """The service keys. Only their HMAC-SHA256 under `API_KEY_SECRET` is stored."""

    def __init__(self, database: Database, secret: bytes) -> None:
        self._database = database
        self._secret = secret
        self._cache: dict[int, CachedDigest] = {}

    async def issue(self, data: ApiKeyCreate) -> ApiKeyIssued:
        """Raises: Conflict, if a key in use has the name."""
        token = secrets.token_urlsafe(32)
        try:
            async with self._database.write() as session:
                row = ApiKey(name=data.name, digest=self._digest(token))
                session.add(row)
        except IntegrityError:
            raise Conflict(f"An API key named {data.name!r} is in use; revoke it or choose another name.") from None
        read = ApiKeyRead.model_validate(row)
        return ApiKeyIssued(**read.model_dump(), key=f"key_{row.id}_{token}")

    async def list(self) -> list[ApiKeyRead]:
        async with self._database.read() as session:
            rows = (await session.scalars(select(ApiKey).order_by(ApiKey.id.desc()))).all()
        return [ApiKeyRead.model_validate(row) for row in rows]

    async def get(self, key_id: int) -> ApiKeyRead:
        """Raises: ApiKeyNotFound."""
        async with self._database.read() as session:
            row = await session.get(ApiKey, key_id)
        if row is None:
            raise ApiKeyNotFound(key_id)
        return ApiKeyRead.model_validate(row)

    async def revoke(self, key_id: int) -> ApiKeyRead:
        """Revoke a key; one that is revoked already keeps its time.

        Raises: ApiKeyNotFound.
        """
        in_use = (ApiKey.id == key_id) & ApiKey.revoked_at.is_(None)
        async with self._database.write() as session:
            await session.execute(update(ApiKey).where(in_use).values(revoked_at=utc_now()))
        self._cache.pop(key_id, None)
        return await self.get(key_id)

    async def verify(self, presented: str) -> bool:
        """Whether this is a key in use."""
        match = _KEY.fullmatch(presented)
        if match is None:
            return False
        expected = await self._stored_digest(int(match[1]))
        # The comparison also runs for an unknown id, so that time does not tell which ids exist.
        return hmac.compare_digest(self._digest(match[2]), expected or "") and expected is not None

    async def _stored_digest(self, key_id: int) -> str | None:
        cached = self._cache.get(key_id)
        now = time.monotonic()
        if cached is not None and now < cached.expires:
            return cached.digest
        query = select(ApiKey.digest).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
        async with self._database.read() as session:
            digest = await session.scalar(query)
        if digest is None:
            self._cache.pop(key_id, None)
        else:
            self._cache[key_id] = CachedDigest(digest, now + CACHE_SECONDS)
        return digest

    def _digest(self, token: str) -> str:
        return hmac.new(self._secret, token.encode(), hashlib.sha256).hexdigest()


class RequireKey:
    """ASGI layer that answers 401 unless the request carries a service key, or the admin key below `admin_path`."""

    def __init__(
        self,
        app: ASGIApp,
        keys: ApiKeys,
        *,
        open_paths: frozenset[str],
        admin_path: str | None = None,
        admin_key: str | None = None,
    ) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = open_paths
        self._admin_path = admin_path
        self._admin_key = admin_key.encode() if admin_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        presented = presented_key(Headers(scope=scope))
        is_admin_door = self._admin_path is not None and f"{scope['path']}/".startswith(f"{self._admin_path}/")
        try:
            refusal = await (self._refuse_admin(presented) if is_admin_door else self._refuse(presented))
        except ServiceError as error:
            await problem(error.status, str(error), headers={"Retry-After": "1"})(scope, receive, send)
            return
        if refusal is None:
            await self._app(scope, receive, send)
            return
        status, detail = refusal
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
        await problem(status, detail, headers=headers)(scope, receive, send)

    async def _refuse(self, presented: str | None) -> tuple[int, str] | None:
        if presented is None:
            return 401, "Send an API key as `X-API-Key: KEY` or `Authorization: Bearer KEY`."
        return None if await self._keys.verify(presented) else (401, "This API key is not valid or was revoked.")

    async def _refuse_admin(self, presented: str | None) -> tuple[int, str] | None:
        if self._admin_key is None:
            return 403, "The admin doors are closed: the service has no ADMIN_API_KEY."
        if presented is None:
            return 401, "Send the admin key as `X-API-Key: KEY` or `Authorization: Bearer KEY`."
        if hmac.compare_digest(presented.encode(), self._admin_key):
            return None
        if await self._keys.verify(presented):
            return 403, "This needs the admin key, not a service key."
        return 401, "This is not the admin key."


def presented_key(headers: Headers) -> str | None:
    if (key := headers.get("x-api-key")) is not None:
        return key
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else None


async def _run(arguments: argparse.Namespace) -> None:
    settings = load_settings()
    database = Database(settings.database_url.get_secret_value(), pool_size=1, through_pooler=settings.uses_pooler)
    keys = ApiKeys(database, settings.key_secret())
    try:
        match arguments.command:
            case "issue":
                print((await keys.issue(ApiKeyCreate(name=arguments.name))).key)
            case "list":
                for key in await keys.list():
                    state = "revoked" if key.revoked_at else "in use"
                    print(f"{key.id}\t{state}\t{key.created_at:%Y-%m-%d}\t{key.name}")
            case "revoke":
                await keys.revoke(arguments.id)
    except ServiceError as error:
        sys.exit(f"app.auth: {error}")
    finally:
        await database.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m app.auth", description="Manage the service's API keys.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("issue", help="make a key and print it, this once").add_argument("name")
    commands.add_parser("list", help="list all keys")
    commands.add_parser("revoke", help="revoke a key").add_argument("id", type=int)
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
