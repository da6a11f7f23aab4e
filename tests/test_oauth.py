"""OAuth end to end: a certified authorization server, the official MCP client, and a rendered service."""

import hmac
import json
import signal
import subprocess
import urllib.request
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlencode

import pytest

from tests.combinations import SQLITE_UV, Combination
from tests.conftest import Bake, only
from tests.sandbox import environment, free_port, make_path, npm_install, run, wait_until
from tests.test_run import Service, render

pytestmark = [pytest.mark.slow, only(SQLITE_UV)]

OIDC_PROVIDER = "oidc-provider@9.13.3"

# Anybody can register and log in. Access tokens are JWTs for the resource that the client names. There are also two
# machine clients, one of which gets tokens for one second. Keys are stored by name, so that issuers can share one.
ISSUER = """
import { generateKeyPairSync } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { Provider } from "oidc-provider";

const [port, kid] = process.argv.slice(2);
if (!existsSync(`${kid}.json`)) {
  const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  writeFileSync(`${kid}.pem`, publicKey.export({ type: "spki", format: "pem" }));
  writeFileSync(`${kid}.json`, JSON.stringify({ ...privateKey.export({ format: "jwk" }), kid, use: "sig", alg: "RS256" }));
}
const lifetimes = { steady: 600, hasty: 1 };
const program = { grant_types: ["client_credentials"], redirect_uris: [], response_types: [], client_secret: "any" };
const metadata_url = "https://client.example.com/metadata.json";
const metadata = {
  client_id: metadata_url,
  client_name: "tests",
  redirect_uris: ["http://localhost:7777/callback"],
  token_endpoint_auth_method: "none",
  grant_types: ["authorization_code", "refresh_token"],
};
const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: Object.keys(lifetimes).map((client_id) => ({ ...program, client_id })),
  fetch: async (url, options) => (url == metadata_url ? Response.json(metadata) : fetch(url, options)),
  issueRefreshToken: () => true,
  jwks: { keys: [JSON.parse(readFileSync(`${kid}.json`))] },
  scopes: ["openid", "offline_access", "read", "write"],
  ttl: { ClientCredentials: (_context, _token, client) => lifetimes[client.clientId] },
  features: {
    clientCredentials: { enabled: true },
    clientIdMetadataDocument: { enabled: true, ack: "draft-02" },
    registration: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_context, resource) => ({ audience: resource, scope: "read write", accessTokenFormat: "jwt" }),
      useGrantedResource: () => true,
    },
  },
});
for (const event of ["registration_create.success", "grant.success"])
  provider.on(event, (context) => console.log(event, context.oidc.params?.grant_type ?? ""));
provider.listen(port, "127.0.0.1");
"""

# Registers or gives the URL of its metadata, logs in, calls a tool, refreshes the token and calls again; prints each step.
CLIENT = r"""
import asyncio, json, sys
import httpx2
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientMetadata

class Storage:
    tokens = client = None
    async def get_tokens(self): return self.tokens
    async def set_tokens(self, tokens): self.tokens = tokens
    async def get_client_info(self): return self.client
    async def set_client_info(self, client): self.client = client

class Person:
    "Logs in and consents, as in a browser."
    async def open(self, url):
        self.asked = dict(httpx2.URL(url).params)
        async with httpx2.AsyncClient() as browser:
            for prompt in ("login", "consent"):
                form = await browser.get(url, follow_redirects=True)
                answer = await browser.post(form.url, data={"prompt": prompt, "login": "ann", "password": "any"})
                url = answer.headers["location"]
            answer = await browser.get(url)
            self.result = httpx2.URL(answer.headers["location"]).params

    async def come_back(self):
        return AuthorizationCodeResult(code=self.result["code"], state=self.result["state"], iss=self.result.get("iss"))

async def main(url, metadata_url=None):
    storage, person = Storage(), Person()
    metadata = OAuthClientMetadata(client_name="tests", redirect_uris=["http://localhost:7777/callback"])
    auth = OAuthClientProvider(
        url, metadata, storage, person.open, person.come_back, client_metadata_url=metadata_url
    )
    answers, tokens = [], []
    async with httpx2.AsyncClient(auth=auth, timeout=30) as http:
        for _ in range(2):
            async with Client(streamable_http_client(url, http_client=http)) as client:
                result = await client.call_tool("create_task", {"title": "By OAuth"})
                answers.append(json.loads(result.content[0].text)["title"])
            tokens.append(storage.tokens.access_token)
            auth.context.token_expiry_time = 1  # long ago
    print(json.dumps({"answers": answers, "tokens": tokens, "asked": person.asked}))

asyncio.run(main(*sys.argv[1:]))
"""


@contextmanager
def running(
    *command: str | Path, cwd: Path, env: dict[str, str], url: str, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server, wait until it answers at the URL, and finally stop it."""
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=output, stderr=output)
    try:
        wait_until(lambda: answers(url), timeout=60, what=lambda: f"{url} answers: {log.read_text()}")
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


class OAuth(NamedTuple):
    """A running service and the address of its issuer, which tests start when they need it."""

    service: Service
    node: Path
    """The folder with the issuer and its keys."""
    issuer: int
    """The issuer's port."""
    resource: str
    log: Path
    """The service's log."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.issuer}"


@pytest.fixture(scope="module")
def oauth(
    bake: Bake, combination: Combination, python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OAuth]:
    """A service with one process, because each fetches the issuer's keys."""
    folder = tmp_path_factory.mktemp("oauth")
    service = render(bake, combination, make_path(folder / "bin", **{"python3.12": python}))
    service.make("install")
    npm_install(folder / "node", OIDC_PROVIDER)
    port, mcp_port = service.ports
    resource = f"http://127.0.0.1:{mcp_port}/mcp"
    oauth = OAuth(service, folder / "node", free_port(), resource, folder / "service.log")
    env = {**service.env, "OAUTH_ISSUER": oauth.url, "MCP_PUBLIC_URL": resource, "WEB_CONCURRENCY": "1"}
    gunicorn = (service.python, "-m", "gunicorn")
    with running(*gunicorn, cwd=service.folder, env=env, url=f"http://127.0.0.1:{port}/ready", log=oauth.log):
        yield oauth


@contextmanager
def issuer(
    oauth: OAuth, folder: Path, *, key: str = "first", port: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run an issuer that signs with this key; its log is `issuer.log` in the folder."""
    (oauth.node / "issuer.mjs").write_text(ISSUER)
    number = str(port or oauth.issuer)
    command = ["node", "issuer.mjs", number, key]
    url = f"http://127.0.0.1:{number}/jwks"
    with running(*command, cwd=oauth.node, env=environment(), url=url, log=folder / "issuer.log") as process:
        yield process


def token(url: str, resource: str, client: str = "steady") -> str:
    """A token for a machine client from the issuer at this URL."""
    form = {"grant_type": "client_credentials", "resource": resource, "scope": "read write"}
    request = urllib.request.Request(f"{url}/token", urlencode(form).encode())
    request.add_header("Authorization", f"Basic {b64encode(f'{client}:any'.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=30) as response:
        issued: str = json.load(response)["access_token"]
        return issued


def encoded(part: bytes) -> str:
    return urlsafe_b64encode(part).decode().rstrip("=")


def forged(good: str, algorithm: str, sign: Callable[[bytes], bytes], key_id: str = "first") -> str:
    """A valid token with another header and signature."""
    header = json.dumps({"alg": algorithm, "kid": key_id}).encode()
    text = f"{encoded(header)}.{good.split('.')[1]}"
    return f"{text}.{encoded(sign(text.encode()))}"


def outcome(oauth: OAuth, credential: str) -> int | str:
    """The status of a request with this token or, if it is rejected, the reason in the log."""
    before = oauth.log.stat().st_size
    request = urllib.request.Request(f"http://127.0.0.1:{oauth.service.ports[0]}/tasks")
    request.add_header("Authorization", f"Bearer {credential}")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except HTTPError as error:
        if error.code != 401:
            return error.code
    lines = map(json.loads, oauth.log.read_bytes()[before:].splitlines())
    return next(str(line["reason"]) for line in lines if line["message"] == "access token refused")


@pytest.mark.parametrize("metadata_url", [None, "https://client.example.com/metadata.json"])
def test_the_official_client_logs_in_through_a_certified_authorization_server(
    oauth: OAuth, tmp_path: Path, metadata_url: str | None
) -> None:
    """Discovery, registration or metadata, authorization code with PKCE and `resource`, a call, a refresh, another call."""
    service = oauth.service
    known = [metadata_url] if metadata_url else []
    with issuer(oauth, tmp_path):
        command = [str(service.python), "-c", CLIENT, oauth.resource, *known]
        printed = run(*command, cwd=service.folder, env=service.env).stdout
    result = json.loads(printed)
    assert result["answers"] == ["By OAuth", "By OAuth"]
    assert result["tokens"][0] != result["tokens"][1]
    assert result["asked"] | {"resource": oauth.resource, "code_challenge_method": "S256"} == result["asked"]
    assert {"read", "write"} <= set(result["asked"]["scope"].split())
    assert (result["asked"]["client_id"] == metadata_url) is bool(known)
    log = (tmp_path / "issuer.log").read_text()
    events = ["grant.success authorization_code", "grant.success refresh_token"]
    registered = [] if known else ["registration_create.success"]
    assert [line.strip() for line in log.splitlines() if ".success" in line] == registered + events


def test_only_valid_tokens_are_accepted(oauth: OAuth, tmp_path: Path) -> None:
    other = free_port()
    folder = tmp_path / "other"
    folder.mkdir()
    with issuer(oauth, tmp_path), issuer(oauth, folder, port=other):
        good, hasty = token(oauth.url, oauth.resource), token(oauth.url, oauth.resource, "hasty")
        assert outcome(oauth, good) == 200
        public = (oauth.node / "first.pem").read_bytes()
        elsewhere = f"http://127.0.0.1:{oauth.service.ports[0]}/mcp"
        refused = {
            token(oauth.url, elsewhere): f"aud is '{elsewhere}'",
            token(f"http://127.0.0.1:{other}", oauth.resource): f"iss is 'http://127.0.0.1:{other}'",
            forged(good, "none", lambda _text: b""): "its algorithm is 'none'",
            # Key confusion: signed with the public key, which anybody can read, as a shared secret.
            forged(good, "HS256", lambda text: hmac.digest(public, text, "sha256")): "its algorithm is 'HS256'",
        }
        for credential, reason in refused.items():
            assert reason in str(outcome(oauth, credential))
        wait_until(
            lambda: outcome(oauth, hasty) == "Signature has expired",
            timeout=60,
            what=lambda: str(outcome(oauth, hasty)),
        )


def test_the_issuer_can_replace_its_key(oauth: OAuth, tmp_path: Path) -> None:
    with issuer(oauth, tmp_path):
        old = token(oauth.url, oauth.resource)
        assert outcome(oauth, old) == 200
    with issuer(oauth, tmp_path, key="second"):
        new = token(oauth.url, oauth.resource)
        # Not immediately, because unknown keys are fetched at most every few seconds.
        wait_until(lambda: outcome(oauth, new) == 200, timeout=60, what=lambda: str(outcome(oauth, new)))
    assert outcome(oauth, old) == "the issuer has no key 'first'"


def test_while_the_issuer_hangs_known_keys_work_and_unknown_ones_time_out(oauth: OAuth, tmp_path: Path) -> None:
    with issuer(oauth, tmp_path, key="second") as process:
        known = token(oauth.url, oauth.resource)
        wait_until(lambda: outcome(oauth, known) == 200, timeout=60, what=lambda: str(outcome(oauth, known)))
        process.send_signal(signal.SIGSTOP)
        try:
            unknown = forged(known, "RS256", lambda text: text, key_id="third")
            # Meanwhile all are rejected immediately, because the issuer was asked a moment ago.
            wait_until(lambda: outcome(oauth, unknown) == 503, timeout=60, what=lambda: str(outcome(oauth, unknown)))
            assert outcome(oauth, known) == 200
        finally:
            process.send_signal(signal.SIGCONT)
