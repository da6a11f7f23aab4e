"""OAuth access tokens of an external issuer, in addition to API keys. This service is only a resource server.

RFC 9728 (metadata), RFC 8707 (audience), RFC 9068 (JWT access tokens), RFC 8725 (how to check a JWT).
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx2
import jwt
from mcp.client.auth.utils import build_oauth_authorization_server_metadata_discovery_urls
from mcp.server.auth.handlers.metadata import ProtectedResourceMetadataHandler
from mcp.server.auth.routes import build_resource_metadata_url, cors_middleware
from mcp.shared.auth import ProtectedResourceMetadata
from pydantic import AnyHttpUrl, BaseModel
from starlette.types import ASGIApp

from app.errors import ServiceError
from app.settings import OAuth
from app.web.authentication import Caller, InsufficientScope, InvalidCredential

WELL_KNOWN = "/.well-known/oauth-protected-resource"

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Only asymmetric ones: with a symmetric algorithm, anyone who knows the issuer's public key could sign tokens."""
REQUIRED_CLAIMS = ["iss", "aud", "exp", "sub"]
CLOCK_SKEW = 10.0
"""Seconds by which the issuer's clock and ours may differ."""

FETCH_TIMEOUT = 3.0
"""Seconds after which an issuer counts as unavailable: the longest that a request waits for it."""
FETCH_INTERVAL = 10.0
"""Seconds between two fetches, so that made-up key ids do not each cause one. Must be longer than FETCH_TIMEOUT."""
LIFETIME = 300.0
"""Seconds after which keys are fetched again; meanwhile the old ones are used."""

REFUSED = "This access token is not valid for this service, or has expired; log in again."

logger = logging.getLogger(__name__)


class IssuerUnavailable(ServiceError):
    status = 503

    def __init__(self) -> None:
        super().__init__(
            "Access tokens cannot be checked now: their issuer does not answer. Try again in a few seconds."
        )


class IssuerMetadata(BaseModel):
    issuer: str
    jwks_uri: str


class KeySet(BaseModel):
    keys: list[dict[str, Any]]


class IssuerKeys:
    """The issuer's public keys, by key id. Nothing is fetched before the first token arrives."""

    def __init__(self, issuer: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._issuer = issuer
        self._clock = clock
        self._tls = httpx2.create_ssl_context()  # takes 40 ms, so it is done once
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._read_at = self._tried_at = float("-inf")
        self._is_away = False
        self._reading: asyncio.Task[None] | None = None

    async def find(self, key_id: str | None) -> jwt.PyJWK | None:
        """Raises: IssuerUnavailable, if the key is unknown and keys could not be fetched."""
        if key_id not in self._keys:
            if reading := self._read_soon():
                await asyncio.shield(reading)  # other requests wait for it too
            if key_id not in self._keys and self._is_away:
                raise IssuerUnavailable
        elif self._clock() - self._read_at > LIFETIME:
            self._read_soon()
        return self._keys.get(key_id)

    def _read_soon(self) -> asyncio.Task[None] | None:
        if self._clock() - self._tried_at > FETCH_INTERVAL:
            self._tried_at = self._clock()
            self._reading = asyncio.create_task(self._read())
        return self._reading

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(FETCH_TIMEOUT), httpx2.AsyncClient(verify=self._tls, timeout=None) as client:
                key_set = jwt.PyJWKSet(await self._fetch_keys(client))
            self._keys = {key.key_id: key for key in key_set.keys if key.public_key_use != "enc"}
            self._read_at = self._clock()
            self._is_away = False
        except (httpx2.HTTPError, httpx2.InvalidURL, jwt.PyJWTError, TimeoutError, ValueError) as error:
            self._is_away = True
            logger.warning("issuer unavailable", extra={"issuer": self._issuer, "reason": str(error) or repr(error)})
        finally:
            self._reading = None

    async def _fetch_keys(self, client: httpx2.AsyncClient) -> list[dict[str, Any]]:
        for url in build_oauth_authorization_server_metadata_discovery_urls(self._issuer, self._issuer):
            response = await client.get(url)
            if response.status_code == 200:
                break
        response.raise_for_status()
        metadata = IssuerMetadata.model_validate_json(response.content)
        if metadata.issuer != self._issuer:
            raise ValueError(f"calls itself {metadata.issuer!r}, and OAUTH_ISSUER must be just that")
        if self._issuer.startswith("https://") and not metadata.jwks_uri.startswith("https://"):
            raise ValueError(f"its jwks_uri is not https: {metadata.jwks_uri!r}")
        response = await client.get(metadata.jwks_uri)
        return KeySet.model_validate_json(response.raise_for_status().content).keys


class TokenVerifier:
    """Verifies access tokens. The reason for a rejection is only logged."""

    def __init__(self, oauth: OAuth, keys: IssuerKeys | None = None) -> None:
        self._oauth = oauth
        self._keys = keys or IssuerKeys(oauth.issuer)

    async def verify(self, credential: str) -> Caller:
        """Raises: InvalidCredential, InsufficientScope, IssuerUnavailable."""
        try:
            claims = await self._claims(credential)
        except jwt.PyJWTError as error:
            logger.info("access token refused", extra={"reason": str(error)})
            raise InvalidCredential(REFUSED) from None
        scopes = scopes_of(claims)
        if not scopes & self._names(self._oauth.read_scope, self._oauth.write_scope):
            logger.info("access token refused", extra={"reason": f"its scopes are {sorted(scopes)}"})
            raise InsufficientScope(
                f"This access token has no scope for this service, which is {self._oauth.read_scope!r}.",
                self._oauth.read_scope,
            )
        may_write = bool(scopes & self._names(self._oauth.write_scope))
        return Caller(claims["sub"], "access token", may_write=may_write)

    async def _claims(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        if header.get("alg") not in ALGORITHMS:
            raise jwt.InvalidAlgorithmError(f"its algorithm is {header.get('alg')!r}")
        key = await self._keys.find(header.get("kid"))
        if key is None:
            raise jwt.InvalidKeyError(f"the issuer has no key {header.get('kid')!r}")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                issuer=self._oauth.issuer,
                audience=self._oauth.audience,
                leeway=CLOCK_SKEW,
                options={"require": REQUIRED_CLAIMS},
            )
        except (jwt.InvalidAudienceError, jwt.InvalidIssuerError) as error:
            # The signature is valid: log what the token says instead, which helps whoever configures this.
            found = jwt.decode(token, options={"verify_signature": False})
            raise type(error)(f"{error}: iss is {found.get('iss')!r}, aud is {found.get('aud')!r}") from None
        return claims

    @staticmethod
    def _names(*scopes: str) -> set[str]:
        """The scopes as tokens contain them: Microsoft Entra is asked for `api://id/read`, and grants `read`."""
        return {*scopes, *(scope.rpartition("/")[2] for scope in scopes)}


def scopes_of(claims: dict[str, Any]) -> set[str]:
    """The granted scopes: `scope`, a string (RFC 9068), or with Microsoft Entra and Okta `scp`, a string or a list."""
    scopes = claims.get("scope", claims.get("scp"))
    if isinstance(scopes, str):
        return set(scopes.split())
    return {scope for scope in scopes if isinstance(scope, str)} if isinstance(scopes, list) else set()


def metadata_app(oauth: OAuth, name: str) -> ASGIApp:
    """Serves the metadata that tells clients where to get tokens."""
    metadata = ProtectedResourceMetadata.model_validate(
        {
            "resource": oauth.resource,
            "authorization_servers": [oauth.issuer],
            "scopes_supported": [oauth.read_scope, oauth.write_scope],
            "resource_name": name,
        }
    )
    return cors_middleware(ProtectedResourceMetadataHandler(metadata).handle, ["GET", "OPTIONS"])


def challenge(oauth: OAuth, *, names_metadata: bool) -> dict[str, str]:
    """Parameters of `WWW-Authenticate` that tell clients where to get a token, and which scopes to request."""
    parameters = {"scope": f"{oauth.read_scope} {oauth.write_scope}"}
    if names_metadata:
        parameters["resource_metadata"] = metadata_url(oauth)
    return parameters


def metadata_url(oauth: OAuth) -> str:
    return str(build_resource_metadata_url(AnyHttpUrl(oauth.resource)))


def metadata_paths(oauth: OAuth | None) -> frozenset[str]:
    """Paths of the metadata: without a challenge, clients try the one for their path, then the one for the host."""
    return frozenset({WELL_KNOWN, f"{WELL_KNOWN}/mcp", urlsplit(metadata_url(oauth)).path} if oauth else ())
