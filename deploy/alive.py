"""Whether the Trunkline process of this container is alive: exit code 0 if so, 1 with a sentence if not.

For the image's HEALTHCHECK, the same for all processes: it sees by the command line of process 1 (or of the one
that is given) what to ask.

- `trunkline api`: `/livez` at its port, which asks no store.
- `trunkline worker`: `/metrics` at TRUNKLINE_METRICS_PORT; without that port it is in order while it runs.
- anything else, such as `trunkline migrate`, is in order while it runs.

Kubernetes does not read HEALTHCHECK: it has probes. Only the standard library is used here, since it runs often.
"""

from __future__ import annotations

import http.client
import os
import sys
from pathlib import Path

PATIENCE = 4.0
"""Seconds; less than the HEALTHCHECK's timeout."""
PORT = 8000
"""Of `trunkline api` where its command line names none."""


def main() -> int:
    """Ask, and tell by the exit code."""
    address = what_to_ask(command_line(sys.argv[1] if len(sys.argv) > 1 else "1"), os.environ)
    if address is None:
        return 0
    port, path = address
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers={"Host": "localhost"})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        sys.stdout.write(f"No answer from port {port}: {error}\n")
        return 1
    finally:
        connection.close()
    if status != http.client.OK:
        sys.stdout.write(f"Port {port} answers {path} with {status}.\n")
        return 1
    return 0


def command_line(process: str) -> list[str]:
    """The arguments with which a process was started."""
    return Path(f"/proc/{process}/cmdline").read_text().split("\0")[:-1]


def what_to_ask(arguments: list[str], environment: os._Environ[str] | dict[str, str]) -> tuple[int, str] | None:
    """The port and the path that tell whether a process with these arguments is alive; nothing if none does."""
    program = next((place for place, each in enumerate(arguments) if Path(each).name == "trunkline"), None)
    if program is None:
        return None
    role, *options = arguments[program + 1 :] or [""]
    if role == "api":
        return port_of(options), "/livez"
    metrics = int(environment.get("TRUNKLINE_METRICS_PORT") or 0)
    return (metrics, "/metrics") if role == "worker" and metrics else None


def port_of(options: list[str]) -> int:
    """The port that `trunkline api` listens on, given these options; the last one counts."""
    port = PORT
    for place, option in enumerate(options):
        if option.startswith("--port="):
            port = int(option.partition("=")[2])
        elif option == "--port" and place + 1 < len(options):
            port = int(options[place + 1])
    return port


if __name__ == "__main__":
    sys.exit(main())
