"""Whole requests, from those as they should be to noise: one as it should be, with up to three twists."""

from __future__ import annotations

from hypothesis import strategies as st

from faults import fuzz_mcp
from faults.fuzz_bodies import bodies, good_bodies
from faults.fuzz_calls import POST, STREAM, badly_framed, chunked, crowded, other_key, public, reader, session, ticket
from faults.fuzz_case import Case, Worlds
from faults.fuzz_twists import ANY, Twist, header_twice, key, method, path, suspended, tenant

_CALLERS: tuple[Twist, ...] = (key, suspended)
_EXCLUSIVE = (
    frozenset({key, suspended, other_key, reader, crowded, public, tenant, ticket}),  # each says who calls whom
    frozenset({session, fuzz_mcp.session, suspended, reader, crowded, public}),
    frozenset({path, suspended, crowded, public, tenant}),
    frozenset({chunked, badly_framed, header_twice, fuzz_mcp.meta, fuzz_mcp.unsupported}),
    frozenset({fuzz_mcp.mismatch, fuzz_mcp.meta, fuzz_mcp.unsupported, fuzz_mcp.twice}),
    frozenset({fuzz_mcp.session, fuzz_mcp.twice, suspended, other_key, reader, crowded, public}),
)
"""Of each of these sets one a request: another would undo it."""


def _compatible(twists: list[Twist]) -> bool:
    return all(len(exclusive.intersection(twists)) < 2 for exclusive in _EXCLUSIVE)


def _some(*twists: Twist) -> st.SearchStrategy[list[Twist]]:
    return st.lists(st.sampled_from(twists), max_size=3, unique=True).filter(_compatible)


_any = (*ANY, *_CALLERS)
_post_twists, _stream_twists = _some(*_any, *POST, *POST), _some(*_any, *STREAM, *STREAM)
_plain_twists = _some(*(twist for twist in ANY if twist not in {tenant, method}))


@st.composite
def requests(draw: st.DrawFn, worlds: Worlds) -> Case:
    """Any request."""
    case = Case(worlds.sse, slug=worlds.sse.slug)
    case.add("host", "127.0.0.1")
    kind = draw(st.integers(0, 29))
    if kind == 0:
        plain = ["/health", "/livez", "/metrics", "/.well-known/jwks.json"]
        case.method, case.path, case.success = "GET", draw(st.sampled_from(plain)).encode(), 200
        twists = draw(_plain_twists)
    elif kind == 1:
        case.method, case.success = "OPTIONS", 204
        case.route = draw(st.sampled_from(["sse", "messages", "mcp"]))
        twists = draw(_plain_twists)
    else:
        case.add("authorization", f"Bearer {worlds.sse.key}")
        if kind in {2, 3}:
            case.method, case.route, case.success, case.broken = "GET", "sse", 200, True
            twists = draw(_stream_twists)
        elif kind < 13:
            twists = _post(draw, case, kind)
        else:
            case.world = worlds.http
            own = _streamable(draw, case, kind)
            twists = draw(_some(*_any, *own, *own))
    for twist in sorted(twists, key=lambda twist: twist is header_twice):  # what is to come twice must be there
        case.twists.append(twist.__name__)
        twist(draw, case)
    return case


def _post(draw: st.DrawFn, case: Case, kind: int) -> list[Twist]:
    twists: list[Twist] = draw(_post_twists)
    # Most twists show only where the body is good.
    case.body = draw(bodies if kind % 2 else good_bodies)
    case.carry(case.world.session)
    case.add("content-type", "application/json")
    case.add("content-length", str(len(case.body)))
    case.wrong_body()
    return twists


def _streamable(draw: st.DrawFn, case: Case, kind: int) -> tuple[Twist, ...]:
    match kind:
        case 13 | 14:
            return fuzz_mcp.get_stream(draw, case)
        case 15:
            return fuzz_mcp.delete(draw, case)
        case 16:
            return fuzz_mcp.no_such_method(draw, case)
        case _ if kind % 2:
            return fuzz_mcp.post_in_session(draw, case, good=bool(kind % 4 == 1))
        case _:
            return fuzz_mcp.post_stateless(draw, case, good=bool(kind % 4))
