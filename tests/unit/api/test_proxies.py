"""Where a client is, as the proxies on the way tell it."""

from __future__ import annotations

import pytest

from trunkline.api.proxies import Proxies
from trunkline.errors import StartRefused
from trunkline.settings import Settings, load_settings


@pytest.mark.parametrize(
    ("trusted", "forwarded", "peer", "client"),
    [
        ("", "", "192.0.2.1", "192.0.2.1"),
        ("", "203.0.113.9", "192.0.2.1", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.7, 203.0.113.9", "192.0.2.1", "203.0.113.9"),
        ("192.0.2.0/24", "198.51.100.7, 203.0.113.9, 192.0.2.77", "192.0.2.1", "203.0.113.9"),
        ("10.0.0.0/8,2001:db8::/32", "198.51.100.7, 2001:db8::5", "::ffff:10.1.2.3", "198.51.100.7"),
        ("10.0.0.0/8", "here, unknown", "10.0.0.1", "unknown"),
        ("10.0.0.0/8", "10.0.0.2", "10.0.0.1", "10.0.0.2"),
        ("*", "198.51.100.7, 203.0.113.9", "192.0.2.1", "198.51.100.7"),
        ("*", "", "", ""),
    ],
)
def test_a_client_is_the_last_that_is_no_trusted_proxy(trusted: str, forwarded: str, peer: str, client: str) -> None:
    assert Proxies(each for each in trusted.split(",") if each).client(forwarded, peer) == client


def test_where_all_proxies_are_trusted_a_key_goes_by_what_the_last_one_says() -> None:
    everybody = Proxies(["*"])
    assert everybody.certain("192.0.2.9, 203.0.113.9", "10.0.0.1") == "203.0.113.9", "the first is the client's word"
    assert everybody.certain("", "10.0.0.1") == "10.0.0.1"
    assert Proxies(["10.0.0.0/8"]).certain("192.0.2.9, 10.0.0.2", "10.0.0.1") == "192.0.2.9"


def test_what_is_no_address_and_no_network_is_no_trusted_proxy() -> None:
    assert load_settings(environment="dev", trusted_proxies="10.0.0.0/8,::1,*").trusted_proxies == (
        "10.0.0.0/8",
        "::1",
        "*",
    )
    with pytest.raises(StartRefused, match="TRUSTED_PROXIES"):
        load_settings(environment="dev", trusted_proxies="10.0.0.0/8,proxy.example.com")
    assert Settings.model_fields["trusted_proxies"].default == ("127.0.0.1", "::1")
