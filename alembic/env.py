"""Run migrations, and compare what the code declares, on the connection that `trunkline.db` gives."""

from __future__ import annotations

import re

from alembic import context

import trunkline.audit.models
import trunkline.tenants.account_tables
import trunkline.tenants.tables  # noqa: F401 declares its tables
from trunkline.db import Base

PARTITION = re.compile(r"audit_(?:events|unchained)_(default|\d{4}_\d{2})")


def is_declared(name: str | None, kind: str, _parents: object) -> bool:
    """Leave out partitions: they come and go with the months, and no model declares them."""
    return not (kind == "table" and PARTITION.fullmatch(name or ""))


def run() -> None:
    connection = context.config.attributes.get("connection")
    if connection is None:
        raise SystemExit("Run `trunkline migrate`; it holds the lock that keeps two migrations apart.")
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_name=is_declared,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
