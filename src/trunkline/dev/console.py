"""What a person sees of `trunkline dev`: progress while it starts, logs if wanted, and what to do next."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path


def say(line: str) -> None:
    """A line for the person at the terminal, apart from what the command prints as its result."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def step(doing: str) -> Iterator[None]:
    """Show what is going on and, once it is done, how long it took."""
    started = time.monotonic()
    live = sys.stderr.isatty()
    if live:
        sys.stderr.write(f"  ... {doing}")
        sys.stderr.flush()
    done = False
    try:
        yield
        done = True
    finally:
        mark = "ok " if done else "no "
        over = "\r" if live else ""
        say(f"{over}  {mark} {doing} ({time.monotonic() - started:.1f} s)")


class Followed:
    """Log files whose new lines are shown, each with the name of the process in front."""

    def __init__(self, logs: Sequence[Path]) -> None:
        self._seen = {log: log.stat().st_size if log.exists() else 0 for log in logs}

    def show(self) -> None:
        """Print what came since the last time."""
        for log, seen in self._seen.items():
            if not log.exists():
                continue
            with log.open("rb") as file:
                file.seek(seen)
                # A line that is still being written waits until it is whole.
                whole, newline, _ = file.read().rpartition(b"\n")
            self._seen[log] = seen + len(whole) + len(newline)
            for line in whole.decode(errors="replace").splitlines():
                say(f"{log.stem:>10} | {line}")
