"""What can be set of a tenant, and how a person's words for it are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from trunkline.errors import UsageError
from trunkline.tenants.limits import MOST_MONTHLY

LONGEST_NAME = 200
"""Characters of a tenant's, a key's or a toolset's name."""


def check_name(name: str) -> str:
    """Give a name for people back if it is one.

    Raises:
        UsageError: it is empty, too long, or has characters that do not print.
    """
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise UsageError(f"A name has 1 to {LONGEST_NAME} printable characters.")
    return name


def _access(value: str) -> str:
    if value not in {"key", "public"}:
        raise UsageError(f"access is key or public, not {value!r}.")
    return value


def _rate(value: str) -> float | None:
    if value == "default":
        return None
    try:
        rate = float(value)
    except ValueError:
        rate = math.nan
    if not 0 < rate <= 1_000_000:
        raise UsageError(f"A rate is a number of messages a second, 1000000 at most, or default; not {value!r}.")
    return rate


def _count(value: str) -> int | None:
    if value == "default":
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 7 and 0 < int(value) <= 1_000_000):
        raise UsageError(f"A limit is a whole number from 1 to 1000000, or default; not {value!r}.")
    return int(value)


def _quota(value: str) -> int | None:
    if value in {"default", "none"}:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 13 and 0 < int(value) <= MOST_MONTHLY):
        raise UsageError(f"A monthly quota is a whole number from 1 to {MOST_MONTHLY}, or none; not {value!r}.")
    return int(value)


settable: Mapping[str, Callable[[str], object]] = {
    "name": check_name,
    "access": _access,
    "rate": _rate,
    "burst": _count,
    "in_flight": _count,
    "sessions": _count,
    "monthly_calls": _quota,
    "monthly_calls_soft": _quota,
    "monthly_compute": _quota,
    "monthly_compute_soft": _quota,
}
"""What can be set of a tenant, and how its value is read."""


def parse_changes(changes: Mapping[str, str]) -> dict[str, object]:
    """The values to set.

    Raises:
        UsageError: there is nothing to set, or a name or value that cannot be.
    """
    unknown = [name for name in changes if name not in settable]
    if unknown or not changes:
        problem = f"{unknown[0]!r} cannot be set" if unknown else "There is nothing to set"
        raise UsageError(f"{problem}; what can be set of a tenant: {', '.join(settable)}.")
    return {name: settable[name](value) for name, value in changes.items()}
