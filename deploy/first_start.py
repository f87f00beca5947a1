"""Makes the passwords and keys of docker-compose.yml, at random, once, and hands each service its own in files.

    python first_start.py DIRECTORY

What was made is in DIRECTORY/made, which no service sees, and is never changed. From it come the files of services,
in DIRECTORY/<service>: written at every start, readable by that service's user alone. Nothing is printed but names.

Runs as root with CHOWN, DAC_OVERRIDE and FOWNER alone, and takes the standard library alone.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

MADE = ("secret_key", "metrics_key", "owner", "pods", "redis", "grafana")
USERS = {"trunkline": 10001, "migrate": 10001, "postgres": 999, "redis": 999, "prometheus": 65534, "grafana": 472}
"""Of the images: who reads the files of a service."""
LOGIN = """\
CREATE ROLE trunkline_pods LOGIN NOINHERIT PASSWORD '{pods}';
REVOKE CONNECT ON DATABASE trunkline FROM PUBLIC;
GRANT CONNECT ON DATABASE trunkline TO trunkline_pods;
"""
"""What Postgres runs when it makes its database: the pods' login, which owns nothing."""


def main() -> int:
    """Make what is missing; exit code 2 for wrong usage."""
    if len(sys.argv) != 2:
        sys.stderr.write("Usage: first_start.py DIRECTORY\n")
        return 2
    root = Path(sys.argv[1])
    made = {name: secret(root / "made", name) for name in MADE}
    for service, files in files_of(made).items():
        hand_over(root / service, files, USERS[service])
    sys.stdout.write(f"Secrets are in place for {', '.join(USERS)}.\n")
    return 0


def secret(directory: Path, name: str) -> str:
    """The secret of that name; made if there is none. Two that make it at once have the same."""
    directory.mkdir(mode=0o700, exist_ok=True)
    directory.chmod(0o700)
    path = directory / name
    if not path.exists():
        scratch = directory / f".{name}-{secrets.token_hex(4)}"
        write(scratch, secrets.token_hex(32))
        try:
            os.link(scratch, path)  # never over one that is there
        except FileExistsError:
            pass
        finally:
            scratch.unlink()
    return path.read_text()


def files_of(made: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Each service's files, by name."""
    redis_url = f"redis://:{made['redis']}@redis:6379/0"
    database_url = f"postgresql://trunkline_pods:{made['pods']}@postgres:5432/trunkline"
    shared = {"TRUNKLINE_DATABASE_URL": database_url, "TRUNKLINE_SECRET_KEY": made["secret_key"]}
    owner_url = f"postgresql://trunkline:{made['owner']}@postgres:5432/trunkline"
    return {
        "trunkline": shared | {"TRUNKLINE_REDIS_URL": redis_url, "TRUNKLINE_METRICS_KEY": made["metrics_key"]},
        "migrate": shared | {"TRUNKLINE_MIGRATION_DATABASE_URL": owner_url},
        "postgres": {"password": made["owner"], "login.sql": LOGIN.format(**made)},
        "redis": {"password": made["redis"], "redis.conf": f"requirepass {made['redis']}\n"},
        "prometheus": {"metrics_key": made["metrics_key"]},
        "grafana": {"password": made["grafana"]},
    }


def hand_over(directory: Path, files: Mapping[str, str], user: int) -> None:
    """Write a service's files, each in one step, for its user alone."""
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        scratch = directory / f".{name}-{secrets.token_hex(4)}"
        write(scratch, text)
        os.chown(scratch, user, user)
        scratch.replace(directory / name)
    directory.chmod(0o500)
    os.chown(directory, user, user)


def write(path: Path, text: str) -> None:
    """A file that its owner alone may read, from its first moment on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main())
