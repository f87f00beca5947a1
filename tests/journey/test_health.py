"""What operators and load balancers are told."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import jwt
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from tests.journey.conftest import Platform, eventually
from tests.sse import connect

from trunkline import __version__
from trunkline.api.run import ApiProcess
from trunkline.dev.process import free_port
from trunkline.tenants import tokens


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(trust_env=False) as client:
        yield client


async def samples(http: httpx2.AsyncClient, url: str) -> dict[str, float]:
    """The sums of all samples by name."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families((await http.get(url)).text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


async def test_health_says_version_and_how_many_streams_are_open(
    platform: Platform, http: httpx2.AsyncClient
) -> None:
    api = await platform.api()
    health = (await http.get(f"{api}/health")).json()
    assert (health["status"], health["version"], health["active_connections"]) == ("ok", __version__, 0)
    async with connect(api, key=platform.key) as one, connect(api, key=platform.key) as two:
        assert one.session != two.session
        assert (await http.get(f"{api}/health")).json()["active_connections"] == 2

    async def none_open() -> bool:
        return not (await http.get(f"{api}/health")).json()["active_connections"]

    await eventually(none_open)
    assert (await http.get(f"{api}/livez/")).json() == {"status": "ok"}
    head = await http.head(f"{api}/health")
    assert (head.status_code, head.content) == (200, b"")


async def test_a_pod_is_ready_with_both_stores_and_counts_workers(
    platform: Platform, http: httpx2.AsyncClient
) -> None:
    api = await platform.api()
    ready = await http.get(f"{api}/readyz")
    assert ready.status_code == 200
    assert ready.json() == {"status": "ok", "stores": {"redis": "ok", "postgres": "ok"}, "workers": 0}
    await platform.worker()

    async def sees_the_worker() -> bool:
        return bool((await http.get(f"{api}/readyz")).json()["workers"] == 1)

    await eventually(sees_the_worker)


async def test_a_pod_without_postgres_is_degraded_and_still_ready(
    platform: Platform, http: httpx2.AsyncClient
) -> None:
    api = await platform.api(database_url=f"postgresql://u:p@127.0.0.1:{free_port()}/gone")
    ready = await http.get(f"{api}/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert ready.json()["stores"] == {"redis": "ok", "postgres": "away"}
    assert (await http.get(f"{api}/livez")).status_code == 200


async def test_a_pod_that_loses_redis_is_not_ready_says_so_and_lives(
    platform: Platform, http: httpx2.AsyncClient
) -> None:
    api = await platform.api()
    process = platform.process(ApiProcess)
    redis = process._health._redis
    await redis.aclose()
    ready = await http.get(f"{api}/readyz")
    assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
    assert ready.json()["stores"]["redis"] == "away"
    assert (await http.get(f"{api}/livez")).status_code == 200
    headers = {"authorization": f"Bearer {platform.key}", "content-type": "application/json"}
    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    refused = await http.post(f"{api}/t/demo/messages?session_id={'0' * 32}", json=body, headers=headers)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["id"] == 1


async def test_the_metrics_name_every_station_and_move_with_a_call(
    platform: Platform, http: httpx2.AsyncClient
) -> None:
    api = await platform.api()
    port = free_port()
    worker = await platform.worker(metrics_port=port)
    before = await samples(http, f"{api}/metrics")
    claims = await samples(http, f"http://127.0.0.1:{port}/metrics")
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        await stream.call("echo", {"text": "x"})
        await stream.request("nonsense")
        after = await samples(http, f"{api}/metrics")
        claimed = await samples(http, f"http://127.0.0.1:{port}/metrics")
    worker._metrics.close()
    for name, moved in (
        ("trunkline_accept_total", 4),
        ("trunkline_accept_seconds_count", 4),
        ("trunkline_enqueue_seconds_count", 4),
        ("trunkline_forward_total", 3),
        ("trunkline_deliver_total", 3),
        ("trunkline_deliver_seconds_count", 3),
        ("trunkline_active_connections", 1),
        ("trunkline_sessions_opened_total", 1),
    ):
        assert after[name] - before[name] == moved, name
    for name, moved in (
        ("trunkline_claim_total", 3),
        ("trunkline_claim_wait_seconds_count", 3),
        ("trunkline_execute_total", 3),
        ("trunkline_execute_seconds_count", 3),
        ("trunkline_publish_total", 3),
    ):
        assert claimed[name] - claims[name] == moved, name
    assert "demo" not in (await http.get(f"{api}/metrics")).text


async def test_a_metrics_key_is_asked_for_where_one_is_set(platform: Platform, http: httpx2.AsyncClient) -> None:
    api = await platform.api(metrics_key=SecretStr("m" * 32))
    for headers in ({}, {"authorization": "Bearer x"}, {"authorization": "m" * 31}):
        response = await http.get(f"{api}/metrics", headers=headers)
        assert response.status_code == 401
        assert "trunkline_accept" not in response.text
    assert (await http.get(f"{api}/metrics", headers={"authorization": "Bearer " + "m" * 32})).status_code == 200
    assert (await http.get(f"{api}/metrics", headers={"authorization": "Bearer \u00fc".encode()})).status_code == 401


async def test_a_key_is_verified_with_the_published_key_set(platform: Platform, http: httpx2.AsyncClient) -> None:
    api = await platform.api()
    response = await http.get(f"{api}/.well-known/jwks.json")
    keys = jwt.PyJWKSet.from_dict(response.json())
    token = platform.key.removeprefix(tokens.PREFIX)
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, audience=platform.settings.tenant_url("demo"))
    assert claims["slug"] == "demo"
    assert all("d" not in each for each in response.json()["keys"])
