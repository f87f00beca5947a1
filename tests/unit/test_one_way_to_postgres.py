"""Every connection to Postgres is made in one module, so that every transaction has a scope."""

from __future__ import annotations

from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "src" / "trunkline"


def test_connections_are_made_in_one_module_alone() -> None:
    found = {
        path.relative_to(SOURCES).as_posix()
        for path in SOURCES.rglob("*.py")
        if any(word in path.read_text() for word in ("create_async_engine", "asyncpg.connect", "create_engine("))
    }
    assert found == {"db.py"}


def test_only_the_schema_is_changed_without_a_scope() -> None:
    found = {
        path.relative_to(SOURCES).as_posix() for path in SOURCES.rglob("*.py") if "make_engine" in path.read_text()
    }
    assert found == {"db.py", "schema.py"}
