"""What the service does with keys. Only their HMAC-SHA256 under `API_KEY_SECRET` is stored."""

import hashlib
import hmac
import re
import secrets
import time
from typing import NamedTuple

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from app.api_keys.models import ApiKey
from app.api_keys.schemas import ApiKeyCreate, ApiKeyIssued, ApiKeyRead
from app.db.columns import utc_now
from app.db.database import Database, ReadSession, WriteSession
from app.errors import Conflict, NotFound

CACHE_SECONDS = 3.0
"""How long a worker trusts what it read of a key: the longest that a revoked key still works."""

_KEY = re.compile(r"key_([1-9][0-9]{0,17})_([A-Za-z0-9_-]{43})")


class ApiKeyNotFound(NotFound):
    def __init__(self, key_id: int) -> None:
        super().__init__(f"There is no API key {key_id}.")


def issue_api_key(session: WriteSession, data: ApiKeyCreate, secret: bytes) -> ApiKeyIssued:
    """Raises: Conflict, if a key in use has the name."""
    token = secrets.token_urlsafe(32)
    row = ApiKey(name=data.name, digest=_digest(token, secret))
    session.add(row)
    try:
        session.flush()
    except IntegrityError:
        raise Conflict(f"An API key named {data.name!r} is in use; revoke it or choose another name.") from None
    read = ApiKeyRead.model_validate(row)
    return ApiKeyIssued(**read.model_dump(), key=f"key_{row.id}_{token}")


def list_api_keys(session: ReadSession) -> list[ApiKeyRead]:
    rows = session.scalars(select(ApiKey).order_by(ApiKey.id.desc()))
    return [ApiKeyRead.model_validate(row) for row in rows]


def get_api_key(session: ReadSession, key_id: int) -> ApiKeyRead:
    """Raises: ApiKeyNotFound."""
    row = session.get(ApiKey, key_id)
    if row is None:
        raise ApiKeyNotFound(key_id)
    return ApiKeyRead.model_validate(row)


def revoke_api_key(session: WriteSession, key_id: int) -> ApiKeyRead:
    """Revoke a key; one that is revoked already keeps its time.

    Raises: ApiKeyNotFound.
    """
    in_use = (ApiKey.id == key_id) & ApiKey.revoked_at.is_(None)
    session.execute(update(ApiKey).where(in_use).values(revoked_at=utc_now()))
    return get_api_key(session, key_id)


class CachedDigest(NamedTuple):
    digest: str
    expires: float


class ApiKeyVerifier:
    """Verifies keys; what it read of one is trusted for `CACHE_SECONDS`."""

    def __init__(self, database: Database, secret: bytes) -> None:
        self._database = database
        self._secret = secret
        self._cache: dict[int, CachedDigest] = {}

    async def verify(self, key: str) -> bool:
        """Whether this is a key in use."""
        match = _KEY.fullmatch(key)
        if match is None:
            return False
        expected = await self._stored_digest(int(match[1]))
        return expected is not None and hmac.compare_digest(_digest(match[2], self._secret), expected)

    def forget(self, key_id: int) -> None:
        """Read the key anew when it is used next: it was revoked."""
        self._cache.pop(key_id, None)

    async def _stored_digest(self, key_id: int) -> str | None:
        cached = self._cache.get(key_id)
        now = time.monotonic()
        if cached is not None and now < cached.expires:
            return cached.digest
        digest = await self._database.read(_read_digest, key_id)
        if digest is None:
            self._cache.pop(key_id, None)
        else:
            self._cache[key_id] = CachedDigest(digest, now + CACHE_SECONDS)
        return digest


def _read_digest(session: ReadSession, key_id: int) -> str | None:
    return session.scalar(select(ApiKey.digest).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None)))


def _digest(token: str, secret: bytes) -> str:
    return hmac.new(secret, token.encode(), hashlib.sha256).hexdigest()
