"""Passwords: hashed with argon2id in threads of their own, a bounded number at a time, never on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from trunkline.errors import NotStarted, UsageError

SHORTEST: Final = 12
LONGEST: Final = 256
"""Characters of a password."""
_THREADS: Final = 2
_MOST_WAITING: Final = 16
"""Passwords that wait for a thread; beyond it 503. One takes about 0.1 s."""

_SALT: Final = "A" * 22
_HASH: Final = "A" * 43
"""Of the hash of an account that is not there: no password has it, and to find that out takes as long."""

Result = TypeVar("Result")


class Passwords:
    """argon2id with 64 MiB, 3 passes and 1 lane (RFC 9106, section 4, within what a pod has); `fast` for tests alone.

    Raises, from `hash` and `verify`:
        NotStarted: as many passwords wait already as may.
    """

    def __init__(self, *, fast: bool = False) -> None:
        from argon2 import PasswordHasher  # the command line imports this module, and seldom needs it

        passes, memory = (1, 8) if fast else (3, 65_536)
        self._hasher = PasswordHasher(passes, memory, 1)
        self._nobody = f"$argon2id$v=19$m={memory},t={passes},p=1${_SALT}${_HASH}"
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="argon2")
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """The hash to store (PHC string format), with a salt of its own."""
        return await self._in_thread(lambda: self._hasher.hash(password))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether that is the password. Where there is no account, it takes as long as if there were one."""
        if stored is None:
            await self._in_thread(lambda: self._matches(self._nobody, password))
            return False
        return await self._in_thread(lambda: self._matches(stored, password))

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _matches(self, stored: str, password: str) -> bool:
        from argon2.exceptions import Argon2Error, InvalidHash

        try:
            return self._hasher.verify(stored, password)
        except (Argon2Error, InvalidHash):
            return False

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        if self._waiting >= _MOST_WAITING + _THREADS:
            raise NotStarted("Too many people sign in at once; try again in a few seconds.", retry_after=3)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1


def check_password(password: str, email: str) -> str:
    """Give a new password back if it may be one.

    Raises:
        UsageError: with the rule that it breaks; it repeats nothing of it.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise UsageError(f"A password has {SHORTEST} to {LONGEST} characters.")
    if password.strip().lower() in {email.lower(), email.partition("@")[0].lower()}:
        raise UsageError("The password must not be the email address.")
    return password
