"""docs/browser.html, as a person uses it: EventSource by a ticket, posts by fetch, from another origin."""

from __future__ import annotations

from signal import SIGTERM

from playwright.async_api import Page, expect
from tests.acceptance.pods import Deployment
from tests.browser.conftest import PATIENCE_MS, OpenPage


async def fill_in(page: Page, url: str, key: str) -> None:
    await page.get_by_label("SSE URL").fill(f"{url}/t/demo/sse")
    await page.get_by_label("API key").fill(key)


async def add(page: Page) -> None:
    await page.get_by_role("button", name="add 3 and 5").click()


async def answers(page: Page, text: str) -> None:
    await expect(page.locator("#answer")).to_have_text(text, timeout=PATIENCE_MS)


async def test_the_page_calls_a_tool_and_shows_its_answer(deployment: Deployment, open_page: OpenPage) -> None:
    api, _ = await deployment.start(apis=1, workers=1)
    page = await open_page("browser.html")
    await fill_in(page, api.url, deployment.key)
    await add(page)
    await answers(page, "8")


async def test_the_page_goes_on_by_itself_after_its_pod_was_replaced(
    deployment: Deployment, open_page: OpenPage
) -> None:
    """Same session, taken up with a new ticket and the id of the last event that it saw."""
    api, _ = await deployment.start(apis=1, workers=1)
    page = await open_page("browser.html")
    await fill_in(page, api.url, deployment.key)
    await add(page)
    await answers(page, "8")
    api.signal(SIGTERM)
    assert await api.ended() == 0
    await deployment.api(port=api.port)
    log = page.locator("#log")
    await expect(log).to_contain_text("stream closed", timeout=PATIENCE_MS)
    await page.evaluate("document.getElementById('answer').textContent = ''")
    await page.wait_for_function(
        "log => log.textContent.split('endpoint ').length === 3", arg=await log.element_handle()
    )
    await add(page)
    await answers(page, "8")
    endpoints = [line for line in (await log.inner_text()).splitlines() if line.startswith("endpoint ")]
    assert len(endpoints) == 2
    assert len(set(endpoints)) == 1


async def test_the_page_says_why_where_the_key_is_refused(deployment: Deployment, open_page: OpenPage) -> None:
    (api,) = await deployment.start(apis=1, workers=0)
    page = await open_page("browser.html")
    await fill_in(page, api.url, "tlk_not-a-key")
    await add(page)
    await answers(page, "This API key is not valid.")
