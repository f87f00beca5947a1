"""Programs that do not outlive us: started apart from our terminal, ended in order, and dead when we are killed."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trunkline.dev.account import Account, Identity
from trunkline.errors import StartRefused

_PR_SET_PDEATHSIG = 1
"""prctl(2), Linux: the signal that a process gets when the thread that started it ends."""
_POLL = 0.01
"""Seconds between two looks at something that tells nobody when it changes."""

# Loaded here because nothing may be imported between fork and exec.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def spawn(
    command: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str],
    directory: Path | None = None,
    account: Account | None = None,
    on_parent_death: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start a program whose output is appended to `log` and which, on Linux, gets a signal if we are killed.

    It runs in its own session, so a Ctrl-C in our terminal reaches us alone and we decide the order of the end.
    Call it from the main thread: the kernel ties the child to the thread that started it.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("programs are tied to the thread that starts them; start them from the main thread")
    with log.open("ab") as output:
        # The interpreter changes the user before it calls preexec_fn, which matters: a change of user clears
        # the parent death signal.
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=directory,
            start_new_session=True,
            preexec_fn=_tie_to_parent(on_parent_death),  # noqa: PLW1509 - a system call by a loaded library
            **(account.identity if account else Identity()),
        )


def _tie_to_parent(number: signal.Signals) -> Callable[[], None] | None:
    if _libc is None:
        return None
    parent = os.getpid()

    def tie() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # we were killed before the kernel knew what to do about it
            os.kill(os.getpid(), signal.SIGKILL)

    return tie


def end(process: subprocess.Popen[bytes], *steps: tuple[signal.Signals, float]) -> None:
    """Send each signal and give it so many seconds, until the process has ended; kill it at last."""
    for number, seconds in steps:
        if process.poll() is not None:
            return
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    if process.poll() is None:
        process.kill()
        process.wait()


def end_leftover(pid_file: Path, mark: str, first: signal.Signals, *, patience: float = 10.0) -> None:
    """Stop the process that `pid_file` names if it is the one we left behind: its command line contains `mark`.

    Another process that happens to have the number by now is left alone, and the file, which lies, is removed.
    The caller holds the lock of the data directory, so whatever it finds belongs to nobody who lives.
    """
    try:
        pid = int(pid_file.read_text().splitlines()[0])
    except (FileNotFoundError, ValueError, IndexError):
        return
    if mark in command_of(pid):
        for number, seconds in ((first, patience), (signal.SIGKILL, 2.0)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            if eventually(lambda: mark not in command_of(pid), seconds):
                break
    pid_file.unlink(missing_ok=True)


def command_of(pid: int) -> str:
    """The command line of a process; empty if there is none, or it is a zombie."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return ""
    asked = subprocess.run(["/bin/ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition` became true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def last_words(log: Path) -> str:
    """The line of a log that most likely says why its process ended."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except FileNotFoundError:
        lines = []
    telling = [line for line in lines if "FATAL" in line or "Fatal" in line] or lines
    return telling[-1].strip() if telling else "it said nothing"


def free_port(preferred: int = 0) -> int:
    """A port of 127.0.0.1 that nobody listens on: the preferred one if it is free."""
    if preferred and port_is_free("127.0.0.1", preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now.

    Raises:
        StartRefused: this machine does not have that address, or may not use that port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except PermissionError as error:
            raise StartRefused(
                f"This user may not listen on port {port}; choose one above 1023 with --port."
            ) from error
        except socket.gaierror as error:
            raise StartRefused(f"There is no address {host!r} to listen on; choose another with --host.") from error
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise StartRefused(f"This machine has no address {host}; choose another with --host.") from error
            return False
    return True
