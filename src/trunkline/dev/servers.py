"""What hosted servers are called. Importing them, and the SDK, takes a second: it is done in a process beside ours.

`python -m trunkline.dev.servers MODULE:OBJECT ...` prints the name of each one's toolset on a line.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence

from trunkline.errors import StartRefused, TrunklineError


@contextlib.contextmanager
def names_of_servers(servers: Sequence[str]) -> Iterator[NamesOfServers]:
    """The names of the toolsets of `servers`, being found out while the block does something else."""
    if not servers:
        yield NamesOfServers(None)
        return
    with subprocess.Popen(
        [sys.executable, "-m", "trunkline.dev.servers", *servers],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        try:
            yield NamesOfServers(process)
        finally:
            process.kill()


class NamesOfServers:
    """Names that will be known."""

    def __init__(self, process: subprocess.Popen[str] | None) -> None:
        self._process = process

    def result(self) -> tuple[str, ...]:
        """Wait for the names.

        Raises:
            StartRefused: one of the servers cannot be hosted; the sentence says why.
        """
        if self._process is None:
            return ()
        names, errors = self._process.communicate()
        if self._process.returncode != 0:
            lines = errors.strip().splitlines()
            raise StartRefused(lines[-1] if lines else "The servers could not be imported.")
        return tuple(names.split())


def main() -> None:
    """Print the names, or one sentence and exit with 1."""
    from trunkline.toolsets.hosted import load

    # What a server prints while it is imported is not one of the names.
    out, sys.stdout = sys.stdout, sys.stderr
    try:
        names = [load(server).name for server in sys.argv[1:]]
    except TrunklineError as error:
        sys.exit(error.message)
    out.write("\n".join(names) + "\n")


if __name__ == "__main__":
    main()
