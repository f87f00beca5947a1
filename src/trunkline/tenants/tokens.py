"""The form of an API key: `tlk_` and a signed JWT (RFC 7519) in the one spelling that we give it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

import jwt
import orjson

from trunkline.errors import UsageError
from trunkline.tenants.model import is_label
from trunkline.tenants.signing import ALGORITHM, SigningKey

PREFIX = "tlk_"
"""In front of the JWT, so that secret scanners find a key that leaked."""
TYPE = "tlk+jwt"
"""Explicit type (RFC 8725, section 3.11): nothing else that these keys may sign passes for an API key."""
LONGEST = 6144
"""Characters; larger ones are refused unread. A header line of nginx holds 8 KiB."""

_SEGMENTS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)


def sign(claims: Mapping[str, Any], signing: SigningKey) -> str:
    """The API key that makes these claims.

    Raises:
        UsageError: it would be longer than a request's header may be.
    """
    headers = {"kid": signing.kid, "typ": TYPE}
    token = PREFIX + jwt.encode(dict(claims), signing.private, algorithm=ALGORITHM, headers=headers)
    if len(token) > LONGEST:
        raise UsageError("The key would be too long for an HTTP header; give it fewer or shorter tool patterns.")
    return token


def read_header(token: str) -> dict[str, str] | None:
    """The header of an API key, unverified; None for anything that does not have the form of one of ours.

    What may stand in a header and would choose a key (`jku`, `jwk`, `x5u`) is not acted upon; an extension that must
    be understood (`crit`, RFC 7515, section 4.1.11) is not.
    """
    if len(token) > LONGEST or not _SEGMENTS.fullmatch(token.removeprefix(PREFIX)):
        return None
    decoded = [_decode(segment) for segment in token.removeprefix(PREFIX).split(".")]
    if None in decoded:
        return None
    try:
        header = orjson.loads(decoded[0] or b"")
    except orjson.JSONDecodeError:
        return None
    if not isinstance(header, dict) or header.get("typ") != TYPE or "crit" in header:
        return None
    # The library parses the header again, without a limit to its depth: only flat ones get there.
    return header if all(isinstance(value, str) for value in header.values()) else None


def read_slug(token: str) -> str | None:
    """The tenant that an API key says it is for, unverified: whose key set to hold it against; None for no key."""
    if read_header(token) is None:
        return None
    try:
        claims = orjson.loads(_decode(token.split(".")[1]) or b"")
    except orjson.JSONDecodeError:
        return None
    slug = claims.get("slug") if isinstance(claims, dict) else None
    return slug if isinstance(slug, str) and is_label(slug) else None


def _decode(segment: str) -> bytes | None:
    """The bytes of a segment; None where its last character has bits that decoding would ignore."""
    try:
        raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        return None
    return raw if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == segment else None
