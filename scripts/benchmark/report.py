"""Writes a run's page, chart and table. `python -m scripts.benchmark.report` does so from docs/benchmark.json."""

import json
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from scripts.benchmark.servers import LOADS, TEMPLATE

DOCS = TEMPLATE / "docs"
README = TEMPLATE / "README.md"
BLOCK = re.compile(r"(?<=<!-- make benchmark writes this -->\n).*?(?=<!-- until here -->\n)", re.DOTALL)
TITLES = {"postgres": "PostgreSQL", "sqlite": "SQLite"}
NAMES = {
    "health": "health",
    "read": "read by id",
    "list": "list of 50",
    "create": "create",
    "get_task": "MCP get_task",
    "list_tasks": "MCP list_tasks",
}
OURS = "this service"


def write(found: dict[str, Any], output: Path | None = None) -> None:
    """Write to docs/ and README.md, or to another folder."""
    folder = output or DOCS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.json").write_text(json.dumps(rounded(found), indent=1) + "\n", encoding="utf-8")
    (folder / "benchmark.md").write_text(markdown(found), encoding="utf-8")
    (folder / "benchmark.svg").write_text(svg(found), encoding="utf-8")
    if output is None:
        README.write_text(in_readme(found, README.read_text(encoding="utf-8")), encoding="utf-8")


def rounded(value: Any) -> Any:
    """Round to four significant digits, beyond which measurements mean nothing."""
    match value:
        case float():
            return float(f"{value:.4g}")
        case dict():
            return {name: rounded(each) for name, each in value.items()}
        case list():
            return [rounded(each) for each in value]
    return value


def ours(servers: list[dict[str, Any]]) -> dict[str, Any]:
    return next((each for each in servers if each["name"] == OURS), {"loads": {}})


def table(headings: list[str], rows: list[list[str]], left: int = 1) -> str:
    lines = [headings, ["---"] * left + ["---:"] * (len(headings) - left), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def cpu(result: dict[str, Any] | None) -> str:
    if result is None:
        return "-"
    return "failed" if "failure" in result else number(result["cpu"]) + share(result)


def share(result: dict[str, Any]) -> str:
    return f" ({result['failed']:.1%} failed)" if result["failed"] >= 0.0005 else ""


def names(servers: list[dict[str, Any]]) -> list[str]:
    return [name for name in LOADS if any(name in each["loads"] for each in servers)]


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def mib(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} MiB"


def overview(servers: list[dict[str, Any]]) -> str:
    """A table of CPU microseconds per request, start and memory of each server."""
    loads = names(servers)
    rows = [
        [
            each["name"],
            *(cpu(each["loads"].get(load)) for load in loads),
            seconds(each.get("start")),
            mib(each.get("memory")),
        ]
        for each in servers
    ]
    return table(["CPU µs a request", *(NAMES[load] for load in loads), "start", "memory"], rows)


def failures(servers: list[dict[str, Any]]) -> str:
    return "".join(f"- {each['name']} is not measured: it {each['failure']}\n" for each in servers if "failure" in each)


def details(servers: list[dict[str, Any]]) -> str:
    rows = []
    for load in names(servers):
        base = ours(servers)["loads"].get(load, {}).get("cpu")
        for each in servers:
            if (result := each["loads"].get(load)) is None:
                continue
            if "failure" in result:
                rows.append([NAMES[load], each["name"], f"failed: {result['failure']}", *[""] * 4])
                continue
            rate = f"{result['requests_per_second']:.0f}{share(result)}"
            times = [f"{result[name]:.1f} ms" for name in ("p50", "p99")]
            ratio = f"{result['cpu'] / base:.2f}" if base else "-"
            rows.append([NAMES[load], each["name"], rate, *times, number(result["cpu"]), ratio])
    return table(["request", "server", "requests/s", "p50", "p99", "CPU µs", f"CPU, of {OURS}"], rows, left=2)


def conditions(found: dict[str, Any]) -> str:
    machine = found["machine"]
    return (
        f"{found['clients']} clients, 2 workers each, {found['rows']} rows, {machine['cpus']} CPUs "
        f"({machine['model']}), Python {found['python']}, commit {found['commit']}. "
        f"Each value is the median of {found['rounds']} x {found['seconds']} s, taken in turn"
    )


def markdown(found: dict[str, Any]) -> str:
    """Return the page for docs/."""
    found = rounded(found)
    parts = [
        "# Benchmark\n",
        "`make benchmark` measures all of this and writes this page; it needs wrk and takes ten minutes.\n",
        f"{conditions(found)}. CPU time is that of all processes of the server, in microseconds a request; memory is their "
        "proportional set size after the load, and start the time from the command to the first success.\n",
    ]
    described: dict[str, str] = {}
    for servers in found["databases"].values():
        for each in servers:
            version = "".join(f", {version}" for version in each.get("versions", []))
            described.setdefault(each["name"], f"- **{each['name']}**: {each['what']}{version}\n")
    parts.append("".join(described.values()))
    for database, servers in found["databases"].items():
        parts += [f"## {TITLES[database]}\n", overview(servers), failures(servers), details(servers)]
    if "template" in found:
        parts += ["## Rendering\n", rendering(found["template"])]
    return "\n".join(part for part in parts if part)


def rendering(times: dict[str, float]) -> str:
    return (
        f"`cookiecutter --no-input` takes {times['this']:.2f} s with this template and {times['smallest']:.2f} s with one of a "
        f"single file and no hooks: {times['this'] / times['smallest']:.2f} times as long.\n"
    )


def in_readme(found: dict[str, Any], text: str) -> str:
    """Return README.md with its table replaced."""
    found = rounded(found)
    lines = ["![CPU time of a request, for each server](docs/benchmark.svg)\n\n"]
    for database, servers in found["databases"].items():
        lines.append(overview(servers).replace("CPU µs a request", f"{TITLES[database]}: CPU µs a request", 1) + "\n")
    lines.append(
        f"{conditions(found)}. [The whole run](docs/benchmark.md) has requests/s, latencies and what each server is.\n"
    )
    block: Callable[[re.Match[str]], str] = lambda _match: "".join(lines)  # noqa: E731
    assert BLOCK.search(text), "README.md has no block for the benchmark"
    return BLOCK.sub(block, text)


# Colors for light and dark themes, on any background.
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #3d444d }
.title { font-weight: 600; font-size: 14px }
.small { font-size: 11px; fill: #59636e }
.bar { fill: #8c959f }
.ours { fill: #1a7f37 }
text.ours { font-weight: 600 }
@media (prefers-color-scheme: dark) {
  text { fill: #d1d7e0 }
  .small { fill: #9198a1 }
  .bar { fill: #656c76 }
  .ours { fill: #3fb950 }
}
"""
WIDTH, LABEL, ROW, GAP = 800, 130, 17, 12


def svg(found: dict[str, Any]) -> str:
    """A bar chart of CPU time per request: a column for each database, a group for each request."""
    found = rounded(found)
    column = WIDTH / max(1, len(found["databases"]))
    height = 0.0
    shapes = []
    for position, (database, servers) in enumerate(found["databases"].items()):
        left = position * column
        top = 22.0
        shapes.append(text(left + 4, top, f"{TITLES[database]}: CPU µs a request, less is better", "title"))
        measured = [result["cpu"] for each in servers for result in each["loads"].values() if "failure" not in result]
        scale = (column - LABEL - 60) / max(measured, default=1)
        for load in names(servers):
            top += GAP + ROW
            shapes.append(text(left + 4, top, NAMES[load], "small"))
            for each in servers:
                if (result := each["loads"].get(load)) is None:
                    continue
                top += ROW
                mark = " ours" if each["name"] == OURS else ""
                shapes.append(text(left + LABEL - 6, top, each["name"], f"name{mark}", end=True))
                width = 0 if "failure" in result else result["cpu"] * scale
                shapes.append(
                    f'<rect class="bar{mark}" x="{left + LABEL:.1f}" y="{top - 11:.1f}" width="{width:.1f}" height="13" rx="2"/>'
                )
                shapes.append(text(left + LABEL + width + 5, top, cpu(result), f"value{mark}"))
        height = max(height, top + GAP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}" '
        f'role="img">\n<title>CPU microseconds a request</title>\n<style>{STYLE}</style>\n'
        + "\n".join(shapes)
        + "\n</svg>\n"
    )


def text(x: float, y: float, content: str, kind: str, *, end: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{anchor}>{escape(content)}</text>'


if __name__ == "__main__":
    write(json.loads((DOCS / "benchmark.json").read_text(encoding="utf-8")))
