"""Whole requests, from those as they should be to noise: one as it should be, with up to three twists."""

from __future__ import annotations

from hypothesis import strategies as st

from faults.fuzz_bodies import bodies, good_bodies
from faults.fuzz_calls import POST, STREAM, badly_framed, chunked, crowded, other_key, public, reader, session, ticket
from faults.fuzz_case import Case, World
from faults.fuzz_twists import ANY, Twist, header_twice, key, method, path, suspended, tenant

_CALLERS: tuple[Twist, ...] = (key, suspended)
_EXCLUSIVE = (
    frozenset({key, suspended, other_key, reader, crowded, public, tenant, ticket}),  # each says who calls whom
    frozenset({session, suspended, reader, crowded, public}),
    frozenset({path, suspended, crowded, public, tenant}),
    frozenset({chunked, badly_framed, header_twice}),
)
"""Of each of these sets one a request: another would undo it."""


def _compatible(twists: list[Twist]) -> bool:
    return all(len(exclusive.intersection(twists)) < 2 for exclusive in _EXCLUSIVE)


def _some(*twists: Twist) -> st.SearchStrategy[list[Twist]]:
    return st.lists(st.sampled_from(twists), max_size=3, unique=True).filter(_compatible)


_post_twists, _stream_twists = _some(*ANY, *_CALLERS, *POST, *POST), _some(*ANY, *_CALLERS, *STREAM, *STREAM)
_plain_twists = _some(*(twist for twist in ANY if twist not in {tenant, method}))


@st.composite
def requests(draw: st.DrawFn, world: World) -> Case:
    """Any request."""
    case = Case(world, slug=world.slug)
    case.add("host", "127.0.0.1")
    kind = draw(st.integers(0, 19))
    if kind == 0:
        plain = ["/health", "/livez", "/metrics", "/.well-known/jwks.json"]
        case.method, case.path, case.success = "GET", draw(st.sampled_from(plain)).encode(), 200
        twists = draw(_plain_twists)
    elif kind == 1:
        case.method, case.success = "OPTIONS", 204
        case.route = draw(st.sampled_from(["sse", "messages"]))
        twists = draw(_plain_twists)
    else:
        case.add("authorization", f"Bearer {world.key}")
        if kind in {2, 3}:
            case.method, case.route, case.success, case.broken = "GET", "sse", 200, True
            twists = draw(_stream_twists)
        else:
            twists = _post(draw, case, kind)
    for twist in sorted(twists, key=lambda twist: twist is header_twice):  # what is to come twice must be there
        case.twists.append(twist.__name__)
        twist(draw, case)
    return case


def _post(draw: st.DrawFn, case: Case, kind: int) -> list[Twist]:
    twists = draw(_post_twists)
    # Most twists show only where the body is good.
    case.body = draw(bodies if kind % 2 else good_bodies)
    case.query["session_id"] = case.world.session
    case.add("content-type", "application/json")
    case.add("content-length", str(len(case.body)))
    case.wrong_body()
    return twists
