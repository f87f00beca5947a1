"""What can be wrong, or odd, with any request: a twist changes a case and notes the statuses that are then right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from faults.fuzz_case import CLOSED, Case, Stage

Twist = Callable[[st.DrawFn, Case], None]


def choose(draw: st.DrawFn, *choices: tuple[Any, ...]) -> Any:
    """One of the choices."""
    return draw(st.sampled_from(choices))


def host(draw: st.DrawFn, case: Case) -> None:
    value, right = choose(
        draw,
        (None, (400, 421)),
        (b"", (400, 421)),
        (b"evil.example", (421,)),
        (b"localhost", ()),
        (b"LOCALHOST:1", ()),
        (b"127.0.0.1:99999999", ()),
        (b"[::1]:80", ()),
        (b"[::1", (400, 421)),
        (b"127.0.0.1, evil.example", (400, 421)),
        (b"evil.example@127.0.0.1", (400, 421, case.success)),
        (b"\xff\xfe", (400, 421)),
        (b"127.0.0.1.evil.example", (421,)),
        (b"x" * 3000, (400, 421)),
        (b"127.0.0.1\t", (case.success,)),
    )
    case.set("host", value)
    if right:
        case.wrong(Stage.FRONT, *right)


def origin(draw: st.DrawFn, case: Case) -> None:
    value, right = choose(
        draw,
        (b"https://evil.example", (403,)),
        (b"null", (403,)),
        (b"http://localhost:6274", ()),
        (b"http://[::1]:1", ()),
        (b"http://localhost.evil.example", (403,)),
        (b"http://localhost@evil.example", (403,)),
        (b"\xff\xfe", (403,)),
        (b"http://evil.example#localhost", (403,)),
        (b"http://[::1", (403,)),
        (b"", ()),
        (b"file://", (403,)),
        (b"http://evil.example/localhost", (403,)),
        (b"localhost", (403,)),
        (b"http://127.0.0.1:8000", ()),
        (b"http://localhost:6274, https://evil.example", (403, case.success)),
    )
    case.set("origin", value)
    if right:
        case.wrong(Stage.FRONT, *right)


def header_twice(draw: st.DrawFn, case: Case) -> None:
    name = choose(draw, ("host",), ("authorization",), ("origin",), ("content-length",))[0]
    found = [value for header, value in case.headers if header.lower() == name.encode()]
    first = found[0] if found else b"http://localhost" if name == "origin" else b"0"
    for _ in range(2 - len(found[:1])):
        case.add(name, draw(st.sampled_from([first, first, b"1"])))
    if name == "content-length":  # RFC 9110, section 8.6: the same number twice may count as one
        case.broken = True
        case.wrong(Stage.HTTP, 400, CLOSED)
    else:
        case.wrong(Stage.FRONT, 400)


def key(draw: st.DrawFn, case: Case) -> None:
    good, world = case.world.key, case.world
    cut = draw(st.integers(1, len(good) - 4))
    value, right = choose(
        draw,
        (None, (401,)),
        ("", (401,)),
        ("Bearer", (401,)),
        ("Bearer ", (401,)),
        ("Basic dTpw", (401,)),
        (f"Basic {good}", (401,)),
        (f"bearer {good}", ()),
        (f"Bearer   {good}", (case.success, 401)),
        (good, (401,)),
        (f"Bearer {good[:cut]}", (401,)),
        (f"Bearer {good[:cut]}{'A' if good[cut] != 'A' else 'B'}{good[cut + 1 :]}", (401,)),
        (f"Bearer {world.foreign_key}", (401,)),
        (f"Bearer {draw(st.sampled_from(world.dead_keys))}", (401,)),
        (f"Bearer {good}, Bearer {good}", (401,)),
        ("Bearer " + "x" * 9000, (401,)),
        (b"Bearer \xff\xfe", (401,)),
        ("Bearer tlk_" + "." * 50, (401,)),
        ("Bearer tlk_eyJhbGciOiJub25lIn0.e30.", (401,)),
        (f"Bearer\t{good}", (401, case.success)),
        ("Bearer tlk_" + good[4:].split(".")[0] + ".bnVsbA." + good.split(".")[2], (401,)),
    )
    case.set("authorization", value)
    if right:
        case.wrong(Stage.KEY, *right)


def tenant(draw: st.DrawFn, case: Case) -> None:
    world = case.world
    value, right = choose(
        draw,
        ("nobody", (404,)),
        (world.slug.upper(), (404,)),
        ("%64emo", (404,)),
        ("..", (404,)),
        ("x" * 300, (404,)),
        ("\xe9", (400, 404)),
        ("'; drop table tenants; --".replace(" ", "+"), (404,)),
        ("{l0}:calls", (404,)),
        ("*", (404,)),
    )
    case.slug = value
    case.wrong(Stage.TENANT if value.isascii() else Stage.HTTP, *right)


def suspended(draw: st.DrawFn, case: Case) -> None:
    case.use(case.world.suspended_slug, draw(st.sampled_from([case.world.suspended_key, ""])), case.world.session)
    case.wrong(Stage.TENANT, 403)


def path(draw: st.DrawFn, case: Case) -> None:
    base = case.path.decode() or f"/t/{case.slug}/{case.route}"
    value, right = choose(
        draw,
        (base + "/", ()),
        (base + "//", (404,)),
        ("/" + base, (404,)),
        (base.replace("/t/", "/T/"), (404,)),
        (base.replace("/t/", "/%74/"), (404,)),
        (base.replace("/t/", "/t/../t/"), (404,)),
        ("/", (404,)),
        ("/.well-known/oauth-authorization-server", (404,)),
        ("/register", (404,)),
        ("/t//sse", (404,)),
        (base + "/more", (404,)),
        (base + ";v=1", (404,)),
        (base.replace("/", "\\"), (400, 404)),
        (base + "\xff", (400, 404)),
        ("/" + "x" * 70_000, (400, 404, 414, 431)),
        ("http://127.0.0.1" + base, (400, 404, case.success)),
        ("*", (400, 404)),
        ("evil.example:443", (400, 404)),
        (base + "%00", (404,)),
        (base + "#fragment", (400, 404, case.success)),
    )
    case.path = value.encode("latin-1")
    if right and value != base:
        exact = value.startswith("/") and right == (404,)
        case.wrong(Stage.ROUTE if exact else Stage.HTTP, *right, *(() if exact else (CLOSED,)))
        case.broken |= not exact


def method(draw: st.DrawFn, case: Case) -> None:
    known = ["PUT", "PATCH", "TRACE", "PROPFIND"]
    if not case.era:  # which has POST, GET and DELETE
        known += ["DELETE", "POST" if case.method == "GET" else "GET"]
    case.method = draw(st.sampled_from([*known, "CONNECT", "BREW", "post", "G\xcbT", "X" * 5000]))
    if case.method in known:
        case.wrong(Stage.ROUTE, 405)
    else:
        case.wrong(Stage.HTTP, 400, 405, 501, CLOSED)
        case.broken = True


def version(draw: st.DrawFn, case: Case) -> None:
    case.version = choose(draw, (b"HTTP/1.0",), (b"HTTP/9",), (b"HTTP/2.0",), (b"HTTP/1.2",), (b"",), (b"SPDY",))[0]
    case.broken = True
    if case.version == b"HTTP/1.0":
        if case.success == 200 and case.method == "GET" and case.route in ("sse", "mcp"):
            case.wrong(Stage.ROUTE if case.route == "sse" else Stage.REST, 426)  # a ticket is spent on no such thing
        elif case.route == "mcp":  # an answer as JSON is no stream
            case.wrong(Stage.REST, 406, 426, case.success)
    else:
        case.wrong(Stage.HTTP, 400, 505, CLOSED, case.success)


_names = st.text("abcdefghijklmnopqrstuvwxyz-_", min_size=1, max_size=20).map(lambda name: f"x-{name}")
_texts = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=40)


_odd = [
    "x-forwarded-for", "x-forwarded-host", "cookie", "traceparent", "accept-encoding", "x-http-method-override",
    "content-encoding", "range", "if-none-match", "forwarded", "x-request-id", "content-language", "accept-charset",
]  # fmt: skip


def odd_headers(draw: st.DrawFn, case: Case) -> None:
    own = [] if case.era else ["mcp-protocol-version", "mcp-session-id"]  # where they mean nothing
    names = draw(st.lists(_names | st.sampled_from([*_odd, *own]), max_size=6))
    for name in names:
        case.add(name, draw(_texts))
    if names.count("mcp-session-id") > 1:
        case.wrong(Stage.FRONT, 400)


def many_headers(draw: st.DrawFn, case: Case) -> None:
    count, size = choose(draw, (300, 10), (5_000, 10), (1, 70_000), (10, 20_000))
    for number in range(count):
        case.add(f"x-{number}", b"v" * size)
    case.wrong(Stage.HTTP, 400, 431, CLOSED, case.success)
    case.broken = True


def upgrade(draw: st.DrawFn, case: Case) -> None:
    case.add("connection", "upgrade")
    case.add("upgrade", choose(draw, ("websocket",), ("h2c",), ("TLS/1.0",), ("x",))[0])
    case.broken = True
    case.wrong(Stage.HTTP, 400, 426, CLOSED, case.success)


def malformed_head(draw: st.DrawFn, case: Case) -> None:
    name, value = choose(
        draw,
        (b"x y", b"1"),
        (b"", b"1"),
        (b"x\x00", b"1"),
        (b"x", b"\x00"),
        (b"x", b"a\rb"),
        (b" folded", b"1"),
        (b"x", b"a\nb c"),
        (b"\xff", b"1"),
        (b"x:", b"\x7f"),
        (b"(x)", b"1"),
    )
    case.headers.append((name, value))
    case.wrong(Stage.HTTP, 400, CLOSED, case.success)
    case.broken = True


def dribbled(draw: st.DrawFn, case: Case) -> None:
    case.split = tuple(sorted(draw(st.lists(st.integers(1, 600), min_size=1, max_size=4))))


ANY: tuple[Twist, ...] = (
    host,
    origin,
    header_twice,
    tenant,
    path,
    method,
    version,
    odd_headers,
    many_headers,
    upgrade,
    malformed_head,
    dribbled,
)
