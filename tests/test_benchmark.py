"""The benchmark: a run of one second on SQLite, with one server that hangs and one that cannot be installed."""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts.benchmark import __main__ as benchmark
from scripts.benchmark import report
from scripts.benchmark.measure import Failure, Request
from scripts.benchmark.servers import CONTENDERS, LOADS, Contender, Launch, Place, environment, free_port
from tests.combinations import TEMPLATE
from tests.sandbox import program

# Becomes ready, and then hangs.
HANGS = """
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path != "/health":
            time.sleep(600)
        self.send_response(200)
        self.end_headers()

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def hanging(place: Place) -> Launch:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    loads = {"read": Request(base, timeout=1)}
    return Launch(
        [sys.executable, "-c", HANGS, str(port)], place.folder, environment(), f"{base}/health", lambda: loads
    )


def missing(_place: Place) -> Launch:
    raise Failure("no such package\nand a long traceback")


@pytest.mark.slow
def test_a_run_on_sqlite_reports_each_server_even_if_it_hangs_or_cannot_be_installed(tmp_path: Path) -> None:
    program("wrk")
    chosen = [
        *(each for each in CONTENDERS if each.name in ("bare driver", "this service")),
        Contender("hanging", "", hanging),
        Contender("missing", "", missing),
    ]
    found = benchmark.benchmark(tmp_path / "run", ["sqlite"], seconds=1, rounds=1, choose=lambda _: chosen)
    report.write(found, tmp_path / "docs")

    bare, ours, hangs, has_not = json.loads((tmp_path / "docs" / "benchmark.json").read_text())["databases"]["sqlite"]
    assert [*ours["loads"]] == LOADS
    assert [*bare["loads"]] == LOADS[:4]
    for result in [*ours["loads"].values(), *bare["loads"].values()]:
        assert result["failed"] == 0
        assert result["requests_per_second"] > 0
        assert 0 < result["p50"] <= result["p99"]
    assert ours["loads"]["read"]["cpu"] > bare["loads"]["read"]["cpu"] > 0
    assert ours["memory"] > bare["memory"] > 0
    assert ours["start_cpu"] > 0
    assert hangs["loads"]["read"]["failure"].startswith("no answer")
    assert has_not["failure"] == "cannot be installed: no such package"

    page = (tmp_path / "docs" / "benchmark.md").read_text()
    assert page == report.markdown(found)
    assert "| read by id | hanging | failed: no answer" in page
    assert "- missing is not measured: it cannot be installed: no such package\n" in page
    ElementTree.parse(tmp_path / "docs" / "benchmark.svg")


def test_the_report_matches_the_last_run() -> None:
    found = json.loads((report.DOCS / "benchmark.json").read_text(encoding="utf-8"))
    readme = (TEMPLATE / "README.md").read_text(encoding="utf-8")
    assert report.in_readme(found, readme) == readme
    assert report.markdown(found) == (report.DOCS / "benchmark.md").read_text(encoding="utf-8")
    picture = (report.DOCS / "benchmark.svg").read_text(encoding="utf-8")
    assert report.svg(found) == picture
    assert "prefers-color-scheme: dark" in picture
    assert len(picture) < 100_000
