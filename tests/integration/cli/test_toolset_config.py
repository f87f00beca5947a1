"""`trunkline toolset config`: what an operator configures for a tenant."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr
from tests.integration.cli.commands import Trunkline

from trunkline.db import Database
from trunkline.settings import Settings
from trunkline.tenants import hosted
from trunkline.tenants.hosted import HostedToolset
from trunkline.toolsets.configurable import schema_of

CANARY = "canary-of-a-secret-token"
CONFIG = ("toolset", "config", "acme", "weather")


class Weather(BaseModel):
    token: SecretStr
    region: str = "eu"
    days: int = 3
    zip: str | None = None


class Discreet(Trunkline):
    """Commands that say nothing of a secret, whatever happens."""

    def __call__(self, *arguments: str, code: int = 0) -> str:
        said = super().__call__(*arguments, code=code)
        assert CANARY not in self.printed
        return said


@pytest.fixture
def trunkline(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Trunkline:
    """A tenant `acme` that has switched on a toolset with something to configure."""

    async def host() -> None:
        database = Database(settings.database_url, process="test")
        await hosted.announce(database, [HostedToolset("weather", "Weather", "", schema_of(Weather))])
        await database.aclose()

    asyncio.run(host())
    run = Discreet(lambda: tuple(capsys.readouterr()))
    run("tenant", "create", "acme")
    run("toolset", "enable", "acme", "weather")
    (tmp_path / "token.txt").write_text(f"{CANARY}\n")
    return run


def test_fields_are_set_one_by_one_and_a_secret_is_taken_from_a_file(trunkline: Trunkline) -> None:
    made = json.loads(trunkline(*CONFIG, "--set", "token=@token.txt", "--set", "days=5", "--set", "zip=01234"))
    assert (made["config"], made["secrets"]) == ({"days": 5, "zip": "01234"}, ["token"])
    changed = json.loads(trunkline(*CONFIG, "--set", "region=no", "--set", "zip=null"))
    assert changed["config"] == {"days": 5, "zip": None, "region": "no"}
    assert json.loads(trunkline(*CONFIG)) == changed
    assert changed["secrets"] == ["token"]


def test_a_file_or_the_standard_input_replaces_it_all(
    trunkline: Trunkline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunkline(*CONFIG, "--set", "token=@token.txt", "--set", "days=5")
    (tmp_path / "config.json").write_text('{"region": "se"}')
    made = json.loads(trunkline(*CONFIG, "--file", "config.json"))
    assert (made["config"], made["secrets"]) == ({"region": "se"}, ["token"])
    monkeypatch.setattr("sys.stdin", io.StringIO('{"region": "dk"}'))
    assert json.loads(trunkline(*CONFIG, "--file", "-"))["config"] == {"region": "dk"}
    trunkline(*CONFIG, "--clear")
    assert json.loads(trunkline(*CONFIG))["version"] == 0


def test_the_schema_is_printed(trunkline: Trunkline) -> None:
    assert json.loads(trunkline(*CONFIG, "--schema"))["required"] == ["token"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--set", f"token={CANARY}"), "token is a secret: write token=@FILE"),
        (("--set", "days"), "--set takes FIELD=VALUE"),
        (("--set", "token=@nowhere.txt"), "nowhere.txt cannot be read."),
        (("--file", "token.txt"), "token.txt is not JSON."),
        (("--set", "days=1", "--clear"), "Give one of --file, --set, --clear and --schema."),
        (("--set", "token=@token.txt", "--set", "days=many"), "does not fit the toolset's schema"),
    ],
)
def test_what_cannot_be_is_one_sentence(trunkline: Trunkline, arguments: tuple[str, ...], sentence: str) -> None:
    ended = 1 if "fit" in sentence else 2
    assert sentence in trunkline(*CONFIG, *arguments, code=ended)
