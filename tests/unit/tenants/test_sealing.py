from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from trunkline.errors import StartRefused
from trunkline.tenants.sealing import Sealer

ROOT = SecretStr("a root of which nobody knows anything")
SEALER = Sealer(ROOT, "signing key")
SECRET = b"canary-of-a-secret"
SEALED = SEALER.seal(SECRET, "platform", "k1")


@given(st.binary(max_size=200))
def test_what_was_sealed_opens(secret: bytes) -> None:
    assert SEALER.open(SEALER.seal(secret, "platform", "k1"), "platform", "k1") == secret


def test_a_sealed_secret_shows_nothing_and_never_looks_the_same() -> None:
    assert SECRET not in SEALED
    assert SEALER.seal(SECRET, "platform", "k1") != SEALED


@pytest.mark.parametrize(("owner", "record"), [("platform", "k2"), ("tenant", "k1"), ("platformk", "1")])
def test_it_opens_for_no_other_owner_or_record(owner: str, record: str) -> None:
    with pytest.raises(StartRefused, match="TRUNKLINE_SECRET_KEY is not the one"):
        SEALER.open(SEALED, owner, record)


@pytest.mark.parametrize(("root", "purpose"), [("another root", "signing key"), (ROOT.get_secret_value(), "toolset")])
def test_it_opens_under_no_other_root_and_for_no_other_purpose(root: str, purpose: str) -> None:
    with pytest.raises(StartRefused, match="cannot be decrypted"):
        Sealer(SecretStr(root), purpose).open(SEALED, "platform", "k1")


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed(place: int, difference: int) -> None:
    changed = bytearray(SEALED)
    changed[place] ^= difference
    with pytest.raises(StartRefused):
        SEALER.open(bytes(changed), "platform", "k1")


@pytest.mark.parametrize("length", [0, 1, 5, 13, 20])
def test_a_cut_secret_is_noticed(length: int) -> None:
    with pytest.raises(StartRefused):
        SEALER.open(SEALED[:length], "platform", "k1")


def test_without_a_root_nothing_is_sealed() -> None:
    with pytest.raises(StartRefused, match="TRUNKLINE_SECRET_KEY is not set"):
        Sealer(SecretStr(""), "signing key")
