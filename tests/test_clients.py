"""MCP clients by others with a rendered service: conformance, tools and errors."""

import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.combinations import SQLITE_UV, Combination
from tests.conftest import Bake, only
from tests.rendered import ISSUE_KEY, MIGRATE
from tests.sandbox import SCRIPTS, environment, free_port, make_path, npm_install, run, wait_until
from tests.test_oauth import running
from tests.test_run import Service, render

pytestmark = [pytest.mark.slow, only(SQLITE_UV)]

PACKAGES = [
    "@modelcontextprotocol/client@2.4.0",
    "@modelcontextprotocol/conformance@0.2.0-alpha.12",
    "@modelcontextprotocol/sdk@1.32.2",
    "mcp-remote@0.15.1",
    "node@22.23.3",  # for the conformance suite; Debian's is older
]
OLD_PYTHON_SDK = "mcp==1.30.0"  # the new one is in a service's lock and used by its own tests

WRONG_KEY = f"key_1_{'A' * 43}"
REFUSED = "This API key is not valid or was revoked"
MISSING = "Send a valid API key as `X-API-Key: KEY` or `Authorization: Bearer KEY`"

# The suite sends no key, so the service adds one to each request.
WITH_KEY = """
import os
from app.main import create_app

service = create_app()
key = (b"x-api-key", os.environ["KEY"].encode())

async def app(scope, receive, send):
    changed = {**scope, "headers": [*scope["headers"], key]} if scope["type"] == "http" else scope
    await service(changed, receive, send)
"""


class Clients(NamedTuple):
    node: Path
    """The folder of the packages from npm."""
    env: dict[str, str]
    service: Service
    url: str
    key: str


@pytest.fixture(scope="module")
def clients(
    bake: Bake, combination: Combination, python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Clients]:
    """A running service, and clients to call it."""
    folder = tmp_path_factory.mktemp("clients")
    service = render(bake, combination, make_path(folder / "bin", **{"python3.12": python}))
    service.make("install")
    env = npm_install(folder / "node", *PACKAGES)
    run(service.python, *MIGRATE[1:], cwd=service.folder, env=service.env)
    key = run(service.python, *ISSUE_KEY[1:], "tests", cwd=service.folder, env=service.env).stdout.strip()
    port, mcp_port = service.ports
    ready = f"http://127.0.0.1:{port}/ready"
    gunicorn = (service.python, "-m", "gunicorn")
    with running(*gunicorn, cwd=service.folder, env=service.env, url=ready, log=folder / "service.log"):
        yield Clients(folder / "node", env, service, f"http://127.0.0.1:{mcp_port}/mcp", key)


# Scenarios and checks that fail because the service lacks what the suite calls.
NOT_HERE = {
    "prompts": [
        "prompts-get-embedded-resource",
        "prompts-get-simple",
        "prompts-get-with-args",
        "prompts-get-with-image",
        "prompts-list",
    ],
    "resources": [
        "resources-list",
        "resources-read-binary",
        "resources-read-text",
        "resources-templates-read",
    ],
    "completion": ["completion-complete"],
    "the suite's own tools": [
        "json-schema-2020-12",
        "tools-call-audio",
        "tools-call-embedded-resource",
        "tools-call-image",
        "tools-call-mixed-content",
        "tools-call-with-progress",
    ],
}
NOT_HERE_IN = {
    "2025-11-25": {
        "logging": ["logging-set-level", "tools-call-with-logging"],
        "resources": ["resources-subscribe", "resources-unsubscribe"],
        "sessions, and streams that they would keep": ["server-sse-multiple-streams", "server-sse-polling"],
        "tools that ask the client": [
            "elicitation-sep1034-defaults",
            "elicitation-sep1330-enums",
            "tools-call-elicitation",
            "tools-call-sampling",
        ],
    },
    "2026-07-28": {
        "prompts and resources": [
            "caching:sep-2549-prompts-list-caching-hints",
            "caching:sep-2549-resources-list-caching-hints",
            "caching:sep-2549-resources-templates-list-caching-hints",
            "sep-2164-resource-not-found",
        ],
        "tools whose arguments are sent as headers too": ["http-custom-header-server-validation"],
        "tools that ask the client": [
            "input-required-result-basic-elicitation",
            "input-required-result-basic-list-roots",
            "input-required-result-basic-sampling",
            "input-required-result-capability-check",
            "input-required-result-missing-input-response",
            "input-required-result-multi-round",
            "input-required-result-multiple-input-requests",
            "input-required-result-non-tool-request",
            "input-required-result-request-state",
            "input-required-result-result-type",
            "input-required-result-tampered-state",
            "input-required-result-validate-input",
            "server-stateless:sep-2575-missing-capability-http-400",
            "server-stateless:sep-2575-server-rejects-undeclared-capability",
        ],
    },
}

# The scenarios of each revision for a server with tools alone.
FOR_TOOLS = {
    "2025-11-25": {
        "dns-rebinding-protection",
        "ping",
        "server-initialize",
        "server-session-lifecycle",
        "tools-call-error",
        "tools-list",
    },
    "2026-07-28": {
        "caching",
        "dns-rebinding-protection",
        "http-header-validation",
        "server-stateless",
        "tools-call-error",
        "tools-list",
    },
}


@pytest.mark.parametrize("revision", NOT_HERE_IN)
def test_it_conforms_to_the_protocol(clients: Clients, revision: str, tmp_path: Path) -> None:
    """Only the scenarios listed above fail, and all of those exist."""
    service = clients.service
    port, mcp_port = free_port(), free_port()
    (tmp_path / "with_key.py").write_text(WITH_KEY)
    changes = {"PYTHONPATH": str(tmp_path), "KEY": clients.key, "PORT": str(port), "MCP_PORT": str(mcp_port)}
    command = ["conformance", "server", "--url", f"http://localhost:{mcp_port}/mcp", "--suite", "all"]
    with running(
        *(service.python, "-m", "gunicorn", "with_key:app"),
        cwd=service.folder,
        env=service.env | changes,
        url=f"http://127.0.0.1:{port}/ready",
        log=tmp_path / "service.log",
    ):
        # The exit status is 1, because some scenarios fail.
        run(*command, "--spec-version", revision, "-o", tmp_path, cwd=clients.node, env=clients.env, status=1)
    listed = {each for group in (NOT_HERE, NOT_HERE_IN[revision]) for names in group.values() for each in names}
    in_part = {each.partition(":")[0] for each in listed if ":" in each}
    found = faults(tmp_path)
    assert FOR_TOOLS[revision] <= found.keys()
    wrong = {f"{name}:{check}" if name in in_part else name for name, checks in found.items() for check in checks}
    assert wrong == listed


def faults(results: Path) -> dict[str, list[str]]:
    """The failed checks of each scenario."""
    found: dict[str, list[str]] = defaultdict(list)
    for file in results.glob("server-*/checks.json"):
        [scenario] = re.findall(r"^server-(.+)-\d{4}-\d\d-\d\dT", file.parent.name)
        checks = json.loads(file.read_text(encoding="utf-8"))
        found[scenario] += [check["id"] for check in checks if check["status"] in ("FAILURE", "WARNING")]
    return found


# Prints the negotiated revision, the tools, and the results of calls: a task created and read, and an error.
TYPESCRIPT = """
const [way, url, key] = process.argv.slice(1);
const { Client } = await import(way == "1" ? "@modelcontextprotocol/sdk/client/index.js" : "@modelcontextprotocol/client");
const { StreamableHTTPClientTransport } = await import(
  way == "1" ? "@modelcontextprotocol/sdk/client/streamableHttp.js" : "@modelcontextprotocol/client"
);
const options = way == "1" ? {} : { versionNegotiation: { mode: way } };
const client = new Client({ name: "tests", version: "1" }, options);
const headers = { Authorization: `Bearer ${key}` };
const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
const call = async (name, args) => await client.callTool({ name, arguments: args });
try {
  await client.connect(transport);
  const { tools } = await client.listTools();
  const created = await call("create_task", { title: "From a client" });
  const read = await call("get_task", { task_id: JSON.parse(created.content[0].text).id });
  const refused = await call("get_task", { task_id: 999999 });
  const revision = transport.protocolVersion ?? client.getNegotiatedProtocolVersion();
  console.log(JSON.stringify([revision, tools.map((tool) => tool.name), [created, read, refused].map(
    ({ content, isError }) => [content[0].text, isError ?? false])]));
} catch (error) {
  console.log(JSON.stringify([error.message, error.data]));
}
await client.close();
"""

PYTHON = """
import asyncio, json, sys
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

async def main(url, key):
    async with (
        streamablehttp_client(url, headers={"Authorization": f"Bearer {key}"}) as (read, write, _),
        ClientSession(read, write) as session,
    ):
        revision = (await session.initialize()).protocolVersion
        tools = [tool.name for tool in (await session.list_tools()).tools]
        created = await session.call_tool("create_task", {"title": "From a client"})
        read = await session.call_tool("get_task", {"task_id": json.loads(created.content[0].text)["id"]})
        refused = await session.call_tool("get_task", {"task_id": 999999})
        print(json.dumps([revision, tools, [[each.content[0].text, each.isError] for each in (created, read, refused)]]))

asyncio.run(main(*sys.argv[1:]))
"""


def assert_it_works(printed: str, revision: str) -> None:
    spoken, tools, [created, read, refused] = json.loads(printed)
    assert spoken == revision
    assert {"create_task", "get_task", "list_tasks"} <= set(tools)
    assert created == read
    assert json.loads(created[0])["title"] == "From a client"
    assert refused == ["There is no task 999999.", True]


@pytest.mark.parametrize(("way", "revision"), [("1", "2025-11-25"), ("legacy", "2025-11-25"), ("auto", "2026-07-28")])
def test_the_typescript_client_works_and_reports_an_invalid_key(clients: Clients, way: str, revision: str) -> None:
    """In both major versions, the second of which supports both revisions."""
    node = ["node", "--input-type=module", "--eval", TYPESCRIPT, way, clients.url]
    assert_it_works(run(*node, clients.key, cwd=clients.node, env=clients.env).stdout, revision)
    assert REFUSED in run(*node, WRONG_KEY, cwd=clients.node, env=clients.env).stdout


def test_the_first_version_of_the_python_client_works(clients: Clients, python: Path) -> None:
    """For a wrong key it shows only the status, because it discards the body."""
    uv = [str(SCRIPTS / "uv"), "run", "--no-project", "--python", str(python), "--with", OLD_PYTHON_SDK]
    command = [*uv, "python", "-c", PYTHON, clients.url]
    assert_it_works(run(*command, clients.key, cwd=clients.node, env=environment()).stdout, "2025-11-25")
    printed = run(*command, WRONG_KEY, cwd=clients.node, env=environment(), status=1).stderr
    assert "Client error '401 Unauthorized'" in printed


@contextmanager
def mcp_remote(clients: Clients, folder: Path, *options: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run `mcp-remote` as an assistant does, which talks to it over stdin and stdout; its log is in `folder`."""
    with (folder / "answers").open("w") as answers, (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ["mcp-remote", clients.url, *options],
            cwd=clients.node,
            env=clients.env | {"MCP_REMOTE_CONFIG_DIR": str(folder), **variables},
            stdin=subprocess.PIPE,
            stdout=answers,
            stderr=log,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()


def test_mcp_remote_serves_assistants_that_only_start_programs(clients: Clients, tmp_path: Path) -> None:
    client = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "tests", "version": "1"}}
    new_task = {"name": "create_task", "arguments": {"title": "From afar"}}
    header = ["--header", "Authorization:${AUTHORIZATION}"]  # as on a project's page
    with mcp_remote(clients, tmp_path, *header, AUTHORIZATION=f"Bearer {clients.key}") as process:

        def send(method: str, params: dict[str, Any], **message: int) -> None:
            assert process.stdin
            process.stdin.write(json.dumps({"jsonrpc": "2.0", "method": method, "params": params, **message}) + "\n")
            process.stdin.flush()

        def result(number: int) -> dict[str, Any]:
            answers = tmp_path / "answers"
            log = tmp_path / "log"
            wait_until(lambda: answers.read_text().count("\n") == number, timeout=60, what=log.read_text)
            found: dict[str, Any] = json.loads(answers.read_text().splitlines()[-1])["result"]
            return found

        send("initialize", client, id=1)
        assert result(1)["protocolVersion"] == "2025-11-25"
        send("notifications/initialized", {})
        send("tools/call", new_task, id=2)
        assert json.loads(result(2)["content"][0]["text"])["title"] == "From afar"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--header", f"Authorization:Bearer {WRONG_KEY}"], REFUSED),
        (["--header", f"X-API-Key:{WRONG_KEY}"], REFUSED),
        ([], MISSING),
    ],
)
def test_mcp_remote_ends_and_reports_an_invalid_key(
    clients: Clients, tmp_path: Path, options: list[str], reason: str
) -> None:
    """If anything suggested a login, it would wait for it forever."""
    with mcp_remote(clients, tmp_path, *options) as process:
        assert process.wait(timeout=60) == 1
    [end] = [line for line in (tmp_path / "log").read_text().splitlines() if "Fatal error: " in line]
    assert f"There is no OAuth here. {reason}" in end


def test_the_examples_in_the_docs_work(clients: Clients) -> None:
    page = (clients.service.folder / "docs" / "assistants.md").read_text(encoding="utf-8")
    page = re.sub(r"http://localhost:\d+/mcp", clients.url, page)
    [python] = re.findall(r"```python\n(.+?)```", page, re.DOTALL)
    [curl] = re.findall(r"^curl .+ --json .+$", page, re.MULTILINE)
    for command in ([clients.service.python, "-c", python], ["sh", "-c", curl]):
        env = clients.service.env | {"API_KEY": clients.key}
        assert "create_task" in run(*command, cwd=clients.service.folder, env=env).stdout
    refused = run("sh", "-c", curl, cwd=clients.service.folder, env=clients.service.env | {"API_KEY": WRONG_KEY}).stdout
    assert json.loads(refused)["detail"].startswith(REFUSED)
    for file in re.findall(r"```json\n(.+?)```", page, re.DOTALL):
        [servers] = [value for name, value in json.loads(file).items() if name in ("mcpServers", "servers")]
        assert clients.url in str(servers)
