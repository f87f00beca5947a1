"""The directory that `--data` names: held by one process at a time, its secrets for that user's eyes only."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from trunkline.dev.account import Account
from trunkline.dev.programs import SHARED
from trunkline.errors import StartRefused


class DataDirectory:
    """What one instance keeps from start to start."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.logs = self.path / "logs"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the directory if need be and hold it, until the end of the block or of this process.

        Raises:
            StartRefused: another process holds it, or it cannot be written.
        """
        try:
            if os.geteuid() == 0:
                make_searchable(self.path)  # for the stores' account, which is not ours then
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.logs.mkdir(exist_ok=True, mode=0o700)
            lock = (self.path / "lock").open("a+")
            (self.path / "lock").chmod(0o644)  # by which the stores' account finds out whether it gets here
        except OSError as error:
            raise StartRefused(
                f"Cannot write to the data directory {self.path} ({error.strerror}); choose another with --data."
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                holder = lock.read().strip() or "unknown"
                raise StartRefused(
                    f"The data directory {self.path} is in use by process {holder}; stop that, or choose "
                    "another with --data."
                ) from error
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def secret(self, name: str) -> str:
        """A secret of this directory, the same at every start; it holds no character that a URL would escape."""
        kept = self.read_private("secrets.json")
        if name not in kept:
            kept[name] = secrets.token_urlsafe(32)
            self.write_private("secrets.json", kept)
        return str(kept[name])

    def read_private(self, name: str) -> dict[str, object]:
        """A JSON object that `write_private` wrote; empty if there is none, or it is damaged."""
        try:
            kept = json.loads((self.path / name).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return kept if isinstance(kept, dict) else {}

    def write_private(self, name: str, value: dict[str, object]) -> None:
        """Replace a JSON file, whole or not at all, readable by us alone."""
        scratch = self.path / f".{name}.new"
        scratch.unlink(missing_ok=True)
        # Created with its mode: at no moment is the secret there for others.
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(value, file, indent=2)
            file.write("\n")
        scratch.replace(self.path / name)

    def store_home(self, data_name: str) -> tuple[Path, Account]:
        """Where a store keeps its files, and who runs it there: below `--data`, unless that account cannot get there.

        Raises:
            StartRefused: there is no such account or no such place.
        """
        here = self.path / data_name
        account = Account.for_data(here)
        if account.can_read(here if here.exists() else self.path / "lock"):
            return here, account
        if here.exists():
            raise StartRefused(
                f"The user {account.name!r} owns {here} and cannot reach it; make the directories above it "
                "searchable for that user."
            )
        home = SHARED / "data" / self._identity()
        try:
            for directory in (SHARED, SHARED / "data", home):
                make_searchable(directory)
        except OSError as error:
            raise StartRefused(
                f"The user {account.name!r}, whom the stores run as, cannot reach {self.path}, and {home} cannot be "
                f"made ({error.strerror}); choose a --data directory that this user can reach."
            ) from error
        return home / data_name, Account.for_data(home / data_name)

    def _identity(self) -> str:
        """A name for what is kept elsewhere: it goes with the directory, not with its path."""
        kept = self.read_private("elsewhere.json")
        if "name" not in kept:
            kept["name"] = f"{self.path.name.strip('.')}-{secrets.token_hex(8)}"
            self.write_private("elsewhere.json", kept)
        return str(kept["name"])


def make_searchable(directory: Path) -> None:
    """Make a directory that others may pass through and not list, whatever the umask says."""
    if not directory.exists():
        directory.mkdir(parents=True)
        directory.chmod(0o711)
