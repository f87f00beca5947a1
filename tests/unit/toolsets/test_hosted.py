from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer

from trunkline.errors import StartRefused
from trunkline.toolsets import hosted
from trunkline.toolsets.catalog import gather
from trunkline.toolsets.hosted import Toolset, discover, load, toolset


def test_an_mcpserver_is_named_after_its_object(library: Toolset) -> None:
    assert library.name == "Library"
    assert isinstance(library.server, Server)
    assert library.title == "Town library"


def test_a_function_that_returns_a_server_is_called(archive: Toolset) -> None:
    assert archive.name == "town-archive"


def test_the_example_servers_know_nothing_of_trunkline(servers: Path) -> None:
    for path in servers.glob("*.py"):
        imported = {
            getattr(node, "module", None) or alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not [name for name in imported if name.startswith("trunkline")]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("library", "'library' does not name an MCP server; write it as module:object."),
        ("library:", "'library:' does not name an MCP server; write it as module:object."),
        ("nowhere:mcp", "There is no module 'nowhere' here"),
        ("library.inner:mcp", "There is no module 'library.inner' here"),
        ("library:server", "The module 'library' has no 'server'; name the server object in it."),
        ("library:SHELF", "'library:SHELF' is a list, not an MCP server"),
        ("library:opening_hours", "Calling 'library:opening_hours' failed with TypeError"),
        ("archive:TEXT", "'archive:TEXT' is a dict, not an MCP server"),
    ],
)
def test_a_spec_that_names_no_server_gets_one_sentence(servers: Path, spec: str, sentence: str) -> None:
    with pytest.raises(StartRefused) as refusal:
        load(spec)
    assert refusal.value.message.startswith(sentence)
    assert "\n" not in refusal.value.message


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import surely_not_installed", "Importing 'broken' failed: it needs 'surely_not_installed'"),
        ("raise RuntimeError('first line\\nsecond')", "Importing 'broken' failed with RuntimeError: first line."),
        ("raise SystemExit(2)", "Importing 'broken' failed with SystemExit: 2."),
        ("def mcp(:", "Importing 'broken' failed with SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported_gets_one_sentence(
    servers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, sentence: str
) -> None:
    (tmp_path / "broken.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StartRefused) as refusal:
        load("broken:mcp")
    assert refusal.value.message.startswith(sentence)


def test_a_coroutine_function_is_not_a_server() -> None:
    async def make() -> MCPServer:
        return MCPServer("late")

    with pytest.raises(StartRefused, match="is a coroutine, not an MCP server"):
        toolset(make, "late:make")


def test_a_server_without_a_usable_name_is_refused() -> None:
    with pytest.raises(StartRefused, match="needs a name with letters or digits"):
        toolset(Server("!!!"), "odd:server")


def test_two_servers_of_one_name_are_refused(servers: Path) -> None:
    with pytest.raises(StartRefused, match=r"Two MCP servers are called 'town-archive'"):
        gather(["archive:make_server", "archive:make_server"])


def test_a_server_named_twice_is_hosted_once(servers: Path) -> None:
    assert [found.name for found in gather(["library:mcp", "library:mcp"])] == ["demo", "Library"]


def test_installed_packages_name_their_servers_by_entry_point(servers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(group: str) -> list[SimpleNamespace]:
        assert group == "trunkline.toolsets"
        return [
            SimpleNamespace(name="library", value="library:mcp"),
            SimpleNamespace(name="archive", value="archive:make_server"),
        ]

    monkeypatch.setattr(hosted, "entry_points", installed)
    assert [found.name for found in discover()] == ["town-archive", "Library"]
    assert [found.name for found in gather()] == ["demo", "town-archive", "Library"]
