"""/docs and /redoc are served by the service itself, and may run no other scripts."""

import re
from html import escape

import pytest
from starlette.testclient import TestClient

from app.settings import TITLE
from app.web.docs import DOCS_PATHS
from tests.conftest import client_with

PAGES = {"/docs": "swagger-ui-bundle.js", "/redoc": "redoc.standalone.js"}


@pytest.fixture
def anyone(admin: TestClient) -> TestClient:
    return client_with(admin)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_loads_files_only_from_the_service(anyone: TestClient, path: str) -> None:
    page = anyone.get(path).text
    loaded = re.findall(r'(?:src|href|spec-url)="([^"]+)"', page)
    assert f"docs/{PAGES[path]}" in loaded
    for address in loaded:  # relative, because a proxy may serve the page below any path
        answer = anyone.get(f"/{address}")
        assert (answer.status_code, len(answer.content) > 0) == (200, True), address


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_no_inline_scripts(anyone: TestClient, path: str) -> None:
    page = anyone.get(path).text
    assert re.findall(r"<script(?! src=)|\son\w+=|javascript:", page) == []
    policy = anyone.get(path).headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("path", sorted(DOCS_PATHS - {"/openapi.json"}))
def test_browsers_trust_the_declared_type_and_revalidate(anyone: TestClient, path: str) -> None:
    headers = anyone.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-cache"


def test_a_cached_file_is_not_sent_again(anyone: TestClient) -> None:
    first = anyone.get("/docs/swagger-ui-bundle.js")
    again = anyone.get("/docs/swagger-ui-bundle.js", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_the_title_of_the_service(anyone: TestClient, path: str) -> None:
    assert f"<title>{escape(TITLE)}</title>" in anyone.get(path).text
