"""What is known of a tool call's audit event when it is accepted: it travels with the call and becomes a row.

Pure and on the message path: nothing here waits or knows a store.
"""

from __future__ import annotations

from binascii import b2a_base64
from functools import lru_cache
from hashlib import sha256
from typing import Final

import orjson

from trunkline.errors import InvalidMessage
from trunkline.logs import redact

LONGEST_TEXT: Final = 128
"""Characters kept of what a client chose: the tool's name and the JSON-RPC id."""

TOOL_CALL: Final = "tools/call"
"""The one method whose calls are audited."""


def seed(*, actor: str, pod: str, target: str, arguments: object, size: int) -> bytes:
    """A JSON array of actor, target, pod, hash of the arguments (Base64), which themselves are not kept, and size.

    It passes Redis several times for each call, so it has nothing that the script which ends the call knows anyway:
    whose call it is, when it was accepted, its JSON-RPC id.

    Args:
        actor: the key's id, empty for public access.
        pod: the API pod that accepted.
        target: the tool's name as the client gave it; a key that was put there by mistake is taken out.
        arguments: the tool's arguments, as parsed from JSON.
        size: bytes of the message.

    Raises:
        InvalidMessage: the arguments are nested deeper than JSON is written here (254 levels).
    """
    digest = b2a_base64(arguments_hash(arguments), newline=False).decode()
    return orjson.dumps((actor, _kept(target[:LONGEST_TEXT]), pod, digest, size))


@lru_cache(1024)
def _kept(target: str) -> str:
    # Postgres keeps no NUL in a text.
    return redact(target).replace("\0", "\ufffd")


def arguments_hash(arguments: object) -> bytes:
    """SHA-256 of the arguments in one canonical form: keys sorted by code point, no white space, UTF-8.

    Raises:
        InvalidMessage: they are nested deeper than 254 levels.
    """
    try:
        canonical = orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise InvalidMessage("The arguments are nested too deeply.") from error
    return sha256(canonical).digest()
