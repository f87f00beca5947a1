"""`trunkline` commands as a person runs them, without a process for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Container
from typing import Any

from trunkline.cli import command


class Trunkline:
    """Runs commands and gives what they print.

    Args:
        read: What was printed since it was asked last, on standard output and on standard error.
        on_output: Exit codes with which the answer is on standard output.
    """

    def __init__(self, read: Callable[[], tuple[str, str]], on_output: Container[int] = (0,)) -> None:
        self._read = read
        self._on_output = on_output
        self.printed = ""
        """All that the last command printed."""

    def __call__(self, *arguments: str, code: int = 0) -> str:
        self._read()
        ended = command.run(arguments)
        out, err = self._read()
        self.printed = out + err
        assert ended == code, err
        return out if code in self._on_output else err

    def rows(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code))
