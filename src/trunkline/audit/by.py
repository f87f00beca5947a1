"""Who makes a change, for the audit log; plain values that every layer above can name."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple


class By(NamedTuple):
    """Who makes a change, and from where: what its audit event says."""

    kind: Literal["operator", "user", "key", "public", "system"]
    id: str = ""
    """Key id, user id, operator id; `cli` on the command line."""
    address: str = ""


CLI: Final = By("operator", "cli")
"""Whoever may run commands on the deployment's stores."""
SYSTEM: Final = By("system")
"""The platform itself."""
PLATFORM: Final = "0" * 32
"""The tenant of events that are no tenant's: operators, signing keys, sign-ins."""
