"""The names that a tenant's clients see: as the author gave them, made unique and fit for every client.

Clients take at most 64 characters of `[A-Za-z0-9_-]`, and want a name to be the same on every listing.
"""

from __future__ import annotations

import re
from hashlib import sha256

MAX_NAME = 64
MAX_SLUG = 32
_DIGEST = 8

_UNFIT = re.compile(r"[^A-Za-z0-9_-]")
_UNFIT_RUN = re.compile(r"[^A-Za-z0-9_-]+")


def slug(name: str) -> str:
    """A toolset's name made from a server's: at most 32 characters of `[A-Za-z0-9_-]`; empty if nothing is left."""
    return _UNFIT_RUN.sub("-", name).strip("-_")[:MAX_SLUG].rstrip("-_")


def fit(name: str) -> str:
    """The name itself where every client takes it, else a form of it that is the same on every worker."""
    clean = _UNFIT.sub("_", name)
    if clean == name and 0 < len(name) <= MAX_NAME:
        return name
    return _signed(clean, name)


def _signed(clean: str, source: str) -> str:
    digest = sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    return f"{clean[: MAX_NAME - _DIGEST - 1]}_{digest}"


class Names:
    """Which name a tenant's clients use for which toolset's name.

    Names are added in the order in which the toolsets were first switched on, those switched off again included. A
    name once given is never given again and never changes; the same additions in the same order give the same names.
    """

    def __init__(self) -> None:
        self._owners: dict[str, tuple[str, str]] = {}
        self._seen: dict[tuple[str, str], str] = {}

    def add(self, toolset: str, name: str) -> str:
        """The name that clients use for `name` of this toolset."""
        key = (toolset, name)
        seen = self._seen.get(key)
        if seen is None:
            seen = self._free(toolset, name)
            self._seen[key] = seen
            self._owners[seen] = key
        return seen

    def _free(self, toolset: str, name: str) -> str:
        prefixed = f"{toolset}_{name}"
        for candidate in (fit(name), fit(prefixed)):
            if candidate not in self._owners:
                return candidate
        source = prefixed
        while (candidate := _signed(_UNFIT.sub("_", prefixed), source)) in self._owners:
            source += "+"
        return candidate

    def owner(self, seen: str) -> tuple[str, str] | None:
        """Toolset and name there, or None where no toolset of this tenant has it."""
        return self._owners.get(seen)

    def kept(self, toolset: str) -> bool:
        """Whether clients see every name of this toolset as its author gave it."""
        return all(seen == name for (owner, name), seen in self._seen.items() if owner == toolset)
