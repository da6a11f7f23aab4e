"""Access tokens of an OAuth issuer: which are accepted, and what happens if the issuer is unavailable."""

import asyncio
import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from starlette.testclient import TestClient

from app.api_keys.service import INVALID
from app.settings import OAuth, Settings
from app.web import oauth
from app.web.authentication import Caller, InsufficientScope
from app.web.oauth import FETCH_INTERVAL, LIFETIME, IssuerKeys, IssuerUnavailable, TokenVerifier
from tests.conftest import JSON_RPC, MCP_URL, REST_URL, client_with
from tests.gizmos import create_app

RESOURCE = "https://mcp.example.com/mcp"
METADATA_URL = "https://mcp.example.com/.well-known/oauth-protected-resource/mcp"
REFUSED = "This access token is not valid for this service, or has expired; log in again."


class Issuer:
    """An issuer on this machine: signs tokens, and serves its metadata and public keys at `url`."""

    def __init__(self, *, path: str = "", metadata_path: str = "/.well-known/oauth-authorization-server") -> None:
        self.keys: dict[str, Any] = {"first": ec.generate_private_key(ec.SECP256R1())}
        self.is_away = self.hangs = False
        self.calls = 0
        self.may_end = Event()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.calls += 1
                if issuer.hangs:
                    issuer.may_end.wait(30)
                documents = {metadata_path: issuer.metadata, "/keys": {"keys": issuer.public_keys()}}
                document = None if issuer.is_away else documents.get(self.path)
                self.send_response(200 if document else 503 if issuer.is_away else 404)
                self.end_headers()
                self.wfile.write(json.dumps(document).encode())

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        origin = f"http://127.0.0.1:{self.server.server_port}"
        self.url = f"{origin}{path}"
        self.metadata = {"issuer": self.url, "jwks_uri": f"{origin}/keys"}

    def public_keys(self) -> list[dict[str, Any]]:
        to_jwk: dict[type, Any] = {
            ec.EllipticCurvePrivateKey: ECAlgorithm,
            ed25519.Ed25519PrivateKey: OKPAlgorithm,
            rsa.RSAPrivateKey: RSAAlgorithm,
        }
        return [
            {"kid": name, "use": "sig"}
            | next(way for kind, way in to_jwk.items() if isinstance(key, kind)).to_jwk(key.public_key(), as_dict=True)
            for name, key in self.keys.items()
        ]

    def claims(self, **changes: Any) -> dict[str, Any]:
        """The claims of a valid token with these changes; None removes a claim."""
        now = int(time.time())
        good = {
            "iss": self.url,
            "aud": RESOURCE,
            "sub": "ann",
            "iat": now,
            "exp": now + 60,
            "scope": "openid read write",
        }
        return {name: value for name, value in (good | changes).items() if value is not None}

    def token(self, *, key_id: str = "first", algorithm: str = "ES256", key: Any = None, **changes: Any) -> str:
        return jwt.encode(self.claims(**changes), key or self.keys[key_id], algorithm, headers={"kid": key_id})


@contextmanager
def serve(issuer: Issuer) -> Iterator[Issuer]:
    thread = Thread(target=issuer.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield issuer
    issuer.may_end.set()
    issuer.server.shutdown()
    issuer.server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    """The issuer of this module's app, with a key of each type."""
    with serve(Issuer()) as running:
        running.keys |= {
            "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "ed25519": ed25519.Ed25519PrivateKey.generate(),
        }
        yield running


@pytest.fixture
def own_issuer() -> Iterator[Issuer]:
    """An issuer that the test may stop."""
    with serve(Issuer()) as running:
        yield running


@pytest.fixture(scope="module")
def app(settings: Settings, issuer: Issuer) -> Iterator[TestClient]:
    changes = {"oauth_issuer": issuer.url, "mcp_public_url": RESOURCE}
    with TestClient(create_app(settings.model_copy(update=changes)), REST_URL) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def call(client: TestClient, method: str, **params: Any) -> dict[str, Any]:
    response = client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()["result"]
    return result


@pytest.mark.parametrize(("key_id", "algorithm"), [("first", "ES256"), ("rsa", "RS256"), ("ed25519", "EdDSA")])
def test_a_token_is_accepted_on_both_ports(app: TestClient, issuer: Issuer, key_id: str, algorithm: str) -> None:
    headers = bearer(issuer.token(key_id=key_id, algorithm=algorithm, aud=["https://other.example.com", RESOURCE]))
    assert client_with(app, headers).post("/gizmos", json={"title": "By a token"}).status_code == 201
    client = client_with(app, headers | JSON_RPC, MCP_URL)
    assert not call(client, "tools/call", name="create_gizmo", arguments={"title": "By a token"}).get("isError")


def test_keys_are_accepted_beside_tokens(app: TestClient, key: str) -> None:
    assert client_with(app, bearer(key)).get("/gizmos").status_code == 200
    refused = client_with(app, bearer("key_1_" + "A" * 43)).get("/gizmos")
    assert (refused.status_code, refused.json()["detail"]) == (401, INVALID)


def test_a_request_with_neither_is_told_about_both(app: TestClient) -> None:
    detail = client_with(app, {}, MCP_URL).post("/mcp").json()["detail"]
    assert detail == "Log in with OAuth, or send a valid API key as `X-API-Key: KEY` or `Authorization: Bearer KEY`."


@pytest.mark.parametrize("path", ["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"])
def test_the_metadata_is_public_and_names_the_issuer(app: TestClient, issuer: Issuer, path: str) -> None:
    response = client_with(app, {"Origin": "https://any.example.com"}, MCP_URL).get(path)
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    metadata = response.json()
    assert metadata.pop("resource_name")
    assert metadata == {
        "resource": RESOURCE,
        "authorization_servers": [issuer.url],
        "scopes_supported": ["read", "write"],
        "bearer_methods_supported": ["header"],
    }
    assert client_with(app).get(path).status_code == 404, "the REST API is another resource"


def test_with_one_port_the_metadata_is_served_next_to_mcp(settings: Settings, issuer: Issuer) -> None:
    changes = {"oauth_issuer": issuer.url, "mcp_public_url": RESOURCE, "one_port": True}
    with TestClient(create_app(settings.model_copy(update=changes)), REST_URL) as client:
        assert METADATA_URL in client.post("/mcp").headers["WWW-Authenticate"]
        assert client.get("/.well-known/oauth-protected-resource/mcp").json()["resource"] == RESOURCE


def test_a_401_over_mcp_tells_where_the_metadata_is(app: TestClient) -> None:
    response = client_with(app, JSON_RPC, MCP_URL).post("/mcp")
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == f'Bearer scope="read write", resource_metadata="{METADATA_URL}"'
    assert client_with(app).get("/gizmos").headers["WWW-Authenticate"] == 'Bearer scope="read write"'


def encoded(part: bytes) -> str:
    return urlsafe_b64encode(part).decode().rstrip("=")


def forged(issuer: Issuer, algorithm: str, sign: Callable[[bytes], bytes]) -> str:
    """A token that PyJWT refuses to create."""
    header = {"alg": algorithm, "kid": "rsa"}
    parts = f"{encoded(json.dumps(header).encode())}.{encoded(json.dumps(issuer.claims()).encode())}"
    return f"{parts}.{encoded(sign(parts.encode()))}"


def signed_with_the_public_key(issuer: Issuer) -> str:
    """The key confusion attack: the public key, which anybody can read, used as a shared secret."""
    public = issuer.keys["rsa"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return forged(issuer, "HS256", lambda text: hmac.new(public, text, hashlib.sha256).digest())


REFUSALS: dict[str, tuple[Callable[[Issuer], str], str]] = {
    "expired": (lambda issuer: issuer.token(exp=int(time.time()) - 11), "Signature has expired"),
    "not yet valid": (lambda issuer: issuer.token(nbf=int(time.time()) + 60), "not yet valid"),
    "wrong audience": (lambda issuer: issuer.token(aud="https://a.example.com"), "aud is 'https://a.example.com'"),
    "audience below": (lambda issuer: issuer.token(aud=f"{RESOURCE}/x"), "Audience doesn't match"),
    "wrong issuer": (lambda issuer: issuer.token(iss="https://b.example.com"), "iss is 'https://b.example.com'"),
    "no audience": (lambda issuer: issuer.token(aud=None), 'missing the "aud" claim'),
    "no issuer": (lambda issuer: issuer.token(iss=None), 'missing the "iss" claim'),
    "no expiry": (lambda issuer: issuer.token(exp=None), 'missing the "exp" claim'),
    "no subject": (lambda issuer: issuer.token(sub=None), 'missing the "sub" claim'),
    "alg none": (lambda issuer: forged(issuer, "none", lambda _text: b""), "its algorithm is 'none'"),
    "key confusion": (signed_with_the_public_key, "its algorithm is 'HS256'"),
    "key of another kind": (lambda issuer: issuer.token(algorithm="RS256", key=issuer.keys["rsa"]), "algorithm"),
    "key of somebody": (
        lambda issuer: issuer.token(key=ec.generate_private_key(ec.SECP256R1())),
        "verification failed",
    ),
    "unknown key": (lambda issuer: issuer.token(key_id="made-up", key=issuer.keys["first"]), "no key 'made-up'"),
    "key id of another type": (lambda issuer: f"{encoded(b'{"alg": "ES256", "kid": []}')}.e30.xxxx", "Key ID"),
    "no algorithm": (lambda issuer: f"{encoded(b'{}')}.e30.xxxx", "its algorithm is None"),
    "deep": (lambda issuer: f"{encoded(b'[' * 5000)}.e30.xxxx", "header"),
    "no JWT": (lambda _issuer: "a.b.c", "header"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize(("base", "path"), [(REST_URL, "/gizmos"), (MCP_URL, "/mcp")])
def test_the_reason_for_rejecting_a_token_is_only_logged(
    app: TestClient,
    issuer: Issuer,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[Issuer], str],
    reason: str,
    base: str,
    path: str,
) -> None:
    caplog.set_level("INFO")
    response = client_with(app, bearer(make(issuer)), base).get(path)
    assert (response.status_code, response.json()["detail"]) == (401, REFUSED)
    assert response.headers["WWW-Authenticate"].startswith('Bearer error="invalid_token", scope="read write"')
    [line] = [vars(record) for record in caplog.records if record.message == "access token refused"]
    assert reason in line["reason"]


def test_a_token_with_only_the_read_scope_can_only_read(app: TestClient, issuer: Issuer) -> None:
    headers = bearer(issuer.token(scope="read"))
    assert client_with(app, headers).get("/gizmos").status_code == 200
    response = client_with(app, headers).post("/gizmos", json={"title": "x"})
    assert response.status_code == 403
    assert response.json()["detail"] == "This access token may only read. Use one that may write."
    assert response.headers["WWW-Authenticate"] == 'Bearer error="insufficient_scope", scope="read write"'
    client = client_with(app, headers | JSON_RPC, MCP_URL)
    assert all(tool["annotations"]["readOnlyHint"] for tool in call(client, "tools/list")["tools"])
    refused = call(client, "tools/call", name="create_gizmo", arguments={"title": "x"})
    assert refused["content"][0]["text"].startswith("create_gizmo changes data, and this access token may only read.")


@pytest.mark.parametrize("scope", ["openid", "", None])
def test_a_token_without_our_scopes_is_told_which_to_request(
    app: TestClient, issuer: Issuer, scope: str | None
) -> None:
    response = client_with(app, bearer(issuer.token(scope=scope)), MCP_URL).post("/mcp")
    assert response.status_code == 403
    assert response.headers["WWW-Authenticate"] == (
        f'Bearer error="insufficient_scope", scope="read write", resource_metadata="{METADATA_URL}"'
    )


def test_a_token_opens_no_admin_endpoint(app: TestClient, issuer: Issuer) -> None:
    assert client_with(app, bearer(issuer.token())).get("/admin/api-keys").status_code == 401


def test_the_access_log_names_the_subject(app: TestClient, issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    client_with(app, bearer(issuer.token(sub="auth0|7"))).get("/gizmos")
    [line] = [vars(record) for record in caplog.records if record.name == "app.access"]
    assert (line["caller"], line["credential"]) == ("auth0|7", "access token")


@pytest.mark.parametrize(
    ("claims", "may_write"),
    [
        ({"scope": "read"}, False),
        ({"scp": "read"}, False),
        ({"scp": ["read", "write"]}, True),
        ({"scope": "api://gizmos/write"}, True),
        ({"scope": "api://gizmos/writer write-all"}, None),
        ({"scope": 7}, None),
    ],
)
def test_scopes_are_read_in_the_forms_that_issuers_use(
    own_issuer: Issuer, claims: dict[str, Any], may_write: bool | None
) -> None:
    """Microsoft Entra is asked for `api://gizmos/read` and grants `read`. None means that the token is rejected."""
    verifier = TokenVerifier(OAuth(own_issuer.url, RESOURCE, RESOURCE, "api://gizmos/read", "api://gizmos/write"))
    verifying = verifier.verify(own_issuer.token(**{"scope": None} | claims))
    if may_write is None:
        with pytest.raises(InsufficientScope):
            asyncio.run(verifying)
    else:
        assert asyncio.run(verifying) == Caller("ann", "access token", may_write=may_write)


@pytest.mark.parametrize(
    ("path", "metadata_path"),
    [
        ("", "/.well-known/oauth-authorization-server"),
        ("/", "/.well-known/openid-configuration"),
        ("/realms/a", "/.well-known/oauth-authorization-server/realms/a"),
        ("/realms/a", "/realms/a/.well-known/openid-configuration"),
    ],
)
def test_keys_are_found_where_issuers_publish_them(path: str, metadata_path: str) -> None:
    with serve(Issuer(path=path, metadata_path=metadata_path)) as issuer:
        assert asyncio.run(IssuerKeys(issuer.url).find("first")) is not None


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_new_key_is_found_and_unknown_keys_are_rarely_fetched(own_issuer: Issuer) -> None:
    async def scenario() -> None:
        clock = Clock()
        keys = IssuerKeys(own_issuer.url, clock)
        assert await keys.find("first")
        assert not any([await keys.find(f"made-up-{number}") for number in range(100)])
        assert own_issuer.calls == 2  # one for the metadata, one for the keys
        own_issuer.keys = {"second": own_issuer.keys["first"]}
        clock.now += FETCH_INTERVAL + 0.1
        assert await keys.find("second")
        assert not await keys.find("first"), "a key that the issuer withdrew still works"
        assert own_issuer.calls == 4

    asyncio.run(scenario())


def test_cached_keys_are_used_while_the_issuer_is_unavailable(
    own_issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        clock = Clock()
        keys = IssuerKeys(own_issuer.url, clock)
        assert await keys.find("first")
        own_issuer.is_away = True
        clock.now += LIFETIME + 1
        assert await keys.find("first")
        assert keys._reading is not None
        await keys._reading
        assert await keys.find("first")
        with pytest.raises(IssuerUnavailable):
            await keys.find("second")
        own_issuer.is_away = False
        clock.now += FETCH_INTERVAL + 0.1
        assert not await keys.find("second")

    asyncio.run(scenario())
    [line] = [vars(record) for record in caplog.records]
    assert (line["message"], line["issuer"]) == ("issuer unavailable", own_issuer.url)
    assert "503" in line["reason"]


def test_an_issuer_that_hangs_is_asked_once_and_delays_requests_only_until_the_timeout(
    own_issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert oauth.FETCH_TIMEOUT <= 3
    monkeypatch.setattr(oauth, "FETCH_TIMEOUT", 0.3)
    own_issuer.hangs = True

    async def scenario() -> None:
        keys = IssuerKeys(own_issuer.url, Clock())
        started = time.monotonic()
        finding = [asyncio.create_task(keys.find("first")) for _ in range(5)]
        turns = 0
        while not all(each.done() for each in finding):
            await asyncio.sleep(0.01)
            turns += 1
        assert turns > 5, "the event loop stood still"
        assert time.monotonic() - started < 5
        assert [type(each.exception()) for each in finding] == [IssuerUnavailable] * 5
        with pytest.raises(IssuerUnavailable):
            await keys.find("first")
        assert own_issuer.calls == 1

    asyncio.run(scenario())


def test_if_the_issuer_is_unavailable_tokens_get_503_and_keys_work(
    settings: Settings, own_issuer: Issuer, key: str
) -> None:
    own_issuer.is_away = True
    changes = {"oauth_issuer": own_issuer.url, "mcp_public_url": RESOURCE}
    with TestClient(create_app(settings.model_copy(update=changes)), REST_URL) as client:
        response = client.get("/gizmos", headers=bearer(own_issuer.token()))
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        assert client.get("/gizmos", headers=bearer(key)).status_code == 200


def test_an_issuer_with_another_name_is_not_trusted(own_issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    own_issuer.metadata["issuer"] += "/"
    with pytest.raises(IssuerUnavailable):
        asyncio.run(IssuerKeys(own_issuer.url).find("first"))
    assert f"calls itself '{own_issuer.url}/', and OAUTH_ISSUER must be just that" in vars(caplog.records[0])["reason"]


def test_keys_are_not_fetched_without_tls_if_the_issuer_uses_it() -> None:
    async def scenario() -> None:
        document = {"issuer": "https://login.example.com", "jwks_uri": "http://login.example.com/keys"}
        transport = httpx2.MockTransport(lambda _request: httpx2.Response(200, json=document))
        async with httpx2.AsyncClient(transport=transport) as client:
            with pytest.raises(ValueError, match="not https"):
                await IssuerKeys("https://login.example.com")._fetch_keys(client)

    asyncio.run(scenario())
