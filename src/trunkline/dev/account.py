"""Who runs the stores: ourselves, or, as Postgres refuses to run as root, an account that owns nothing else."""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypedDict

from trunkline.errors import StartRefused

SERVICE_ACCOUNTS = ("postgres", "nobody")
"""In this order, where we are root."""


class Identity(TypedDict, total=False):
    """What `subprocess` takes to change the user: none of root's groups may stay."""

    user: int
    group: int
    extra_groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Account:
    """A user that programs run as."""

    uid: int
    gid: int
    name: str
    foreign: bool
    """Whether it is another user than ours, so that files must be handed over to it."""

    @classmethod
    def for_data(cls, directory: Path) -> Self:
        """The account that runs a store on `directory`: its owner if it is there, and never root.

        Raises:
            StartRefused: this user cannot run a store.
        """
        if os.geteuid() != 0:
            return cls._ours()
        if directory.exists() and (owner := directory.stat()).st_uid != 0:
            return cls(owner.st_uid, owner.st_gid, _name_of(owner.st_uid), foreign=True)
        for name in SERVICE_ACCOUNTS:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_uid, entry.pw_gid, name, foreign=True)
        raise StartRefused(
            "Postgres does not run as root, and this machine has neither a user 'postgres' nor 'nobody' to run it "
            "as; run this as an ordinary user, or set TRUNKLINE_DATABASE_URL and TRUNKLINE_REDIS_URL."
        )

    @classmethod
    def _ours(cls) -> Self:
        uid = os.geteuid()
        name = _name_of(uid)
        if not name:
            raise StartRefused(
                f"The user id {uid} has no entry in the password database, and Postgres cannot run without one; "
                "run this as a user with an entry, or set TRUNKLINE_DATABASE_URL and TRUNKLINE_REDIS_URL."
            )
        return cls(uid, os.getegid(), name, foreign=False)

    @property
    def identity(self) -> Identity:
        """Arguments with which `subprocess` becomes this account."""
        return Identity(user=self.uid, group=self.gid, extra_groups=()) if self.foreign else Identity()

    def can_read(self, path: Path) -> bool:
        """Whether this account reaches and reads `path`; asked of the system itself, for access lists count too.

        Raises:
            StartRefused: this process may not become that account.
        """
        if not self.foreign:
            return os.access(path, os.R_OK)
        command = ["/bin/sh", "-c", 'test -r "$1"', "sh", str(path)]
        try:
            asked = subprocess.run(command, cwd="/", check=False, **self.identity)
        except OSError as error:
            raise StartRefused(
                f"Cannot run programs as the user {self.name!r} ({error.strerror}); run this as an ordinary user, or "
                "set TRUNKLINE_DATABASE_URL and TRUNKLINE_REDIS_URL."
            ) from error
        return asked.returncode == 0

    def own(self, path: Path) -> None:
        """Hand a file or an empty directory over to this account."""
        if self.foreign:
            os.chown(path, self.uid, self.gid)


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
