"""`open_page`: pages of docs/ in a headless Chromium, served from another origin than the platform's."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright
from tests.acceptance.pods import Deployment, deployed

from trunkline.settings import Settings

DOCS = Path(__file__).resolve().parents[2] / "docs"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_MS = 20_000

OpenPage = Callable[[str], Awaitable[Page]]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name for it
        """A test's output is no place for a line per file."""


@pytest.fixture
async def deployment(settings: Settings, tmp_path: Path) -> AsyncIterator[Deployment]:
    """A deployment with the tenant `demo` and a key, and no pods yet; those that a test starts end with it."""
    async with deployed(settings, tmp_path) as made:
        yield made


@pytest.fixture
def docs_url() -> Iterator[str]:
    """Where docs/ is served, as the README says to."""
    handler = functools.partial(_Quiet, directory=str(DOCS))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the machine's browser; the driver's own download is not asked for."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    return found


@pytest.fixture
async def open_page(chromium: str, docs_url: str) -> AsyncIterator[OpenPage]:
    """Opens a page of docs/ by its name; the test fails if the page throws."""
    # Chromium's sandbox refuses root, whom containers run tests as.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    thrown: list[Exception] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=options)

        async def open_one(name: str) -> Page:
            page = await browser.new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.on("pageerror", lambda error: thrown.append(error))
            await page.goto(f"{docs_url}/{name}")
            return page

        yield open_one
        await browser.close()
    assert thrown == []
