from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import UsageError
from trunkline.tenants.addresses import check_addresses, contains, covers, networks_of, site_of


def test_ranges_have_one_spelling_and_come_once() -> None:
    assert check_addresses(["192.0.2.1", "192.0.2.1/32", "2001:DB8::/32", "::ffff:192.0.2.0/120"]) == (
        "192.0.2.1/32", "2001:db8::/32", "192.0.2.0/24",
    )  # fmt: skip
    assert check_addresses([]) == ()


@pytest.mark.parametrize("text", ["", "anywhere", "192.0.2.1/24", "192.0.2.0/33", "192.0.2", "example.com", "1/8/8"])
def test_what_is_no_range_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="is not an address range"):
        check_addresses([text])


def test_a_key_has_no_more_ranges_than_fit_into_it() -> None:
    with pytest.raises(UsageError, match="at most 32"):
        check_addresses(f"192.0.2.{number}" for number in range(33))


@given(st.ip_addresses(v=4))
def test_an_address_in_the_form_of_the_other_version_is_the_same(address: object) -> None:
    networks = networks_of(["10.0.0.0/8", "192.0.2.0/24"])
    assert contains(networks, f"::ffff:{address}") == contains(networks, str(address))


@given(st.ip_addresses())
def test_an_address_is_in_the_range_of_itself_and_of_all(address: object) -> None:
    assert contains(networks_of(list(check_addresses([str(address)]))), str(address))
    assert contains(networks_of(["0.0.0.0/0", "::/0"]), str(address))


@pytest.mark.parametrize("address", ["", "unknown", "192.0.2.1:80", "192.0.2.1, 10.0.0.1", "192.000.002.001"])
def test_what_is_no_address_is_nowhere(address: str) -> None:
    assert not contains(networks_of(["0.0.0.0/0", "::/0"]), address)


def test_the_zone_of_a_local_address_does_not_matter() -> None:
    assert contains(networks_of(["fe80::/10"]), "fe80::1%eth0")


@pytest.mark.parametrize(
    ("outer", "inner", "covered"),
    [
        ([], [], True),
        ([], ["10.0.0.0/8"], True),
        (["10.0.0.0/8"], [], False),
        (["10.0.0.0/8"], ["10.1.0.0/16", "10.0.0.1/32"], True),
        (["10.0.0.0/8"], ["10.1.0.0/16", "11.0.0.1/32"], False),
        (["10.0.0.0/8"], ["2001:db8::/32"], False),
        (["2001:db8::/32"], ["2001:db8:1::/48"], True),
    ],
)
def test_ranges_cover_others(outer: list[str], inner: list[str], covered: bool) -> None:
    assert covers([ip_network(each) for each in outer], [ip_network(each) for each in inner]) is covered


@pytest.mark.parametrize(
    ("address", "site"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unknown", "unknown"),
    ],
)
def test_an_address_counts_as_what_one_subscriber_has(address: str, site: str) -> None:
    assert site_of(address) == site
