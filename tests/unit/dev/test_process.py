from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from trunkline.dev import process
from trunkline.errors import StartRefused

ENV = {"PATH": "/usr/bin:/bin"}
IGNORES_TERM = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def test_a_program_writes_to_its_log_and_has_a_session_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    started = process.spawn(["/bin/sh", "-c", "echo out; echo err >&2"], log=log, env=ENV)
    assert started.wait(10) == 0
    assert log.read_text().split() == ["out", "err"]
    sleeper = process.spawn(["/bin/sleep", "60"], log=log, env=ENV)
    try:
        assert os.getsid(sleeper.pid) == sleeper.pid
    finally:
        process.end(sleeper)


def test_a_program_is_not_started_from_a_thread_that_may_end_before_it(tmp_path: Path) -> None:
    errors: list[Exception] = []

    def attempt() -> None:
        try:
            process.spawn(["/bin/true"], log=tmp_path / "log", env=ENV)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join(10)
    assert "main thread" in str(errors[0])


def test_a_program_that_ignores_the_request_is_killed_in_the_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    started = process.spawn([sys.executable, "-c", IGNORES_TERM], log=log, env=ENV)
    assert process.eventually(lambda: "up" in log.read_text(), 10)
    process.end(started, (signal.SIGTERM, 0.1))
    assert started.returncode == -signal.SIGKILL


def test_a_program_that_has_ended_is_left_alone(tmp_path: Path) -> None:
    started = process.spawn(["/bin/true"], log=tmp_path / "log", env=ENV)
    started.wait(10)
    process.end(started, (signal.SIGTERM, 1.0))
    assert started.returncode == 0


def test_a_process_that_was_left_behind_is_ended_by_its_pid_file(tmp_path: Path) -> None:
    pid_file = tmp_path / "server.pid"
    with subprocess.Popen(["/bin/sleep", "61.5"], start_new_session=True) as left:
        pid_file.write_text(f"{left.pid}\n")
        assert process.eventually(lambda: "61.5" in process.command_of(left.pid), 10)
        process.end_leftover(pid_file, "61.5", signal.SIGTERM)
        assert left.wait(10) == -signal.SIGTERM
    assert not pid_file.exists()


def test_another_process_with_the_number_of_the_one_left_behind_lives_on(tmp_path: Path) -> None:
    pid_file = tmp_path / "server.pid"
    with subprocess.Popen(["/bin/sleep", "62.5"]) as stranger:
        try:
            pid_file.write_text(f"{stranger.pid}\n")
            process.end_leftover(pid_file, str(tmp_path), signal.SIGTERM)
            assert stranger.poll() is None
        finally:
            stranger.kill()
    assert not pid_file.exists()


@pytest.mark.parametrize("text", ["", "no number\n"])
def test_a_damaged_pid_file_stops_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "pid").write_text(text)
    process.end_leftover(tmp_path / "pid", "x", signal.SIGTERM)


def test_a_port_with_a_listener_is_not_free() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not process.port_is_free("127.0.0.1", port)
        assert process.free_port(port) != port


def test_the_preferred_port_is_taken_while_it_is_free() -> None:
    port = process.free_port()
    assert process.free_port(port) == port


@pytest.mark.parametrize("host", ["192.0.2.1", "host.invalid"])
def test_an_address_that_is_not_ours_is_refused_in_one_sentence(host: str) -> None:
    with pytest.raises(StartRefused, match=r"no address .*; choose another with --host\."):
        process.port_is_free(host, 8000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it said nothing"),
        ("one\ntwo\n", "two"),
        ("x FATAL:  no space left\nshut down\n", "x FATAL:  no space left"),
    ],
)
def test_the_last_words_of_a_log_are_the_telling_ones(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "log").write_text(text)
    assert process.last_words(tmp_path / "log") == words


def test_a_log_that_was_never_written_has_no_words(tmp_path: Path) -> None:
    assert process.last_words(tmp_path / "log") == "it said nothing"
