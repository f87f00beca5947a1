from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from trunkline.dev.data import DataDirectory
from trunkline.errors import StartRefused


@pytest.fixture
def data(tmp_path: Path) -> DataDirectory:
    directory = DataDirectory(tmp_path / "data")
    with directory.locked():
        pass
    return directory


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_directory_that_is_held_is_refused_with_who_holds_it(tmp_path: Path) -> None:
    with (
        DataDirectory(tmp_path).locked(),
        pytest.raises(StartRefused, match=rf"in use by process {os.getpid()}; stop that, or choose another"),
        DataDirectory(tmp_path).locked(),
    ):
        pass


def test_a_directory_is_free_again_after_its_holder(tmp_path: Path) -> None:
    for _ in range(2):
        with DataDirectory(tmp_path).locked():
            pass


def test_a_path_that_cannot_be_a_directory_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StartRefused, match=r"Cannot write to the data directory .*; choose another with --data\."),
        DataDirectory(tmp_path / "file" / "data").locked(),
    ):
        pass


def test_a_secret_is_the_same_at_every_start_and_differs_from_the_next(data: DataDirectory) -> None:
    again = DataDirectory(data.path)
    assert data.secret("postgres") == again.secret("postgres")
    assert data.secret("postgres") != data.secret("redis")
    assert len(data.secret("postgres")) >= 32


def test_what_is_private_is_readable_by_its_owner_alone_whatever_the_umask(data: DataDirectory) -> None:
    before = os.umask(0)
    try:
        data.secret("postgres")
        data.write_private("dev.json", {"api_key": "tlk_"})
    finally:
        os.umask(before)
    assert mode(data.path / "secrets.json") == 0o600
    assert mode(data.path / "dev.json") == 0o600


def test_a_file_that_others_could_read_is_replaced_not_written_into(data: DataDirectory) -> None:
    (data.path / "dev.json").write_text("{}")
    (data.path / "dev.json").chmod(0o644)
    data.write_private("dev.json", {"api_key": "tlk_"})
    assert mode(data.path / "dev.json") == 0o600


@pytest.mark.parametrize("text", ["", "not json", "[1]"])
def test_a_damaged_file_counts_as_empty(data: DataDirectory, text: str) -> None:
    (data.path / "ports.json").write_text(text)
    assert data.read_private("ports.json") == {}


def test_others_may_pass_through_the_directory_only_where_the_stores_need_it(data: DataDirectory) -> None:
    assert mode(data.path) == (0o711 if os.geteuid() == 0 else 0o700)
    assert mode(data.logs) == 0o700
