"""The conformance suite, through a balancer that deals requests in turn over three API pods with three workers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conformance import suite
from tests.conformance.__main__ import DOCUMENT
from tests.node.programs import needs_node
from tests.replicas import Replicas, replicas
from tests.stores import TestStores

pytestmark = needs_node


@pytest.fixture(scope="module")
def everything(stores: TestStores) -> Iterator[Replicas]:
    """The server under test, hosted for a public tenant: the suite cannot give a key."""
    with replicas(stores, "tests.conformance.everything:server", "everything", "public") as made:
        yield made


@pytest.mark.parametrize("revision", suite.SELECTIONS)
async def test_every_check_of_the_suite_holds_whichever_pods_and_workers_it_meets(
    everything: Replicas, revision: str, tmp_path: Path
) -> None:
    before = dict(everything.balancer.dealt)
    run = await suite.run(revision, everything.url("mcp"), tmp_path)
    assert run.failed == []
    assert run.passed > len(run.scenarios)
    dealt = [everything.balancer.dealt[port] - before.get(port, 0) for port in everything.balancer.ports]
    assert max(dealt) - min(dealt) <= 1, "the pods took turns"


async def test_the_document_has_the_scenarios_that_are_run_and_all_of_their_checks_held() -> None:
    text = DOCUMENT.read_text()
    assert f"`{suite.PACKAGE}` {suite.VERSION}" in text
    head, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.split("## By scenario")[1].splitlines()
        if line.startswith("|") and "---" not in line
    ]
    assert head == ["scenario", *suite.SELECTIONS]
    for number, revision in enumerate(suite.SELECTIONS, start=1):
        cells = {row[0].strip("`"): row[number] for row in rows if row[number] != "-"}
        assert sorted(cells) == sorted(await suite.scenarios(revision))
        assert all(re.fullmatch(r"[1-9]\d*", cell) for cell in cells.values()), cells
