from __future__ import annotations

import pytest

from trunkline.streams.control import (
    CallCancelled,
    Event,
    KeyRevoked,
    SigningKeysChanged,
    TenantChanged,
    decode,
    encode,
)


@pytest.mark.parametrize(
    "event",
    [TenantChanged("acme", "0" * 32), KeyRevoked("key_1", 1234.5), SigningKeysChanged(), CallCancelled("c" * 32)],
    ids=lambda event: type(event).__name__,
)
def test_an_event_is_heard_as_it_was_said(event: Event) -> None:
    assert decode(encode(event)) == event


def test_an_event_of_a_newer_version_is_passed_over() -> None:
    assert decode(b'{"kind":"MoonChanged","phase":3}') is None
    assert decode(b"{}") is None
