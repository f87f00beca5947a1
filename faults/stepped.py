"""A pod whose clock is set while it runs: `python -m faults.stepped api ...` is `trunkline api ...` until SIGUSR1.

By how many seconds it is set then, the environment says. What is set is the time of day, as everything in the process
reads it; the monotonic clocks stay, as they do when a machine's clock is set.
"""

from __future__ import annotations

import datetime as dt
import os
import signal
import sys
import time

import uuid_utils

STEP_VARIABLE = "FAULTS_CLOCK_STEP"
"""Environment variable: the seconds by which the clock is set, negative for back."""

_read, _read_ns, _uuid7 = time.time, time.time_ns, uuid_utils.uuid7
_original = dt.datetime
_step = 0


def _time() -> float:
    return _read() + _step


def _time_ns() -> int:
    return _read_ns() + _step * 1_000_000_000


class _Type(type):
    """Any datetime is one of the class that stands in for it."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _original)


class _Datetime(_original, metaclass=_Type):
    """`datetime.datetime` with the clock that was set."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> _original:  # type: ignore[override]
        """The time of day."""
        return _original.fromtimestamp(_time(), tz)


def _new_uuid7(*, nanoseconds: int | None = None) -> uuid_utils.UUID:
    return _uuid7(nanoseconds=_time_ns() if nanoseconds is None else nanoseconds)


def _set(*_: object) -> None:
    global _step  # noqa: PLW0603 - a process has one clock
    _step = int(os.environ[STEP_VARIABLE])


def main() -> None:
    """Put the clock in place before anything has looked at the old one, then run the command."""
    time.time, time.time_ns = _time, _time_ns
    dt.datetime = _Datetime  # type: ignore[misc]
    uuid_utils.uuid7 = _new_uuid7
    signal.signal(signal.SIGUSR1, _set)
    from trunkline.cli import main as run

    sys.argv[0] = "trunkline"
    run()


if __name__ == "__main__":
    main()
