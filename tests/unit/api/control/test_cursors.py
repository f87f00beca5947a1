from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from trunkline.api.control.cursors import Cursors
from trunkline.api.control.principal import Actor
from trunkline.audit.by import By
from trunkline.control_errors import CursorNotFound

CURSORS = Cursors(SecretStr("a" * 40))
ACTOR = Actor(By("user", "ada"), "tenant-1")
POSITION = {"at": "2026-11-26T02:00:00+00:00", "id": "1" * 32}


def test_a_cursor_comes_back_as_it_was_and_tells_nothing() -> None:
    cursor = CURSORS.seal(ACTOR, "members", POSITION)
    assert CURSORS.open(ACTOR, "members", cursor) == POSITION
    assert "1" * 8 not in cursor


@pytest.mark.parametrize(
    ("actor", "route"),
    [
        (Actor(By("user", "grace"), "tenant-1"), "members"),
        (Actor(By("key", "ada"), "tenant-1"), "members"),
        (Actor(By("user", "ada"), "tenant-2"), "members"),
        (ACTOR, "invitations"),
    ],
)
def test_a_cursor_of_another_does_not_exist(actor: Actor, route: str) -> None:
    with pytest.raises(CursorNotFound):
        CURSORS.open(actor, route, CURSORS.seal(ACTOR, "members", POSITION))
    with pytest.raises(CursorNotFound):
        Cursors(SecretStr("b" * 40)).open(ACTOR, "members", CURSORS.seal(ACTOR, "members", POSITION))


@given(st.text(max_size=1_100))
def test_whatever_else_is_sent_is_no_cursor(text: str) -> None:
    with pytest.raises(CursorNotFound):
        CURSORS.open(ACTOR, "members", text)
