"""`trunkline`: runs commands on the deployment of the test."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.cli.commands import Trunkline

from trunkline.settings import Settings


@pytest.fixture(autouse=True)
def _deployment(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deployment of the test, as the environment of its commands, in a directory without dev.json."""
    monkeypatch.chdir(tmp_path)
    for name in ("environment", "database_url", "redis_url", "redis_prefix", "public_url"):
        monkeypatch.setenv(f"TRUNKLINE_{name.upper()}", str(getattr(settings, name)))
    monkeypatch.setenv("TRUNKLINE_SECRET_KEY", settings.secret_key.get_secret_value())


@pytest.fixture
def trunkline(capsys: pytest.CaptureFixture[str]) -> Trunkline:
    return Trunkline(lambda: tuple(capsys.readouterr()))
