"""Tool patterns of a key: what they may be, and which of them allow no more than others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from trunkline.errors import UsageError

ALL_TOOLS = ("*",)
"""The tool patterns of a key that was issued without any."""
MOST_TOOL_PATTERNS = 32

_TOOL_PATTERN = re.compile(r"[A-Za-z0-9_.*?\[\]!-]{1,64}", re.ASCII)
_SPECIAL = re.compile(r"[*?\[]")


def check_tools(patterns: Iterable[str]) -> tuple[str, ...]:
    """Give tool patterns back; none at all means every tool.

    Raises:
        UsageError: too many of them, or one that matches no tool's name.
    """
    wanted = tuple(dict.fromkeys(patterns)) or ALL_TOOLS
    if len(wanted) > MOST_TOOL_PATTERNS:
        raise UsageError(f"A key has at most {MOST_TOOL_PATTERNS} tool patterns.")
    for pattern in wanted:
        if not _TOOL_PATTERN.fullmatch(pattern):
            raise UsageError(
                f"{pattern!r} is not a tool pattern; write a tool's name, with * for any characters, ? for one."
            )
    return wanted


def patterns_cover(outer: Sequence[str], inner: Iterable[str]) -> bool:
    """Whether every tool that `inner` allows is surely allowed by `outer`.

    Where that is not plain to see, as for two patterns that are both involved, it is not.
    """
    return all(any(_covers(wide, narrow) for wide in outer) for narrow in inner)


def _covers(wide: str, narrow: str) -> bool:
    if wide in {"*", narrow}:
        return True
    special = _SPECIAL.search(narrow)
    if special is None:
        return fnmatchcase(narrow, wide)
    # `files_*` covers `files_read_*`: what begins so begins so.
    return wide.endswith("*") and not _SPECIAL.search(wide[:-1]) and narrow[: special.start()].startswith(wide[:-1])
