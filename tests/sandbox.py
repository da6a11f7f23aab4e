"""Runs commands as on a machine that has only what the READMEs ask for."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from packaging.requirements import Requirement

# What the READMEs ask for besides Python, and what the Makefiles call.
TOOLS = [
    "git",
    "make",
    "sh",
    *("chmod", "cmp", "cp", "date", "expand", "grep", "hostname", "mkdir", "rm", "sed", "touch"),
]

# Used if available: by the services' READMEs, by some of their tests, and by their PostgreSQL if run as root.
OPTIONAL_TOOLS = ["curl", "openssl", "pgbouncer", "prlimit", "setpriv", "useradd"]

# Variables of make, pytest and the virtual environment of these tests, which commands under test must not see.
NOT_INHERITED = ("MAKE", "MFLAGS", "PYTEST", "COV", "VIRTUAL_ENV", "PYTHON", "DATABASE_URL", "ARGS", "OUTPUT")

# Lists the tasks as an assistant would. Reads the server's URL and headers from stdin.
MCP_CALL = """
import asyncio, json, sys
import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

async def main(url, headers):
    async with httpx2.AsyncClient(headers=headers) as http:
        async with Client(streamable_http_client(url, http_client=http)) as client:
            result = await client.call_tool("list_tasks", {})
            print(result.content[0].text)

server = json.load(sys.stdin)
asyncio.run(main(server["url"], server["headers"]))
"""

# Prints the version of Python, and of each package except pip, which comes with Python.
PACKAGES = """
import json, platform, re
from importlib.metadata import distributions

packages = {re.sub("[-_.]+", "-", each.name).lower(): each.version for each in distributions()}
packages.pop("pip", None)
print(json.dumps([platform.python_version(), packages]))
"""

# Below the ephemeral ports: an outgoing connection might take one of those before it is used.
PORTS = iter(random.sample(range(20_000, 30_000), 10_000))

SCRIPTS = Path(sys.executable).parent
"""The folder of cookiecutter, cruft, ruff and uv in the template's own environment."""


def make_path(folder: Path, **programs: Path) -> str:
    """Create a folder with only `TOOLS` and these programs, and return it as a PATH."""
    folder.mkdir(parents=True)
    for tool in [*TOOLS, *OPTIONAL_TOOLS]:
        found = shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin")
        assert found or tool in OPTIONAL_TOOLS, f"these tests need {tool} on PATH"
        if found:
            (folder / tool).symlink_to(found)
    for name, program in programs.items():
        # Not a symbolic link, through which a Python would not find its virtual environment.
        (folder / name).write_text(f'#!/bin/sh\nexec {program} "$@"\n')
        (folder / name).chmod(0o755)
    return str(folder)


def environment(**changes: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
    return {**inherited, **changes}


def run(
    *command: str | Path, cwd: Path, env: Mapping[str, str], status: int = 0, timeout: float = 120, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command and check its exit status; a failure shows its output."""
    arguments = [str(argument) for argument in command]
    result = subprocess.run(
        arguments, cwd=cwd, env=env, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
    )
    printed = f"{' '.join(arguments)}\nexit status {result.returncode}\n{result.stdout}\n{result.stderr}"
    assert result.returncode == status, printed
    return result


def files(project: Path) -> dict[str, bytes]:
    """The contents of all files, by their paths in the project."""
    paths = sorted(path for path in project.rglob("*") if path.is_file())
    return {path.relative_to(project).as_posix(): path.read_bytes() for path in paths}


def free_port() -> int:
    """A port that was not returned before: a service needs two different ones."""
    while True:
        port = next(PORTS)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], object], *, timeout: float, what: Callable[[], str]) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what()}"
        time.sleep(0.1)


def locked_packages(lock: str, python_version: str) -> dict[str, str]:
    """The version of each package in a lock file for this platform."""
    lines = re.findall(r"^([a-z0-9][^\\]+)", lock, re.MULTILINE)
    requirements = [Requirement(line) for line in lines]
    target = {"python_version": python_version.rpartition(".")[0], "python_full_version": python_version}
    return {
        each.name: str(each.specifier).removeprefix("==")
        for each in requirements
        if each.marker is None or each.marker.evaluate(target)
    }


def code_blocks(readme: Path, section: str, language: str) -> list[str]:
    """The code blocks of one language in a section of a page."""
    tokens = MarkdownIt().parse(readme.read_text())
    start = next(number for number, token in enumerate(tokens) if token.content == section)
    rest = tokens[start + 2 :]
    end = next((number for number, token in enumerate(rest) if token.type == "heading_open"), len(rest))
    return [token.content for token in rest[:end] if token.type == "fence" and token.info == language]


def broken_links(page: Path) -> list[str]:
    """The links of a page to files or headings that do not exist."""
    broken = []
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]+)?\)", page.read_text(encoding="utf-8")):
        if target.startswith(("https://", "../../tree/")):
            continue
        file = page.parent / target if target else page
        headings = re.findall("^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        anchors = [re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings]
        if not file.exists() or (anchor and anchor not in anchors):
            broken.append(f"{target}#{anchor}" if anchor else target)
    return broken


def program(package: str, *names: str) -> str:
    """The path of a program. If it is missing, skip the test, or fail it if `REQUIRE_PROGRAMS` is set."""
    found = next(filter(None, map(shutil.which, names or (package,))), None)
    if found is None:
        reason = f"{package} is missing: apt-get install {package}"
        (pytest.fail if os.environ.get("REQUIRE_PROGRAMS") == "1" else pytest.skip)(reason)
    return str(found)


def npm_install(folder: Path, *packages: str) -> dict[str, str]:
    """Install packages into a folder, and return an environment in which their programs run."""
    folder.mkdir()
    # Named, so that npm does not ask about the package whose script links the program for this platform.
    (folder / "package.json").write_text(json.dumps({"private": True, "allowScripts": {"node": True}}))
    options = ["--no-fund", "--no-audit", "--no-package-lock"]
    run(program("npm"), "install", *options, *packages, cwd=folder, env=environment(), timeout=300)
    return environment(PATH=f"{folder}/node_modules/.bin:{os.environ['PATH']}")
