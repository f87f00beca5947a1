"""Cursors: where the next page of a list begins, told to one caller in a form that only we can read."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import orjson
from pydantic import SecretStr

from trunkline.api.control.principal import Actor
from trunkline.control_errors import CursorNotFound
from trunkline.tenants.sealing import Sealer

_LONGEST = 1_024
"""Characters; whatever is longer is none of ours."""


class Cursors:
    """Opaque cursors (AES-GCM), bound to tenant, caller and route: another's do not exist."""

    def __init__(self, secret: SecretStr) -> None:
        self._secret = secret

    @cached_property
    def _sealer(self) -> Sealer:
        return Sealer(self._secret, "cursor")

    def seal(self, actor: Actor, route: str, position: Mapping[str, object]) -> str:
        """The cursor for `position` in the list that `route` names."""
        sealed = self._sealer.seal(orjson.dumps(position), actor.tenant_id, _record(actor, route))
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def open(self, actor: Actor, route: str, cursor: str) -> dict[str, Any]:
        """The position that `seal` was given for the same caller and route.

        Raises:
            CursorNotFound: it is another's, another list's, or none at all.
        """
        try:
            if len(cursor) > _LONGEST or not cursor.isascii():
                raise CursorNotFound
            sealed = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        except (ValueError, binascii.Error):
            raise CursorNotFound from None
        position = self._sealer.try_open(sealed, actor.tenant_id, _record(actor, route))
        if position is None:
            raise CursorNotFound
        found: dict[str, Any] = orjson.loads(position)
        return found


def _record(actor: Actor, route: str) -> str:
    return f"{actor.principal} {route}"
