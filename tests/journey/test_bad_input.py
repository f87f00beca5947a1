"""Every row of the status table. Nothing of it reaches a worker, nothing is a 500, nothing stops others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx2
import orjson
import pytest
from tests.journey.conftest import Platform
from tests.sse import PATIENCE, Stream, connect, text_of

PING = {"jsonrpc": "2.0", "id": 0, "method": "ping"}


@pytest.fixture
async def stream(platform: Platform) -> AsyncIterator[Stream]:
    """A session on a pod without any worker: what is accepted stays in the lane, where a test can count it."""
    api = await platform.api(tenant_in_flight=50)
    async with connect(api, key=platform.key) as opened:
        yield opened


@pytest.fixture
async def waiting(platform: Platform, stream: Stream) -> AsyncIterator[None]:
    """Nothing has been accepted when the test ends."""
    yield
    tenant = await platform.tenants.get("demo")
    assert await platform.redis.command("XLEN", platform.redis.keys.tenant(tenant.id).calls) == 0


@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","id":2}', -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b"[" * 10_000 + b"]" * 10_000 + b"}", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":' + b"[" * 900 + b"]" * 900 + b"}}", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":[' + b"1," * 200_000 + b"1]}}", -32600),
        (b"[]", -32600),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600),
        (b"1", -32600),
        (b"null", -32600),
        (b"{}", -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":"' + b"x" * 1000 + b'","method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":""}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":"x"}', -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"2.0","result":{}}', -32600),
        (b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{}}', -32600),
    ],
)
async def test_what_is_no_message_is_400_with_its_code(stream: Stream, body: bytes, code: int) -> None:
    response = await stream.post(body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == code


@pytest.mark.usefixtures("waiting")
async def test_a_body_over_the_limit_is_413_whether_it_says_so_or_not(stream: Stream) -> None:
    large = b'{"jsonrpc":"2.0","id":1,"method":"' + b"x" * 2_097_152 + b'"}'
    assert (await stream.post(large)).status_code == 413

    async def in_pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 65_536):
            yield large[start : start + 65_536]

    headers = {**stream.headers, "content-type": "application/json"}
    response = await stream.http.post(stream.base + stream.endpoint, content=in_pieces(), headers=headers)
    assert response.status_code == 413


@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"])
async def test_what_is_not_declared_as_json_is_415(stream: Stream, kind: str) -> None:
    assert (await stream.post(PING, headers={"content-type": kind})).status_code == 415


@pytest.mark.usefixtures("waiting")
async def test_a_post_without_session_is_400_and_says_what_is_missing(stream: Stream) -> None:
    stream.endpoint = "/t/demo/messages"
    response = await stream.post(PING)
    assert response.status_code == 400
    assert "session_id" in response.json()["error"]["message"]


async def test_a_session_of_another_key_or_tenant_looks_like_none_at_all(platform: Platform, stream: Stream) -> None:
    await platform.tenants.create("other")
    other_key, _ = await platform.keys.issue("demo")
    other_tenants_key, _ = await platform.keys.issue("other")
    theirs, nobodys = stream.endpoint, f"/t/demo/messages?session_id={'0' * 32}"
    answers = set()
    for endpoint, key in (
        (theirs, other_key),
        (nobodys, other_key),
        (nobodys, platform.key),
        ("/t/demo/messages?session_id=short", platform.key),
        (theirs.replace("/demo/", "/other/"), other_tenants_key),
        (nobodys.replace("/demo/", "/other/"), other_tenants_key),
    ):
        stream.endpoint = endpoint
        response = await stream.post(PING, headers={"authorization": f"Bearer {key}"})
        headers = tuple(sorted((k, v) for k, v in response.headers.items() if k != "date"))
        answers.add((response.status_code, headers, response.content))
    assert len(answers) == 1
    assert answers.pop()[0] == 404


@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize(
    ("start", "size", "end"),
    [
        ("GET /livez HTTP/1.1\r\nx-long: ", 70_000, "\r\nhost: localhost\r\n\r\n"),
        ("GET /livez HTTP/1.1\r\nx-long: ", 600_000, ""),
        ("GET /t/demo/sse?ticket=", 600_000, ""),
    ],
    ids=["whole", "header without end", "query without end"],
)
async def test_a_head_beyond_64_kib_is_431(stream: Stream, start: str, size: int, end: str) -> None:
    url = urlsplit(stream.base)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    head = start + "x" * size + end
    with contextlib.closing(writer):
        with contextlib.suppress(ConnectionError):  # it need not read all of this
            for piece in range(0, len(head), 10_000):
                writer.write(head[piece : piece + 10_000].encode())
                await writer.drain()
        async with asyncio.timeout(PATIENCE):
            assert b" 431 " in await reader.readline()


async def test_no_key_or_a_bad_one_is_401_for_posts_and_streams(platform: Platform, stream: Stream) -> None:
    await platform.tenants.create("other")
    foreign, _ = await platform.keys.issue("other")
    revoked, record = await platform.keys.issue("demo")
    await platform.keys.revoke(record.id)
    head, payload, signature = platform.key.split(".")
    tampered = f"{head}.{payload[:-3]}AAA.{signature}"
    for value in (
        "",
        "Bearer",
        "Bearer nonsense",
        "Basic dTpw",
        f"Basic {platform.key}",
        f"Bearer {foreign}",
        f"Bearer {tampered}",
        f"Bearer {platform.key[4:]}",
        f"Bearer {revoked}",
    ):
        for response in (
            await stream.post(PING, headers={"authorization": value}),
            await stream.http.get(f"{stream.base}/t/demo/sse", headers={"authorization": value}),
        ):
            assert response.status_code == 401, value
            assert response.headers["www-authenticate"].startswith("Bearer")
            assert response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/t/nobody/sse", 404),
        ("POST", "/t/nobody/messages?session_id=" + "0" * 32, 404),
        ("GET", "/t/demo/nothing", 404),
        ("GET", "/t//sse", 404),
        ("GET", "/t/demo/sse/more", 404),
        ("GET", "/nothing", 404),
        ("GET", "/.well-known/oauth-protected-resource", 404),
        ("GET", "/.well-known/oauth-authorization-server/t/demo/sse", 404),
        ("GET", "/.well-known/openid-configuration", 404),
        ("POST", "/register", 404),
        ("POST", "/t/demo/sse", 405),
        ("DELETE", "/t/demo/sse", 405),
        ("GET", "/t/demo/messages", 405),
        ("PUT", "/t/demo/messages", 405),
        ("POST", "/health", 405),
    ],
)
async def test_unknown_addresses_and_methods_are_answered_in_json(
    platform: Platform, stream: Stream, method: str, path: str, status: int
) -> None:
    response = await stream.http.request(method, stream.base + path, headers=stream.headers)
    assert response.status_code == status
    assert response.json()["error"]["message"]
    assert response.headers["content-type"] == "application/json"
    assert status != 405 or response.headers["allow"]


async def test_a_stream_that_may_not_be_an_event_stream_is_406(stream: Stream) -> None:
    headers = {**stream.headers, "accept": "application/json"}
    assert (await stream.http.get(f"{stream.base}/t/demo/sse", headers=headers)).status_code == 406


@pytest.mark.parametrize("path", ["/t/demo/sse", "/t/demo/messages", "/health", "/metrics", "/.well-known/jwks.json"])
async def test_a_bad_origin_is_403_and_a_bad_host_is_421_on_every_route(stream: Stream, path: str) -> None:
    url = stream.base + path
    evil = {**stream.headers, "origin": "https://evil.example"}
    assert (await stream.http.get(url, headers=evil)).status_code == 403
    assert (await stream.http.get(url, headers={**stream.headers, "host": "evil.example"})).status_code == 421
    assert (await stream.http.options(url, headers=evil)).status_code == 403


async def test_a_platform_on_this_machine_answers_for_names_below_localhost(stream: Stream) -> None:
    for host, status in {"demo.localhost": 200, "localhost.evil.example": 421, "evillocalhost": 421}.items():
        assert (await stream.http.get(f"{stream.base}/health", headers={"host": host})).status_code == status


async def test_a_browser_of_an_allowed_origin_may_ask_without_a_key(stream: Stream) -> None:
    headers = {
        "origin": "http://localhost:6274",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,mcp-param-region",
    }
    response = await stream.http.options(f"{stream.base}/t/demo/messages", headers=headers)
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == "http://localhost:6274"
    assert "POST" in response.headers["access-control-allow-methods"]
    allowed = response.headers["access-control-allow-headers"]
    for name in ("authorization", "content-type", "last-event-id", "mcp-protocol-version", "mcp-param-region"):
        assert name in allowed
    refused = await stream.http.get(f"{stream.base}/t/demo/sse", headers={"origin": "http://localhost:6274"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "http://localhost:6274"


async def test_a_key_without_the_scope_is_403(platform: Platform, stream: Stream) -> None:
    reader, _ = await platform.keys.issue("demo", scopes=["mcp:read"])
    async with connect(stream.base, key=reader) as reading:
        response = await reading.post({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo"}})
        assert response.status_code == 403
        assert (await reading.post({**PING, "method": "tools/list"})).status_code == 202


async def test_limits_of_a_tenant_are_429_with_a_time_to_wait(platform: Platform, stream: Stream) -> None:
    await platform.tenants.set("demo", {"in_flight": "2", "sessions": "1"})
    for number in range(2):
        assert (await stream.post({**PING, "id": number})).status_code == 202
    refused = await stream.post(PING)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    with pytest.raises(ConnectionRefusedError) as no_session:
        async with connect(stream.base, key=platform.key):
            pass
    assert no_session.value.args[0] == 429


async def test_a_suspended_tenant_is_403_and_its_streams_end(platform: Platform, stream: Stream) -> None:
    await platform.tenants.suspend("demo")
    await stream.ended()
    assert (await stream.post(PING)).status_code == 403
    await platform.tenants.resume("demo")


async def test_bad_clients_do_not_stop_others(platform: Platform) -> None:
    api = await platform.api()
    await platform.worker()
    host, port = api.removeprefix("http://").split(":")
    async with connect(api, key=platform.key) as stream:
        await stream.initialize()
        for noise in (
            b"\x00\x01\x02",
            b"GET /t/demo/sse HTTP/9\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        ):
            with socket.create_connection((host, int(port)), PATIENCE) as raw:
                raw.sendall(noise)
        assert text_of(await stream.call("echo", {"text": "fine"})) == "fine"


async def test_no_secret_is_in_any_log_line_or_error(platform: Platform, capfd: pytest.CaptureFixture[str]) -> None:
    api = await platform.api()
    secret = platform.key.rpartition(".")[2]
    async with httpx2.AsyncClient(trust_env=False) as http:
        for path in (f"/t/demo/sse?ticket={secret}", f"/t/demo/sse?key={platform.key}", f"/t/{platform.key}/sse"):
            response = await http.get(api + path, headers={"authorization": f"Bearer {platform.key}x"})
            assert secret not in response.text
    out = capfd.readouterr()
    assert secret not in out.out + out.err


def test_every_error_has_a_sentence_of_its_own() -> None:
    from trunkline import errors

    def tree(kind: type[errors.TrunklineError]) -> list[type[errors.TrunklineError]]:
        return [kind, *(leaf for child in kind.__subclasses__() for leaf in tree(child))]

    sentences = [kind.__doc__ for kind in tree(errors.TrunklineError) if kind is not errors.MethodNotAllowed]
    assert all(sentence and sentence.strip().endswith(".") for sentence in sentences)
    assert orjson.dumps(sentences)
