"""`deployment`: API pods and workers as processes, on the stores that all tests share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from faults.pods import environment_of
from tests.acceptance.pods import Deployment, deployed

from trunkline.cli import command
from trunkline.settings import Settings

Trunkline = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
async def deployment(settings: Settings, tmp_path: Path) -> AsyncIterator[Deployment]:
    """A deployment with the tenant `demo` and a key, and no pods yet; those that a test starts end with it."""
    async with deployed(settings, tmp_path) as made:
        yield made


@pytest.fixture
def trunkline(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Trunkline:
    """Runs a command on the deployment, or one with other settings; gives its exit code and what it prints."""
    monkeypatch.chdir(tmp_path)

    async def run(*arguments: str, on: Settings = settings) -> tuple[int, str]:
        for name, value in environment_of(on).items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        code = await asyncio.to_thread(command.run, arguments)
        return code, "".join(capsys.readouterr())

    return run
