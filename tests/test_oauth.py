"""OAuth from end to end: a certified authorization server, the official client, and a rendered service between them."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.combinations import SQLITE_UV, Combination
from tests.conftest import Bake, only
from tests.sandbox import environment, free_port, make_path, program, run, wait_until
from tests.test_run import render

OIDC_PROVIDER = "oidc-provider@9.13.3"

# Lets anybody register and log in; its access tokens are JWTs for the resource that the client names.
ISSUER = """
import { Provider } from "oidc-provider";

const port = process.argv[2];
const provider = new Provider(`http://127.0.0.1:${port}`, {
  scopes: ["openid", "offline_access", "read", "write"],
  issueRefreshToken: () => true,
  features: {
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

# Registers, logs in, calls a tool, refreshes the token and calls again, as an assistant would; prints what it went through.
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

async def main(url):
    storage, person = Storage(), Person()
    metadata = OAuthClientMetadata(client_name="tests", redirect_uris=["http://localhost:7777/callback"])
    auth = OAuthClientProvider(url, metadata, storage, person.open, person.come_back)
    answers, tokens = [], []
    async with httpx2.AsyncClient(auth=auth, timeout=30) as http:
        for _ in range(2):
            async with Client(streamable_http_client(url, http_client=http)) as client:
                result = await client.call_tool("create_task", {"title": "By OAuth"})
                answers.append(json.loads(result.content[0].text)["title"])
            tokens.append(storage.tokens.access_token)
            auth.context.token_expiry_time = 1  # long ago
    print(json.dumps({"answers": answers, "tokens": tokens, "asked": person.asked}))

asyncio.run(main(sys.argv[1]))
"""


@contextmanager
def running(*command: str | Path, cwd: Path, env: dict[str, str], url: str, log: Path) -> Iterator[None]:
    """Run a server until it answers at the URL, and end it afterwards."""
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=output, stderr=output)
    try:
        wait_until(lambda: answers(url), timeout=60, what=lambda: f"{url} answers: {log.read_text()}")
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.mark.slow
@only(SQLITE_UV)
def test_the_official_client_gets_in_through_a_certified_authorization_server(
    bake: Bake, combination: Combination, python: Path, tmp_path: Path
) -> None:
    """Discovery, registration, authorization code with PKCE and `resource`, a call, a refresh, another call."""
    npm = program("npm")
    service = render(bake, combination, make_path(tmp_path / "bin", **{"python3.12": python}))
    service.make("install")
    node = tmp_path / "issuer"
    node.mkdir()
    run(npm, "install", "--no-fund", "--no-audit", OIDC_PROVIDER, cwd=node, env=environment(), timeout=300)
    (node / "issuer.mjs").write_text(ISSUER)
    issuer, (port, mcp_port) = free_port(), service.ports
    url, resource = f"http://127.0.0.1:{issuer}", f"http://127.0.0.1:{mcp_port}/mcp"
    env = {**service.env, "OAUTH_ISSUER": url, "MCP_PUBLIC_URL": resource}
    gunicorn = (service.python, "-m", "gunicorn")
    log = tmp_path / "issuer.log"
    with (
        running("node", "issuer.mjs", str(issuer), cwd=node, env=environment(), url=f"{url}/jwks", log=log),
        running(
            *gunicorn, cwd=service.folder, env=env, url=f"http://127.0.0.1:{port}/ready", log=tmp_path / "service.log"
        ),
    ):
        printed = run(service.python, "-c", CLIENT, resource, cwd=service.folder, env=service.env).stdout
    result = json.loads(printed)
    assert result["answers"] == ["By OAuth", "By OAuth"]
    assert result["tokens"][0] != result["tokens"][1]
    assert result["asked"] | {"resource": resource, "code_challenge_method": "S256"} == result["asked"]
    assert {"read", "write"} <= set(result["asked"]["scope"].split())
    events = ["registration_create.success", "grant.success authorization_code", "grant.success refresh_token"]
    assert [line.strip() for line in log.read_text().splitlines() if ".success" in line] == events
