"""From which addresses a key may be used: ranges in CIDR notation (RFC 4632, RFC 4291); and who an address is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from trunkline.errors import UsageError

Network = IPv4Network | IPv6Network

MOST_ADDRESSES = 32
"""Ranges of one key."""
_MAPPED = 96
"""Bits in front of an IPv4 address in IPv6's form of it (RFC 4291, 2.5.5.2)."""


def check_addresses(ranges: Iterable[str]) -> tuple[str, ...]:
    """The ranges in their one spelling, once each; a single address is a range of one.

    Raises:
        UsageError: too many, or one that is no range.
    """
    wanted = tuple(dict.fromkeys(str(_range(each)) for each in ranges))
    if len(wanted) > MOST_ADDRESSES:
        raise UsageError(f"A key has at most {MOST_ADDRESSES} address ranges.")
    return wanted


def networks_of(claim: object) -> tuple[Network, ...]:
    """The ranges that the claim `net` holds; none for a key without it.

    Raises:
        ValueError: it is no list of ranges.
    """
    if claim is None:
        return ()
    if not isinstance(claim, list) or not claim or not all(isinstance(each, str) for each in claim):
        raise ValueError("address ranges of a key are a list")
    return tuple(ip_network(each) for each in claim)


def contains(networks: Sequence[Network], address: str) -> bool:
    """Whether an address is in one of them; what is no address is in none."""
    found = _parse(address)
    return found is not None and any(found in network for network in networks)


def covers(outer: Sequence[Network], inner: Sequence[Network]) -> bool:
    """Whether each address in `inner` is in `outer`; no ranges are all addresses."""
    if not outer:
        return True
    return bool(inner) and all(any(_covers(wide, narrow) for wide in outer) for narrow in inner)


def site_of(address: str) -> str:
    """Who is counted for an address: of IPv6 the /64, which one subscriber has whole (RFC 6177); else the address.

    An IPv4 address in IPv6's form is itself; what is no address is as it is.
    """
    found = _parse(address)
    if isinstance(found, IPv6Address):
        return str(IPv6Network((int(found) >> 64 << 64, 64)))
    return address if found is None else str(found)


def _covers(wide: Network, narrow: Network) -> bool:
    if isinstance(wide, IPv4Network):
        return isinstance(narrow, IPv4Network) and narrow.subnet_of(wide)
    return isinstance(narrow, IPv6Network) and narrow.subnet_of(wide)


def _range(text: str) -> Network:
    try:
        network = ip_network(text.strip())
    except ValueError:
        raise UsageError(
            f"{text!r} is not an address range; write 192.0.2.0/24 or 2001:db8::/32, with no bits set behind the "
            "prefix, or one address."
        ) from None
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped and network.prefixlen >= _MAPPED:
        return IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - _MAPPED))
    return network


@lru_cache(20_000)
def _parse(address: str) -> IPv4Address | IPv6Address | None:
    """An address; an IPv4 one that came in IPv6's form is what it is."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found
