"""Settings from files, as container engines and orchestrators mount secrets."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from trunkline.cli.command import run
from trunkline.cli.environment import deployment_settings
from trunkline.errors import StartRefused
from trunkline.settings import load_settings, with_files

SECRET = "3f9c1b7a5d2e8f4061c7a9b3d5e7f1024b6d8f0a"


@pytest.fixture
def secrets_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "secrets"
    directory.mkdir()
    monkeypatch.setenv("TRUNKLINE_SECRETS_DIR", str(directory))
    return directory


def mount(directory: Path, **files: str) -> None:
    """Files as the kubelet mounts them: links into a folder that is replaced as a whole."""
    data = directory / "..2026_11_27"
    data.mkdir()
    (directory / "..data").symlink_to(data.name)
    for name, text in files.items():
        (data / name).write_text(text)
        (directory / name).symlink_to(f"..data/{name}")


def test_files_give_what_the_environment_does_not(secrets_dir: Path) -> None:
    mount(
        secrets_dir,
        TRUNKLINE_SECRET_KEY=f"{SECRET}\n",
        TRUNKLINE_DATABASE_URL="postgresql://a:b@c/d",
        TRUNKLINE_SERVERS="a:b, c:d\n",
        TRUNKLINE_CONTROL="false",
    )
    settings = load_settings()
    assert settings.secret_key.get_secret_value() == SECRET
    assert settings.database_url == "postgresql://a:b@c/d"
    assert settings.servers == ("a:b", "c:d")
    assert settings.control is False
    assert settings.secrets_dir == str(secrets_dir)


def test_file_names_may_be_in_small_letters(secrets_dir: Path) -> None:
    (secrets_dir / "trunkline_secret_key").write_text(SECRET)
    assert load_settings().secret_key.get_secret_value() == SECRET


def test_the_environment_wins_over_a_file_unless_it_is_empty(
    secrets_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount(secrets_dir, TRUNKLINE_SECRET_KEY=SECRET, TRUNKLINE_LANES="8", TRUNKLINE_DATABASE_URL="postgresql://file/d")
    monkeypatch.setenv("TRUNKLINE_LANES", "4")
    monkeypatch.setenv("TRUNKLINE_DATABASE_URL", "")
    settings = load_settings()
    assert settings.lanes == 4
    assert settings.database_url == "postgresql://file/d"
    assert load_settings(lanes=2).lanes == 2


def test_a_file_with_a_value_that_cannot_be_stops_the_start(secrets_dir: Path) -> None:
    mount(secrets_dir, TRUNKLINE_SECRET_KEY=SECRET, TRUNKLINE_LANES="many")
    with pytest.raises(StartRefused, match="TRUNKLINE_LANES: Input should be a valid integer"):
        load_settings()


def test_a_directory_that_is_not_there_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_SECRETS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(StartRefused, match="nowhere is no directory that can be read here"):
        load_settings(environment="dev")


def test_a_file_that_cannot_be_read_stops_the_start(secrets_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount(secrets_dir, TRUNKLINE_SECRET_KEY=SECRET)

    def refuse(self: Path, *_: object, **__: object) -> str:  # root reads everything
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(StartRefused, match=r"SECRETS_DIR: .*Permission denied: .*TRUNKLINE_SECRET_KEY") as refused:
        load_settings()
    assert SECRET not in refused.value.message


def test_a_link_that_leads_elsewhere_stops_the_start(secrets_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(SECRET)
    (secrets_dir / "TRUNKLINE_SECRET_KEY").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartRefused, match="resolves outside of"):
        load_settings()


def test_the_command_line_works_on_the_deployment_that_files_name(secrets_dir: Path, tmp_path: Path) -> None:
    mount(
        secrets_dir,
        TRUNKLINE_SECRET_KEY=SECRET,
        TRUNKLINE_DATABASE_URL="postgresql://a:b@c/d",
        TRUNKLINE_REDIS_URL="redis://c",
    )
    assert deployment_settings().redis_url == "redis://c"


def test_a_file_of_another_deployment_keeps_dev_json_out(
    secrets_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount(secrets_dir, TRUNKLINE_DATABASE_URL="postgresql://mine/d")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".trunkline").mkdir()
    offered = {"TRUNKLINE_DATABASE_URL": "postgresql://dev/d", "TRUNKLINE_REDIS_URL": "redis://dev"}
    (tmp_path / ".trunkline" / "dev.json").write_text(json.dumps({"env": offered}))
    with pytest.raises(StartRefused, match="TRUNKLINE_SECRET_KEY and TRUNKLINE_REDIS_URL"):
        deployment_settings()
    assert "TRUNKLINE_REDIS_URL" not in os.environ


def test_what_is_printed_of_settings_has_what_files_say_and_masks_secrets(
    secrets_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mount(secrets_dir, TRUNKLINE_SECRET_KEY=SECRET, TRUNKLINE_LANES="4")
    assert run(["settings"]) == 0
    printed = capsys.readouterr()
    assert "TRUNKLINE_LANES=4  (default: 16)" in printed.out
    assert "TRUNKLINE_SECRET_KEY=********" in printed.out
    assert SECRET not in printed.out + printed.err
    assert "no api or worker would start" not in printed.err


def test_without_a_directory_nothing_is_read() -> None:
    assert with_files({"TRUNKLINE_LANES": "4", "PATH": "/bin"}) == {"TRUNKLINE_LANES": "4", "PATH": "/bin"}
