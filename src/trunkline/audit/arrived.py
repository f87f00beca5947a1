"""Events of calls as they arrive from the lanes' streams. Pure."""

from __future__ import annotations

import re
from binascii import a2b_base64
from collections.abc import Sequence
from typing import Any, Final

import orjson

from trunkline.audit.chain import Event, check_detail
from trunkline.audit.seed import LONGEST_TEXT, TOOL_CALL

_MEMBER: Final = re.compile(r"([0-9a-f]{32}):([^:]*):([0-9a-f]{32})", re.ASCII)


def read_event(lines: Sequence[bytes]) -> Event:
    """The event that lines say, as `audit` in `finish.lua` writes them.

    Its last line is the seed: an array for a call (`trunkline.audit.seed`), an object for what else scripts tell.

    Raises:
        ValueError: they are no event.
    """
    member, outcome, compute, answer, worker, ended, accepted, request_id, seed = lines
    whose = _MEMBER.fullmatch(member.decode())
    if whose is None:
        raise ValueError("whose event it is is not told")
    tenant, session, call = whose.groups()
    at = int(accepted)
    said = orjson.loads(seed)
    if type(said) is dict:
        return _told(tenant, call, at, outcome.decode(), said)
    actor, target, pod, digest, size = said
    if not (type(actor) is type(target) is type(pod) is str and type(size) is int):
        raise ValueError("actor, target and pod are text, size is a number")
    arguments = a2b_base64(digest, strict_mode=True)
    if len(arguments) != 32:
        raise ValueError("the arguments have a SHA-256")
    return Event(
        tenant, call, at * 1_000, "key" if actor else "public", actor or None, None, TOOL_CALL, target,
        session or None, outcome.decode(), (int(ended) - at) * 1_000, int(compute), size, int(answer),
        arguments.hex(), pod,
        worker.decode() or None, request_id.decode()[:LONGEST_TEXT], {},
    )  # fmt: skip


def _told(tenant: str, identity: str, at: int, outcome: str, said: dict[str, Any]) -> Event:
    """An event that is no call's, such as a quota that comes near."""
    actor, action, target, detail = (said.get(name) for name in ("actor", "action", "target", "detail"))
    if not (type(action) is type(target) is str and isinstance(actor, str | None) and isinstance(detail, dict)):
        raise ValueError("action and target are text, detail is an object")
    check_detail(detail)
    return Event(
        tenant, identity, at * 1_000, "key" if actor else "system", actor or None, None, action, target, None,
        outcome, None, 0, 0, 0, None, None, None, None, detail,
    )  # fmt: skip
