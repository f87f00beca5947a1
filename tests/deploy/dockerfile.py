"""Reads a Dockerfile: its stages, and the instructions of each; refuses what it does not know."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

KNOWN = frozenset(
    {"ARG", "CMD", "COPY", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "STOPSIGNAL", "USER", "WORKDIR"}
)


@dataclass(frozen=True)
class Instruction:
    """One instruction; `text` is what follows its name, with lines joined."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)

    @property
    def options(self) -> dict[str, str]:
        """`--name=value` in front of the rest."""
        found = re.findall(r"--([\w-]+)=(\S+)\s+", re.match(r"(?:--[\w-]+=\S+\s+)*", self.text)[0])  # type: ignore[index]
        return dict(found)

    @property
    def rest(self) -> str:
        """What follows the options."""
        return re.sub(r"^(?:--[\w-]+=\S+\s+)*", "", self.text)

    @property
    def command(self) -> list[str]:
        """The words of an exec form; HEALTHCHECK has one after CMD."""
        words = json.loads(self.rest.removeprefix("CMD").strip())
        assert isinstance(words, list)
        return words


@dataclass
class Stage:
    """One stage; `arguments` are the values of its ARGs."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)
    arguments: dict[str, str] = field(default_factory=dict)

    def all(self, name: str) -> list[Instruction]:
        return [each for each in self.instructions if each.name == name]

    def one(self, name: str) -> Instruction:
        (found,) = self.all(name)
        return found

    @property
    def variables(self) -> dict[str, str]:
        """What ENV sets, as it is written."""
        return dict(word.split("=", 1) for each in self.all("ENV") for word in each.words)


def instructions(text: str) -> Iterator[Instruction]:
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in filter(str.strip, lines.replace("\\\n", " ").splitlines()):
        name, _, rest = line.partition(" ")
        if name not in KNOWN:
            raise ValueError(f"an instruction that is not known here: {name}")
        yield Instruction(name, " ".join(rest.split()))


def stages(path: Path) -> list[Stage]:
    """The stages in their order, with the defaults of ARGs put into FROM."""
    found: list[Stage] = []
    defaults: dict[str, str] = {}
    for each in instructions(path.read_text()):
        if each.name == "FROM":
            base, *name = each.words
            base = re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], base)
            found.append(Stage(name[1] if name else "", base, arguments=dict(defaults)))
        elif each.name == "ARG":
            name, _, value = each.text.partition("=")
            (found[-1].arguments if found else defaults).setdefault(name, value)
        if found:
            found[-1].instructions.append(each)
    return found
