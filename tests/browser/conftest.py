"""Chromium, with which tests use the page as a person does; whatever it complains about fails the test."""

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

WAIT_MILLISECONDS = 30_000
expect.set_options(timeout=WAIT_MILLISECONDS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "browser" in item.path.parts:
            item.add_marker("browser")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium of the machine, or else the one that `playwright install chromium` has brought."""
    options = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        yield browser
        browser.close()


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[OpenPage]:
    """Opens pages of a server; errors in their consoles and requests to other hosts fail the test.

    Tests that make requests fail mark it with `@pytest.mark.allowed("part of the message")`.
    """
    complaints: list[str] = []
    pages: list[Page] = []
    allowed = [text for mark in request.node.iter_markers("allowed") for text in mark.args]

    def opened(url: str, path: str = "", *, wait_for: str = "h1", **options: Any) -> Page:
        page = browser.new_page(**options)
        pages.append(page)
        page.set_default_timeout(WAIT_MILLISECONDS)
        page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda sent: sent.url.startswith((url, "blob:")) or complaints.append(sent.url))
        page.goto(f"{url}/{path}")
        page.wait_for_selector(wait_for)
        return page

    yield opened
    for page in pages:
        page.close()
    assert [text for text in complaints if not any(part in text for part in allowed)] == []
