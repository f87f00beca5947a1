from __future__ import annotations

from pathlib import Path

import pytest

from trunkline.dev.console import Followed, step


def test_a_step_says_that_it_is_done_and_how_long_it_took(capsys: pytest.CaptureFixture[str]) -> None:
    with step("Postgres"):
        pass
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "  ok  Postgres (0.0 s)\n"


def test_a_step_that_fails_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), step("Postgres"):
        raise RuntimeError
    assert capsys.readouterr().err == "  no  Postgres (0.0 s)\n"


def test_a_followed_log_shows_whole_new_lines_with_their_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "api.log"
    log.write_text("from an earlier start\n")
    followed = Followed([log, tmp_path / "missing.log"])
    with log.open("a") as file:
        file.write("one\ntw")
    followed.show()
    with log.open("a") as file:
        file.write("o\n")
    followed.show()
    assert capsys.readouterr().err == "       api | one\n       api | two\n"
