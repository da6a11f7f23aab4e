"""Operations on API keys. Only their HMAC-SHA256 under `API_KEY_SECRET` is stored."""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from app.api_keys.models import ApiKey
from app.api_keys.schemas import ApiKeyCreate, ApiKeyIssued, ApiKeyRead
from app.db.columns import utc_now
from app.db.database import Database, ReadSession, WriteSession
from app.errors import Conflict, NotFound
from app.web.authentication import Caller, InvalidCredential

CACHE_SECONDS = 3.0
"""How long a worker caches a key, and so how long a revoked key may still work."""
INVALID = "This API key is not valid or was revoked; check it, or ask for a new one."

_KEY = re.compile(r"key_([1-9][0-9]{0,17})_([A-Za-z0-9_-]{43})")


class ApiKeyNotFound(NotFound):
    def __init__(self, key_id: int) -> None:
        super().__init__(f"There is no API key {key_id}.")


def issue_api_key(session: WriteSession, data: ApiKeyCreate, secret: bytes) -> ApiKeyIssued:
    """Raises: Conflict, if an active key has this name."""
    token = secrets.token_urlsafe(32)
    row = ApiKey(**data.model_dump(), digest=_digest(token, secret))
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
    """Revoke a key. If it is already revoked, its `revoked_at` does not change.

    Raises: ApiKeyNotFound.
    """
    in_use = (ApiKey.id == key_id) & ApiKey.revoked_at.is_(None)
    session.execute(update(ApiKey).where(in_use).values(revoked_at=utc_now()))
    return get_api_key(session, key_id)


class StoredKey(NamedTuple):
    digest: str
    name: str
    read_only: bool
    expires_at: datetime | None


class CachedKey(NamedTuple):
    key: StoredKey
    trusted_until: float


class ApiKeyVerifier:
    """Verifies keys, and caches each for `CACHE_SECONDS`."""

    def __init__(self, database: Database, secret: bytes, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._secret = secret
        self._now = now
        self._cache: dict[int, CachedKey] = {}

    async def verify(self, credential: str) -> Caller:
        """Return the caller whose key this is.

        Raises: InvalidCredential.
        """
        match = _KEY.fullmatch(credential)
        stored = await self._stored(int(match[1])) if match else None
        if match is None or stored is None:
            raise InvalidCredential(INVALID)
        if not hmac.compare_digest(_digest(match[2], self._secret), stored.digest):
            raise InvalidCredential(INVALID)
        if stored.expires_at is not None and stored.expires_at <= self._now():
            raise InvalidCredential(f"This API key expired on {stored.expires_at:%Y-%m-%d}; ask for a new one.")
        return Caller(stored.name, "API key", may_write=not stored.read_only)

    def forget(self, key_id: int) -> None:
        """Drop a revoked key from the cache."""
        self._cache.pop(key_id, None)

    async def _stored(self, key_id: int) -> StoredKey | None:
        cached = self._cache.get(key_id)
        now = time.monotonic()
        if cached is not None and now < cached.trusted_until:
            return cached.key
        stored = await self._database.read(_read_key, key_id)
        if stored is None:
            self._cache.pop(key_id, None)
        else:
            self._cache[key_id] = CachedKey(stored, now + CACHE_SECONDS)
        return stored


def _read_key(session: ReadSession, key_id: int) -> StoredKey | None:
    columns = ApiKey.digest, ApiKey.name, ApiKey.read_only, ApiKey.expires_at
    row = session.execute(select(*columns).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))).one_or_none()
    return StoredKey(*row) if row else None


def _digest(token: str, secret: bytes) -> str:
    return hmac.new(secret, token.encode(), hashlib.sha256).hexdigest()
