"""A key's tool patterns, applied to names and to the wire form of a listing."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any


def allowed(patterns: Sequence[str], tool_name: str) -> bool:
    """Whether a key with these shell patterns (`*`, `?`, `[...]`; case matters) may call this tool.

    No patterns allow no tool.
    """
    return "*" in patterns or any(fnmatchcase(tool_name, pattern) for pattern in patterns)


def filter_listing(result: dict[str, Any], patterns: Sequence[str]) -> dict[str, Any]:
    """The result of `tools/list` without the tools that the key may not call; the given one is left as it is."""
    if "*" in patterns:
        return result
    return {**result, "tools": [tool for tool in result.get("tools", ()) if allowed(patterns, tool["name"])]}
