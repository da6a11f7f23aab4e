"""A service's docs in a real browser without internet access."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Page, sync_playwright

from tests.sandbox import program


@contextmanager
def page() -> Iterator[tuple[Page, list[str]]]:
    """A page, and the list of URLs that it requests."""
    chromium = program("chromium", "chromium", "chromium-browser", "google-chrome")
    without_internet = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", without_internet])
        opened = browser.new_page(viewport={"width": 1280, "height": 800})
        requests: list[str] = []
        opened.on("request", lambda request: requests.append(request.url))
        yield opened, requests
        browser.close()


def open_redoc(page: Page, url: str) -> None:
    page.goto(f"{url}/redoc")
    page.get_by_role("heading", name="Create Task").wait_for()


def open_swagger_ui(page: Page, url: str) -> None:
    page.goto(f"{url}/docs")
    page.get_by_role("button", name="Authorize").wait_for()


def try_out(page: Page, key: str, operation: str, body: str) -> Any:
    """Authorize with a key, call an operation with this body, and return the response's body."""
    page.get_by_role("button", name="Authorize").click()
    login = page.locator(".modal-ux")
    login.get_by_label("Value").first.fill(key)
    login.get_by_role("button", name="Apply credentials").first.click()
    login.get_by_role("button", name="Close").first.click()
    block = page.locator(".opblock", has_text=operation)
    block.get_by_role("button").first.click()
    block.get_by_role("button", name="Try it out").click()
    block.get_by_role("textbox").fill(body)
    with page.expect_response(lambda response: response.request.method == "POST") as answer:
        block.get_by_role("button", name="Execute").click()
    block.locator(".live-responses-table").wait_for()
    return json.loads(answer.value.text())
