"""SSE, POSTs, tenants' own host names, limits and reloads, through nginx as it is shipped."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from pathlib import Path
from signal import SIGHUP

import httpx2
import orjson
import pytest
from faults import front as plain
from tests.acceptance.pods import becomes_true
from tests.acceptance.sessions import Session
from tests.proxy.conftest import DOMAIN, Front
from tests.sse import PATIENCE, text_of
from tests.streamable import Client, call, modern

from trunkline.dev.process import free_port

COUNTDOWN = {"name": "countdown", "arguments": {"start": 2, "interval": 0.5}}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


def error_of(response: httpx2.Response) -> str:
    """The sentence of an error, which is JSON."""
    return str(orjson.loads(response.content)["error"]["message"])


def sample(front: Front, name: str) -> list[float]:
    """What each API pod has counted of something."""
    pages = [pod.get("/metrics").text for pod in front.deployment.pods if pod.url]
    return [float(re.findall(rf"^{re.escape(name)} (\S+)$", page, re.MULTILINE)[0]) for page in pages]


async def test_a_stream_and_its_posts_meet_any_pod(front: Front) -> None:
    async with front.stream() as stream:
        await stream.initialize()
        for number in range(12):
            assert text_of(await stream.call("add", {"a": number, "b": 1})) == str(number + 1)
        last = stream.last_id
        holds = sample(front, "trunkline_active_connections")
        accepted = sample(front, 'trunkline_accept_total{result="accepted"}')
        assert [bool(each) for each in holds] != [bool(each) for each in accepted], "the posts met the other pod"
    async with front.stream(last_event_id=last) as again:
        assert again.session == last.partition(".")[0]
        again._number = 100
        assert text_of(await again.call("echo", {"text": "resumed"})) == "resumed"


async def test_what_was_sent_meanwhile_comes_when_the_stream_is_resumed(front: Front) -> None:
    async with front.stream() as stream:
        await stream.initialize()
        last = stream.last_id
    async with front.client(DOMAIN) as http:
        for number in (5, 6):
            message = call(number, "add", a=number, b=0)
            response = await http.post(stream.endpoint, json=message, headers=front.bearer)
            assert response.status_code == 202
    async with front.stream(last_event_id=last) as again:
        found = [(await again.event()).message for _ in range(2)]
    assert {message["id"]: text_of(message["result"]) for message in found} == {5: "5", 6: "6"}


async def test_a_tenant_has_a_host_name_of_its_own(front: Front) -> None:
    async with front.stream(f"demo.{DOMAIN}", "/sse") as stream:
        await stream.initialize()
        assert text_of(await stream.call("add", {"a": 3, "b": 5})) == "8"
    async with front.client(f"demo.{DOMAIN}") as http:
        client = Client(front.base, http, front.key, path="/mcp")
        await client.initialize()
        assert text_of(await client.call("add", a=3, b=6)) == "9"
        message = modern(call(1, "add", a=3, b=7))
        answer = await Client(front.base, http, front.key, path="/mcp/").ask(message, **client.stateless(message))
        assert text_of(answer["result"]) == "10"

        for path in ("/t/other/sse", "/t/demo/sse/more", "/v1/tenants", "/", "/health", "/metrics"):
            response = await http.get(path, headers=front.bearer)
            assert (response.status_code, error_of(response)) == (404, "There is nothing at this address.")
        discovery = await http.get("/.well-known/oauth-protected-resource/mcp")
        assert (discovery.status_code, bool(error_of(discovery))) == (404, True)
        assert (await http.get("/.well-known/jwks.json")).json()["keys"]
        assert (await http.post("/mcp", json=PING)).status_code == 401
        assert (await http.options("/mcp")).status_code == 204


@pytest.mark.parametrize(
    ("host", "status"), [(f"www.{DOMAIN}", 404), (f"a.b.{DOMAIN}", 421), ("elsewhere.test", 421)]
)
async def test_other_names_are_nobodys(front: Front, host: str, status: int) -> None:
    async with front.client(f"demo.{DOMAIN}") as http:
        response = await http.get("/sse", headers={**front.bearer, "host": host})
    assert response.status_code == status
    assert error_of(response)


async def test_a_pod_of_a_platform_elsewhere_answers_for_no_name_below_localhost(front: Front) -> None:
    pod = front.deployment.pods[0]
    assert (await asyncio.to_thread(pod.get, "/health", host=f"demo.{DOMAIN}")).status_code == 200
    assert (await asyncio.to_thread(pod.get, "/health", host="demo.localhost")).status_code == 421


async def test_keys_are_not_taken_in_the_clear_and_pages_are_sent_on(front: Front) -> None:
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{front.http}", trust_env=False) as http:
        refused = await http.post("/t/demo/mcp", json=PING, headers={**front.bearer, "host": DOMAIN})
        assert (refused.status_code, "rotate it" in error_of(refused)) == (403, True)
        assert (await http.post("/t/demo/mcp", json=PING, headers={"host": DOMAIN})).status_code == 403
        page = await http.get("/docs?page=1", headers={"host": DOMAIN})
        assert (page.status_code, page.headers["location"]) == (301, f"https://{DOMAIN}/docs?page=1")
        assert (await http.get("/docs", headers={"host": "elsewhere.test"})).status_code == 421


async def test_a_body_beyond_the_limit_is_refused_in_json_by_the_pod_and_beyond_twice_by_nginx(front: Front) -> None:
    async with front.client(DOMAIN) as http:
        sentences = []
        for size in (1_048_577, 3_000_000):
            response = await http.post(
                "/t/demo/mcp", content=b"x" * size, headers={**front.bearer, "content-type": "application/json"}
            )
            assert response.status_code == 413
            sentences.append(error_of(response))
    assert "1048576 bytes" in sentences[0]
    assert "this server accepts" in sentences[1]


UNREADABLE = {
    b"TRACE / HTTP/1.1\r\nhost: %b\r\nconnection: close\r\n\r\n": 405,
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: %b\r\n\r\n": 414,
    b"GET / HTTP/1.1\r\nhost: %b\r\nx-long: " + b"a" * 70_000 + b"\r\n\r\n": 431,
    b"GET / HTTP/1.1\r\nhost: a/%b\r\n\r\n": 400,
    b"GET / HTTP/9.1\r\nhost: %b\r\n\r\n": 505,
    b"POST / HTTP/1.1\r\nhost: %b\r\ntransfer-encoding: gzip\r\n\r\n": 501,
    b"POST /t/demo/mcp HTTP/1.1\r\nhost: %b\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n": 400,
    b"not HTTP at all\r\n\r\n": 400,
}


async def test_what_is_no_request_is_refused_in_json(front: Front) -> None:
    for sent, status in UNREADABLE.items():
        answer = await _exchange(front, sent.replace(b"%b", DOMAIN.encode()), front.tls)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert (head.split()[1], bool(orjson.loads(body)["error"]["message"])) == (b"%d" % status, True), head
    answer = await _exchange(front, b"GET / HTTP/1.1\r\nhost: %b\r\n\r\n" % DOMAIN.encode(), None)
    assert b" 400 " in answer
    assert b"Use https" in answer


async def _exchange(front: Front, sent: bytes, tls: ssl.SSLContext | None) -> bytes:
    """Send these bytes to the port for TLS; all that comes back until nginx hangs up."""
    name = DOMAIN if tls else None
    reader, writer = await asyncio.open_connection("127.0.0.1", front.https, ssl=tls, server_hostname=name)
    writer.write(sent)
    got = b""
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionResetError):
            while part := await reader.read(4000):
                got += part
    writer.close()
    return got


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "//metrics/", "/livez/../metrics/"])
async def test_nobody_outside_sees_what_pods_count(front: Front, path: str) -> None:
    sent = f"GET {path} HTTP/1.1\r\nhost: {DOMAIN}\r\nconnection: close\r\n\r\n".encode()
    assert b" 404 " in (await _exchange(front, sent, front.tls)).partition(b"\r\n")[0]


async def test_a_client_that_takes_no_stream_waits_for_its_answer_longer_than_streams_may_be_silent(
    front: Front, tmp_path: Path
) -> None:
    home, port = tmp_path / "nginx", free_port()
    plain.configure(home, port, [pod.port for pod in front.deployment.pods if pod.url])
    for file, wrong, right in (
        (home / "trunkline" / "http.conf", "proxy_read_timeout 60s", "proxy_read_timeout 1s"),
        (home / "nginx.conf", r"\.localhost$", rf"\.{DOMAIN}$"),
    ):
        file.write_text(file.read_text().replace(wrong, right))
    with plain.running(home, port):
        url = f"http://127.0.0.1:{port}"

        async def count(host: str, path: str) -> str:
            async with httpx2.AsyncClient(headers={"host": host}, timeout=PATIENCE, trust_env=False) as http:
                client = Client(url, http, front.key, path=path, accept="application/json")
                await client.initialize()
                return text_of(await client.call("countdown", start=3, interval=0.7))

        here = [("127.0.0.1", "/t/demo/mcp"), (f"demo.{DOMAIN}", "/mcp"), (f"demo.{DOMAIN}", "/t/demo/mcp")]
        assert set(await asyncio.gather(*(count(*each) for each in here))) == {"counted down from 3"}


async def test_each_answer_has_an_id_that_the_log_has(front: Front) -> None:
    async with front.client(DOMAIN) as http:
        for path in ("/t/demo/sse/nothing", "/v1/tenants"):
            response = await http.get(path)
            (identity,) = response.headers.get_list("x-request-id")
            assert await becomes_true(lambda identity=identity: f'"id":"{identity}"' in front.logs(), PATIENCE)
        assert response.headers["strict-transport-security"]


async def test_a_flood_of_one_address_is_refused_and_others_are_served(front: Front) -> None:
    async with front.client(DOMAIN, "127.0.0.2") as flood, front.client(DOMAIN) as other:
        answers = await asyncio.gather(*(flood.get("/livez") for _ in range(30)))
        assert {answer.status_code for answer in answers} == {200, 429}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert (refused.headers["retry-after"], bool(error_of(refused))) == ("1", True)
        assert (await other.get("/livez")).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /t/demo/mcp HTTP/1.1\r\nhost: %b\r\nx-slow: ",
        b"POST /t/demo/mcp HTTP/1.1\r\nhost: %b\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
    ],
    ids=["head", "body"],
)
async def test_who_takes_too_long_over_a_request_is_cut_off(front: Front, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", front.https, ssl=front.tls, server_hostname=DOMAIN, local_addr=("127.0.0.1", 0)
    )
    writer.write(sent % DOMAIN.encode())
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionResetError):
            while await reader.read(1000):
                pass
    writer.close()


async def test_a_client_that_does_not_read_is_cut_off_and_costs_nobody_else_anything(front: Front) -> None:
    def cut_off() -> float:
        return sum(sample(front, "trunkline_slow_readers_total"))

    before = cut_off()
    async with front.stream() as other, front.client(DOMAIN) as http:
        await other.initialize()
        async with front.stream() as stream:
            await stream.initialize()
        endpoint = stream.endpoint
        slow = await asyncio.to_thread(_open_without_reading, front, stream.last_id)
        try:
            numbers = iter(range(1, 1_000))
            while cut_off() == before:
                message = call(next(numbers), "echo", text="x" * 200_000)
                assert (await http.post(endpoint, json=message, headers=front.bearer)).status_code in {202, 404}
                assert text_of(await other.call("echo", {"text": "quick"})) == "quick"
        finally:
            slow.close()


def _open_without_reading(front: Front, last_event_id: str) -> ssl.SSLSocket:
    """A session's stream, resumed by a client that reads nothing behind the endpoint."""
    bare = socket.socket()
    bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    bare.settimeout(PATIENCE)
    bare.connect(("127.0.0.1", front.https))
    made = front.tls.wrap_socket(bare, server_hostname=DOMAIN)
    head = f"host: {DOMAIN}\r\nauthorization: Bearer {front.key}\r\nlast-event-id: {last_event_id}"
    made.sendall(f"GET /t/demo/sse HTTP/1.1\r\n{head}\r\n\r\n".encode())
    text = ""
    while "session_id=" not in text:
        text += made.recv(1000).decode()
    return made


async def test_a_reload_under_two_hundred_live_streams_loses_no_message(front: Front, tmp_path: Path) -> None:
    home, port = tmp_path / "nginx", free_port()
    plain.configure(home, port, [pod.port for pod in front.deployment.pods if pod.url])
    text = (home / "nginx.conf").read_text()
    (home / "nginx.conf").write_text(text.replace("worker_shutdown_timeout 30s", "worker_shutdown_timeout 1s"))
    url = f"http://127.0.0.1:{port}"
    async with contextlib.AsyncExitStack() as stack:
        process = stack.enter_context(plain.running(home, port))
        sessions = [Session(front.key, [url], posts=url) for _ in range(200)]
        for session in sessions:
            session._headers["connection"] = (
                "close"  # a kept one may be closed under a request: HTTP has no cure for that
            )
        await asyncio.gather(*(stack.enter_async_context(session.opened()) for session in sessions))
        slow = [await session.send("tools/call", COUNTDOWN) for session in sessions]
        process.send_signal(SIGHUP)
        rounds = 0
        while not all(session.ends for session in sessions):
            rounds += 1
            texts = [f"round {rounds} of {number}" for number in range(len(sessions))]
            calls = (session.call("echo", text=text) for session, text in zip(sessions, texts, strict=True))
            assert await asyncio.gather(*calls) == texts
        assert {text_of(each) for each in await asyncio.gather(*slow)} == {"counted down from 2"}
        assert [len(session.ends) for session in sessions] == [1] * len(sessions), "each came back once"


async def test_no_key_session_or_query_is_in_any_log(front: Front) -> None:
    async with front.client(DOMAIN) as http:
        ticket = (await http.post("/t/demo/tickets", headers=front.bearer)).json()["ticket"]
        for path in (f"/t/demo/sse?ticket={ticket}x&canary=seen", f"/nothing?canary=seen&key={front.key}"):
            assert (await http.get(path)).status_code in {401, 404}
    assert await becomes_true(lambda: '"path":"/nothing"' in front.logs(), PATIENCE)
    logs = front.logs()
    nginx = (front.home / "log").read_text()
    for secret in [front.key, ticket, "canary"]:
        assert secret not in logs
    for session in front.secrets:
        assert session not in nginx
