"""What is known of a tool call's audit event when it is accepted: it travels with the call and becomes a row.

Pure and on the message path: nothing here waits or knows a store.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import orjson

from trunkline.errors import InvalidMessage
from trunkline.logs import redact

LONGEST_TEXT: Final = 128
"""Characters kept of what a client chose: the tool's name and the JSON-RPC id."""

TOOL_CALL: Final = "tools/call"
"""The one method whose calls are audited."""


def seed(
    *,
    call: str,
    at: int,
    tenant: str,
    actor: str,
    session: str,
    pod: str,
    request_id: bytes,
    target: str,
    arguments: object,
) -> bytes:
    """The event as JSON, without the arguments themselves: only their hash is kept.

    Args:
        call: our id of the call, UUIDv7 in hex; the row's id.
        at: when it was accepted, epoch milliseconds; with `call` the row's identity, so say it once.
        tenant: the tenant's id.
        actor: the key's id, empty for public access.
        session: the session's id.
        pod: the API pod that accepted.
        request_id: the JSON-RPC id as JSON.
        target: the tool's name as the client gave it; a key that was put there by mistake is taken out.
        arguments: the tool's arguments, as parsed from JSON.

    Raises:
        InvalidMessage: the arguments are nested deeper than JSON is written here (254 levels).
    """
    return orjson.dumps(
        {
            "id": call,
            "at": at,
            "tenant": tenant,
            "actor": actor,
            "action": TOOL_CALL,
            # Postgres keeps no NUL in a text.
            "target": redact(target[:LONGEST_TEXT]).replace("\0", "\ufffd"),
            "session": session,
            "api_pod": pod,
            "request_id": request_id.decode()[:LONGEST_TEXT],
            "hash": arguments_hash(arguments),
        }
    )


def arguments_hash(arguments: object) -> str:
    """SHA-256 in hex of the arguments in one canonical form: keys sorted by code point, no white space, UTF-8.

    Raises:
        InvalidMessage: they are nested deeper than 254 levels.
    """
    try:
        canonical = orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise InvalidMessage("The arguments are nested too deeply.") from error
    return sha256(canonical).hexdigest()
