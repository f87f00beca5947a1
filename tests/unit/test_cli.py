from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from trunkline import client
from trunkline.cli import command, environment, keys, output, processes, tenants
from trunkline.cli.calls import parse_arguments
from trunkline.client import CallOutcome
from trunkline.errors import StartRefused, TrunklineError, UsageError
from trunkline.settings import Settings

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def _empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in environment.NEEDED:
        # Set and taken away again, so that what a test's command sets is taken back too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def trunkline(*arguments: str) -> int:
    return command.run(arguments)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Standard error, which must be one sentence on one line."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "Traceback" not in lines[0]
    return lines[0]


# How commands end.


def test_the_command_alone_shows_what_there_is(capsys):
    assert trunkline() == 0
    assert "tenant" in capsys.readouterr().out


def test_the_version_is_printed(capsys):
    assert trunkline("--version") == 0
    assert capsys.readouterr().out.startswith("trunkline 0.")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["bogus"], "No such command 'bogus'; see 'trunkline --help'."),
        (["tenant"], "Missing command; see 'trunkline tenant --help'."),
        (["call"], "Missing argument"),
        (["api", "--port", "many"], "--port"),
        (["api", "--port", "70000"], "--port"),
        (["worker", "--concurrency", "0"], "--concurrency"),
        (["call", "http://127.0.0.1:1/sse", "add", "{"], "The arguments are not JSON"),
        (["call", "http://127.0.0.1:1/sse", "add", "[1]"], "must be a JSON object"),
        (["call", "http://127.0.0.1:1", "add"], "is not a tenant's URL"),
        (["call", "ftp://127.0.0.1/sse", "add"], "is not a tenant's URL"),
        (["call", "http://[::1/sse", "add"], "is not a tenant's URL"),
        (["call", "http://127.0.0.1:1/sse", "add", "--key", "tlk_a b"], "The API key contains characters"),
        (["key", "issue", "acme", "--expires", "soon"], "is not a duration"),
        (["tenant", "set", "acme", "access"], "is not of the form KEY=VALUE"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(arguments, sentence, capsys):
    assert trunkline(*arguments) == 2
    assert sentence in said(capsys)


@pytest.mark.parametrize(
    "arguments",
    [["tenant", "list"], ["toolset", "list"], ["toolset", "enable", "acme", "demo"], ["key", "issue", "acme"]],
)
def test_a_command_without_a_deployment_says_what_to_set(arguments, capsys):
    assert trunkline(*arguments) == 1
    assert said(capsys).startswith("Set TRUNKLINE_SECRET_KEY and TRUNKLINE_DATABASE_URL and TRUNKLINE_REDIS_URL")


@pytest.mark.parametrize("process", ["api", "worker", "migrate"])
def test_a_process_without_a_secret_does_not_start(process, capsys):
    assert trunkline(process) == 1
    assert "TRUNKLINE_SECRET_KEY" in said(capsys)


def test_ctrl_c_ends_with_130_and_no_word(monkeypatch, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "call", interrupted)
    assert trunkline("call", "http://127.0.0.1:1/sse", "add") == 130
    assert capsys.readouterr().err == ""


def test_a_reader_that_has_enough_ends_the_command_quietly():
    script = "import sys; from trunkline.cli.command import run; sys.exit(run(['settings']))"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"Traceback" not in errors
    assert b"BrokenPipe" not in errors


def test_help_needs_none_of_the_heavy_imports():
    script = (
        "import sys; from trunkline.cli.command import run; run(['--help']); run(['tenant', '--help']);"
        "heavy = {'mcp', 'sqlalchemy', 'pydantic_settings', 'rich', 'structlog', 'orjson'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


# trunkline call


def answer_with(monkeypatch: pytest.MonkeyPatch, outcome: CallOutcome | Exception) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    async def call(*arguments: Any) -> CallOutcome:
        calls.append(arguments)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(client, "call", call)
    return calls


def test_a_call_prints_what_the_tool_answers(monkeypatch, capsys):
    calls = answer_with(monkeypatch, CallOutcome("8", ok=True))
    assert trunkline("call", "http://x/sse", "add", '{"a": 3}', "--key", " tlk_k\n") == 0
    assert capsys.readouterr().out == "8\n"
    assert calls == [("http://x/sse", "add", {"a": 3}, "tlk_k")]


def test_a_call_takes_its_key_from_the_environment(monkeypatch):
    calls = answer_with(monkeypatch, CallOutcome("", ok=True))
    monkeypatch.setenv("TRUNKLINE_API_KEY", "tlk_env")
    assert trunkline("call", "http://x/sse", "add") == 0
    assert calls == [("http://x/sse", "add", {}, "tlk_env")]


def test_a_call_without_a_key_has_none(monkeypatch):
    calls = answer_with(monkeypatch, CallOutcome("", ok=True))
    monkeypatch.setenv("TRUNKLINE_API_KEY", "")
    assert trunkline("call", "http://x/sse", "add") == 0
    assert calls[0][3] is None


def test_a_tool_that_fails_is_a_failure(monkeypatch, capsys):
    answer_with(monkeypatch, CallOutcome("no such book", ok=False))
    assert trunkline("call", "http://x/sse", "lend") == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "no such book\n")


def test_a_call_that_does_not_happen_is_one_sentence(monkeypatch, capsys):
    answer_with(monkeypatch, TrunklineError("Nothing answers\nthere."))
    assert trunkline("call", "http://x/sse", "lend") == 1
    assert said(capsys) == r"Nothing answers\nthere."


@pytest.mark.parametrize("text", ["", "{", "null", "3", '"x"', "[]"])
def test_only_a_json_object_can_be_arguments(text):
    with pytest.raises(UsageError):
        parse_arguments(text)


# Which deployment.


def write_dev_file(**env: str) -> None:
    environment.DEV_FILE.parent.mkdir(exist_ok=True)
    environment.DEV_FILE.write_text(json.dumps({"url": "http://x", "env": env}))


DEV = {
    "TRUNKLINE_ENVIRONMENT": "dev",
    "TRUNKLINE_SECRET_KEY": SECRET,
    "TRUNKLINE_DATABASE_URL": "postgresql://dev/x",
    "TRUNKLINE_REDIS_URL": "redis://dev",
    "TRUNKLINE_PUBLIC_URL": "http://127.0.0.1:8123",
}


@pytest.fixture
def _environment_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DEV:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("_environment_is_restored")
class TestDeployment:
    def test_settings_are_taken_from_the_file_that_dev_writes(self):
        write_dev_file(**DEV, PATH="/evil")
        found = environment.deployment_settings()
        assert (found.database_url, found.redis_url) == ("postgresql://dev/x", "redis://dev")
        assert (found.public_url, found.environment) == ("http://127.0.0.1:8123", "dev")

    def test_the_environment_wins_over_the_file(self, monkeypatch):
        write_dev_file(**DEV)
        monkeypatch.setenv("TRUNKLINE_PUBLIC_URL", "https://mcp.example.com")
        monkeypatch.setenv("TRUNKLINE_DATABASE_URL", DEV["TRUNKLINE_DATABASE_URL"])
        found = environment.deployment_settings()
        assert found.public_url == "https://mcp.example.com"
        assert found.redis_url == "redis://dev"

    def test_half_of_another_deployment_is_not_completed_with_dev(self, monkeypatch):
        write_dev_file(**DEV)
        monkeypatch.setenv("TRUNKLINE_DATABASE_URL", "postgresql://production/x")
        with pytest.raises(StartRefused, match="Set TRUNKLINE_SECRET_KEY and TRUNKLINE_REDIS_URL,"):
            environment.deployment_settings()

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"env": 3}', '"env"', "\x00"])
    def test_a_file_that_dev_did_not_write_is_one_sentence(self, content):
        environment.DEV_FILE.parent.mkdir()
        environment.DEV_FILE.write_text(content)
        with pytest.raises(StartRefused, match=r"dev\.json is not what"):
            environment.deployment_settings()

    def test_a_file_that_cannot_be_read_is_one_sentence(self):
        environment.DEV_FILE.mkdir(parents=True)
        with pytest.raises(StartRefused, match="cannot be read"):
            environment.deployment_settings()


# trunkline settings


def test_every_setting_is_printed_with_its_default(capsys):
    assert trunkline("settings") == 0
    printed = capsys.readouterr().out
    for field in Settings.model_fields:
        assert f"TRUNKLINE_{field.upper()}=" in printed


def test_settings_print_no_secret(monkeypatch, capsys):
    monkeypatch.setenv("TRUNKLINE_SECRET_KEY", SECRET)
    monkeypatch.setenv("TRUNKLINE_DATABASE_URL", "postgresql://app:hunter2@db/x")
    assert trunkline("settings") == 0
    captured = capsys.readouterr()
    assert SECRET not in captured.out + captured.err
    assert "hunter2" not in captured.out + captured.err
    assert "postgresql://app:[redacted]@db/x" in captured.out
    assert captured.err == ""


def test_settings_say_what_would_stop_a_start(monkeypatch, capsys):
    monkeypatch.setenv("TRUNKLINE_SECRET_KEY", SECRET)
    monkeypatch.setenv("TRUNKLINE_LANES", "many")
    assert trunkline("settings", "--json") == 0
    captured = capsys.readouterr()
    rows = {row["name"]: row for row in json.loads(captured.out)}
    assert (rows["TRUNKLINE_LANES"]["value"], rows["TRUNKLINE_LANES"]["default"]) == ("many", "16")
    assert "TRUNKLINE_LANES" in captured.err


# What processes are started with.


def test_the_worker_hosts_what_it_is_given_besides_its_settings(monkeypatch):
    from trunkline.worker import run as process

    started: list[Settings] = []
    monkeypatch.setattr(process, "work", started.append)
    monkeypatch.setenv("TRUNKLINE_SECRET_KEY", SECRET)
    monkeypatch.setenv("TRUNKLINE_SERVERS", "a:one,b:two")
    assert trunkline("worker", "--concurrency", "7", "--server", "c:three", "--server", "a:one") == 0
    assert started[0].servers == ("a:one", "b:two", "c:three")
    assert started[0].concurrency == 7


def test_the_api_listens_on_loopback_unless_told_otherwise(monkeypatch):
    from trunkline.api import run as process

    started: list[tuple[str, int]] = []
    monkeypatch.setattr(process, "serve", lambda _settings, host, port: started.append((host, port)))
    monkeypatch.setenv("TRUNKLINE_SECRET_KEY", SECRET)
    assert trunkline("api") == 0
    assert trunkline("api", "--host", "0.0.0.0", "--port", "80") == 0
    assert started == [("127.0.0.1", 8000), ("0.0.0.0", 80)]


def test_dev_gets_what_was_asked(monkeypatch):
    from trunkline.dev import run as process

    started: list[tuple[Any, ...]] = []
    monkeypatch.setattr(process, "dev", lambda *arguments: started.append(arguments))
    assert trunkline("dev", "--port", "9000", "--data", "d", "--workers", "0", "--server", "m:o") == 0
    assert started == [("127.0.0.1", 9000, Path("d"), 0, ("m:o",))]


# What is printed.


def test_lists_are_aligned(capsys):
    rows = [{"slug": "a", "on": True, "rate": 2000.0}, {"slug": "longer", "on": False, "rate": 0.5}]
    output.print_rows(rows, ["slug", "on", "rate"], as_json=False)
    assert capsys.readouterr().out == "SLUG    ON   RATE\na       yes  2000\nlonger  no   0.5\n"


def test_json_has_all_that_a_row_holds(capsys):
    at = datetime(2026, 11, 22, 12, tzinfo=UTC)
    output.print_rows([{"a": at, "b": ("x",), "c": frozenset("x"), "d": None}], ["a"], as_json=True)
    assert json.loads(capsys.readouterr().out) == [
        {"a": "2026-11-22T12:00:00+00:00", "b": ["x"], "c": ["x"], "d": None}
    ]


def test_a_name_cannot_steer_the_terminal():
    assert output.shown("a\x1b[2Jb\nc") == r"a\x1b[2Jb\nc"


def test_values_without_content_are_a_dash():
    assert [output.shown(value) for value in (None, "", ())] == ["-", "-", "-"]


def test_changes_may_contain_an_equals_sign():
    assert tenants.parse_changes(["name=a=b", "rate = 5"]) == {"name": "a=b", "rate": "5"}


@pytest.mark.parametrize(
    ("expires", "revoked", "expected"),
    [
        (1, None, "active"),
        (-1, None, "expired"),
        (1, -1, "revoked"),
        (-1, -2, "revoked"),
        (2, 1, "ends 2026-11-23 12:00"),
    ],
)
def test_a_key_is_listed_with_its_state(expires, revoked, expected):
    from trunkline.tenants.key_record import KeyRecord

    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    record = KeyRecord(
        id="key_1",
        tenant_id="t",
        name="n",
        scopes=(),
        tools=(),
        created_at=now,
        expires_at=now + timedelta(days=expires),
        revoked_at=None if revoked is None else now + timedelta(days=revoked),
        last_used_at=None,
        replaced_by=None,
    )
    assert keys.state(record, now) == expected


def test_defaults_are_shown_as_they_are_written_in_the_environment():
    rows = {row["name"]: row["default"] for row in processes.setting_rows({})}
    assert (rows["TRUNKLINE_SERVERS"], rows["TRUNKLINE_BODY_TIMEOUT"], rows["TRUNKLINE_SECRET_KEY"]) == (
        "",
        "10.0",
        "",
    )
