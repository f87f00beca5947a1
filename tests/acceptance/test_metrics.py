"""What dashboards, rules and alerts ask for is what real processes tell."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from tests.acceptance.pods import TLS, Deployment, deployed
from tests.acceptance.sessions import Session
from tests.deploy.monitoring import metrics_of_everything

from trunkline.dev.process import free_port
from trunkline.settings import Settings


@pytest.fixture
async def deployment(settings: Settings, tmp_path: Path) -> AsyncIterator[Deployment]:
    """One whose metrics want a key."""
    async with deployed(settings.model_copy(update={"metrics_key": "a key for Prometheus"}), tmp_path) as made:
        yield made


def samples(url: str, key: str = "") -> set[str]:
    """The names of all samples of a page."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    page = httpx2.get(url, headers=headers, timeout=10, trust_env=False, verify=TLS)
    assert page.status_code == 200, page.text
    return set(re.findall(r"^([a-z_]+)[ {]", page.text, re.MULTILINE))


async def test_a_scrape_finds_every_metric_that_dashboards_rules_and_alerts_name(deployment: Deployment) -> None:
    ports = []
    pods = []
    for start in (deployment.api, deployment.worker):
        ports.append(free_port())
        deployment.settings = deployment.settings.model_copy(update={"metrics_port": ports[-1]})
        pods.append(await start())
    api, _ = pods
    async with Session(deployment.key, [api.url], posts=api.url).opened() as session:
        assert await session.call("add", a=3, b=5) == "8"

    there = {name for port in ports for name in samples(f"http://127.0.0.1:{port}/metrics")}
    there |= samples(f"{api.url}/v1/operator/metrics", "a key for Prometheus")
    assert metrics_of_everything() <= there
    assert api.get("/metrics").status_code == 401, "where everybody comes, it wants the key"
    assert samples(f"{api.url}/metrics", "a key for Prometheus") <= there
