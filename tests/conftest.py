"""Fixtures for all tests.

- `settings`: settings of a deployment of one's own: a migrated database, a Redis prefix, a secret.
- `database_url`: that database alone, empty but for the schema; dropped after the test.
- `redis_url`: the Redis that all tests share; use `settings.redis_prefix` in front of every key.
- `stores`: both stores, for tests that make their own databases or settings.
- `free_port`: a port of 127.0.0.1 that nobody listens on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Generator, Iterator
from typing import TypeVar

import pytest
import structlog
from tests.stores import TestStores, need_docker, stores_of_this_run

from trunkline import logs
from trunkline.dev.process import free_port as find_free_port
from trunkline.settings import Settings, load_settings

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

_running = contextlib.ExitStack()
_shared = pytest.StashKey[TestStores]()

# What is logged here is seldom read. A traceback with the values of all variables takes seconds to draw; and where
# nothing has set up logging, the SDK does when a server is made, with a coloured line for each request of a client.
structlog.dev.ConsoleRenderer.get_active().exception_formatter = structlog.dev.plain_traceback
logging.getLogger().addHandler(logging.NullHandler())

# The tests are about the defaults, not about the deployment that this shell belongs to.
for _name in [name for name in os.environ if name.startswith("TRUNKLINE_") and "_TEST_" not in name]:
    del os.environ[_name]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("stores")
    group.addoption("--stores", choices=("wheels", "containers"), default="wheels", help="where stores come from")
    for name in ("database", "redis"):
        variable = f"TRUNKLINE_TEST_{name.upper()}_URL"
        group.addoption(
            f"--{name}-url", default=os.environ.get(variable, ""), help=f"use this store instead (or {variable})"
        )
    parser.addoption(
        "--no-skips", action="store_true", help="a test that is skipped, for whatever reason, has failed"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--stores") == "containers":
        need_docker()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    return fail_if_skipped(item.config, report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    return fail_if_skipped(collector.config, report)


def fail_if_skipped(config: pytest.Config, report: Report) -> Report:
    """Where nothing may be skipped, `report` as a failure with the reason for which it was."""
    if report.skipped and config.getoption("--no-skips"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}; but with --no-skips nothing may be skipped"
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Start the stores in the process that outlives all xdist workers, and tell each worker where they are."""
    config = node.config  # type: ignore[attr-defined]
    if _shared not in config.stash:
        config.stash[_shared] = _running.enter_context(stores_of_this_run(config))
    stores = config.stash[_shared]
    node.workerinput["stores"] = (stores.database_url, stores.redis_url, stores.run)  # type: ignore[attr-defined]


def pytest_unconfigure() -> None:
    _running.close()


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what a command did to the logging of this process: the standard error it found is closed by now."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    logs.stations.on = False
    for name in ("httpx2", "httpcore2", "asyncio", "mcp"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def stores(pytestconfig: pytest.Config) -> Iterator[TestStores]:
    """Postgres and Redis, shared by all tests of a run, with a migrated template to copy databases from."""
    given = getattr(pytestconfig, "workerinput", {}).get("stores")
    with contextlib.nullcontext(TestStores(*given)) if given else stores_of_this_run(pytestconfig) as found:
        found.make_template()
        yield found


@pytest.fixture
def database_url(stores: TestStores) -> Iterator[str]:
    """A migrated database that is this test's alone."""
    with stores.fresh_database() as url:
        yield url


@pytest.fixture
def redis_url(stores: TestStores) -> str:
    """The Redis that all tests share."""
    return stores.redis_url


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    """Settings of a deployment that no other test sees."""
    return load_settings(
        environment="dev",
        database_url=database_url,
        redis_url=redis_url,
        redis_prefix=f"test-{secrets.token_hex(6)}:",
        secret_key=secrets.token_hex(32),
        public_url="http://127.0.0.1:8000",
        drain_delay=0,
    )


@pytest.fixture
def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    return find_free_port()
