"""What can be wrong, or odd, with a post to a session, or with a request for a stream."""

from __future__ import annotations

from hypothesis import strategies as st

from faults.fuzz_bodies import LARGEST_BODY
from faults.fuzz_case import CLOSED, Case, Stage
from faults.fuzz_twists import Twist, choose


def session(draw: st.DrawFn, case: Case) -> None:
    good, world = case.world.session, case.world
    value, right = choose(
        draw,
        (None, (400,)),
        ("", (400,)),
        ("0" * 32, (404,)),
        (good.upper(), (404, case.success) if good.isdigit() else (404,)),
        (good[:-1], (404,)),
        (good + "0", (404,)),
        (f"%{ord(good[0]):02x}{good[1:]}", ()),
        (f"{good}%20", (404,)),
        ("%00" * 32, (404,)),
        (world.reader_session, (404,)),
        (world.foreign_session, (404,)),
        (f"{good}&session_id={'0' * 32}", (404, 400, case.success)),
        ("%ff" * 32, (404,)),
        ("..%2f" * 6 + "ab", (404,)),
        (good + "&" + "&".join(f"p{n}=1" for n in range(40)), (400,)),
        (f"{good};x=1", (404, case.success)),
        ("\xe9" * 32, (400, 404)),
        ("*" * 32, (404,)),
        (f"{good}%0a", (404,)),
        (f"{world.session}:out", (404,)),
    )
    case.carry(value)
    if right:
        case.wrong(Stage.REST if value is None or value.isascii() else Stage.HTTP, *right)


def other_key(_: st.DrawFn, case: Case) -> None:
    case.set("authorization", f"Bearer {case.world.other_key}")
    case.wrong(Stage.REST, 404)


def reader(_: st.DrawFn, case: Case) -> None:
    case.use(case.world.slug, case.world.reader_key, case.world.reader_session)
    verdict = case.verdict()
    if verdict.calls_tool and not (case.era == "modern" and verdict.request is None):  # which is dropped
        case.wrong(Stage.REST, 403)


def crowded(_: st.DrawFn, case: Case) -> None:
    case.use(case.world.crowded_slug, case.world.crowded_key, case.world.crowded_session)
    case.wrong(Stage.REST, 429, case.success)


def public(_: st.DrawFn, case: Case) -> None:
    case.use(case.world.public_slug, "", case.world.public_session)
    case.wrong(Stage.KEY, 429, case.success)


def content_type(draw: st.DrawFn, case: Case) -> None:
    value, right = choose(
        draw,
        (None, (415,)),
        (b"", (415,)),
        (b"text/plain", (415,)),
        (b"application/json-rpc", (415,)),
        (b"application/jsonp", (415,)),
        (b"application/json; charset=utf-8", ()),
        (b"Application/JSON", ()),
        (b"application/json;charset=utf-16", (415, case.success)),
        (b"multipart/form-data; boundary=x", (415,)),
        (b"\xff", (415,)),
        (b"text/plain, application/json", (415,)),
        (b" application/json ;", ()),
    )
    case.set("content-type", value)
    if right:
        case.wrong(Stage.REST, *right)


def chunked(draw: st.DrawFn, case: Case) -> None:
    """RFC 9112, section 7.1: chunks of any size, extensions, trailers."""
    body, parts = case.body or b"", []
    extension = draw(st.sampled_from([b"", b"", b";a=b", b';a="b c"']))
    size = draw(st.sampled_from([1, 7, 50, 1_000])) if len(body) < 2_000 else 65_536
    for start in range(0, len(body), size):
        part = body[start : start + size]
        parts.append(
            draw(st.sampled_from([b"%x", b"%X", b"00%x"])) % len(part) + extension + b"\r\n" + part + b"\r\n"
        )
    trailer = draw(
        st.sampled_from([b"", b"", b"x-trailer: 1\r\n", b"content-length: 5\r\n", b"authorization: x\r\n"])
    )
    case.sent = b"".join((*parts, b"0\r\n", trailer, b"\r\n"))
    if trailer.startswith(b"content-length"):  # RFC 9110, section 6.5.1: no place for it
        case.wrong(Stage.HTTP, 400, CLOSED, case.success)
        case.broken = True
    case.set("content-length", None)
    case.set("transfer-encoding", draw(st.sampled_from(["chunked", "Chunked"])))


def badly_framed(draw: st.DrawFn, case: Case) -> None:
    length = len(case.body or b"")
    kind = draw(st.sampled_from(["number", "both", "coding", "chunk", "short", "declared"]))
    right: tuple[int, ...] = (400, 501, CLOSED)
    match kind:
        case "number":
            case.set(
                "content-length",
                draw(st.sampled_from(["-1", "+5", "5, 5", "0x10", "1e3", "9" * 40, "", "५"]).map(ascii_of)),
            )
            right += (413, case.success)  # an empty one may count as none
        case "both":
            case.set("transfer-encoding", "chunked")
            right += (case.success,)
        case "coding":
            case.set("content-length", None)
            case.set(
                "transfer-encoding",
                draw(st.sampled_from(["gzip", "identity", "xchunked", "chunked, gzip", "\x0bchunked"])),
            )
        case "chunk":
            case.set("content-length", None)
            case.set("transfer-encoding", "chunked")
            bad = draw(
                st.sampled_from(
                    [b"zz\r\n", b"-1\r\n", b"f" * 20 + b"\r\n", b"5\r\nabc\r\n0\r\n\r\n", b"5 \r\nabcde0\r\n\r\n"]
                )
            )
            case.sent, right = bad, (*right, 413)
        case "short":  # the client ends before its body
            declared = length + draw(st.integers(1, 100))
            case.set("content-length", str(declared))
            case.ends = True
            if declared > LARGEST_BODY:
                right += (413,)
        case "declared":
            case.set("content-length", str(LARGEST_BODY + draw(st.integers(1, 10**12))))
            case.ends, right = True, (413, CLOSED)
    case.broken = True
    case.wrong(Stage.HTTP, *right)
    if case.body:
        case.wrong_body()


def ascii_of(text: str) -> bytes:
    """What may be sent of a text: other letters in UTF-8."""
    return text.encode()


def expects(draw: st.DrawFn, case: Case) -> None:
    value = draw(st.sampled_from(["100-continue", "100-Continue", "something"]))
    case.add("expect", value)
    if value == "something":
        case.wrong(Stage.HTTP, 417, case.success)
        case.broken = True


# What a request for a stream may have.


def accept(draw: st.DrawFn, case: Case) -> None:
    value, right = choose(
        draw,
        (b"text/event-stream", ()),
        (b"*/*", ()),
        (b"text/*;q=0.1", ()),
        (b"application/json, text/event-stream", ()),
        (b"application/json", (406,)),
        (b"text/html", (406,)),
        (b"text/event-stream;q=0", (406,)),
        (b"", ()),
        (b";;;,", (200, 406)),
        (b"*/*;q=0, text/event-stream", ()),
        (b"\xff\xfe", (200, 406)),
        (b"text/event-stream;q=x", (200, 406)),
        (b"TEXT/EVENT-STREAM", ()),
        (b"x/y," * 2000 + b"*/*", ()),
    )
    case.set("accept", value)
    if right:
        case.wrong(Stage.REST, *right)


def last_event(draw: st.DrawFn, case: Case) -> None:
    world = case.world
    value, right = choose(
        draw,
        (f"{world.spare}.0", ()),
        (f"{world.spare}.00", (200, 404)),
        (f"{world.spare}.1", (404,)),
        (f"{world.spare}.-1", (404,)),
        (f"{world.spare}", (404,)),
        (f"{world.spare}.", (404,)),
        (f"{world.spare}.{'9' * 30}", (404,)),
        (f"{'0' * 32}.0", (404,)),
        (f"{world.foreign_session}.0", (404,)),
        (f"{world.reader_session}.0", (404,)),
        ("nonsense", (404,)),
        ("\xff.\xff", (404,)),
        (f"{world.spare}.1e1", (404,)),
        (f"{world.spare}.lost", (404,)),
        (f"{world.spare}.0, {world.spare}.0", (404,)),
        (f"{world.spare}.\xb2", (404,)),
        (f"{world.spare.upper()}.0", (404, 200) if world.spare.isdigit() else (404,)),
        (f"{world.spare}.999999999999999", (404,)),
    )
    if draw(st.booleans()) or not value.isascii():
        case.set("last-event-id", value)
    else:
        case.query["last_event_id"] = value.replace(" ", "%20")
    if right:
        case.wrong(Stage.REST, *right)


def ticket(draw: st.DrawFn, case: Case) -> None:
    case.set("authorization", None)
    case.query["ticket"] = draw(st.sampled_from(["x", "x" * 5000, "%00", "a" * 43, "\xe9", "*"]))
    case.wrong(Stage.KEY, 401)
    if not case.query["ticket"].isascii():
        case.wrong(Stage.HTTP, 400, CLOSED)


POST: tuple[Twist, ...] = (
    session,
    other_key,
    reader,
    crowded,
    public,
    content_type,
    chunked,
    badly_framed,
    expects,
)
STREAM: tuple[Twist, ...] = (accept, last_event, ticket)
