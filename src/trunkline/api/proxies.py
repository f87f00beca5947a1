"""Whose word is believed about where a client is."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address, ip_network


class Proxies:
    """The proxies that are trusted: addresses and networks, or with `*` all there are."""

    def __init__(self, trusted: Iterable[str]) -> None:
        names = set(trusted)
        self._all = "*" in names
        self._networks = tuple(ip_network(name, strict=False) for name in sorted(names - {"*"}))
        self._trusts = lru_cache(1_024)(self._look)

    def client(self, forwarded: str, peer: str) -> str:
        """The client's address: of the peers on the way here, the last that is not a trusted proxy.

        Args:
            forwarded: X-Forwarded-For, as it came.
            peer: Who is connected; empty where nobody has an address.
        """
        hops = _hops(forwarded, peer)
        for hop in reversed(hops):
            if not self._trusts(hop):
                return hop
        return hops[0] if hops else ""

    def certain(self, forwarded: str, peer: str) -> str:
        """The same, where a lie would open something: where all proxies are trusted, only what the last one says."""
        if not self._all:
            return self.client(forwarded, peer)
        said = _hops(forwarded, "")
        return said[-1] if said else peer

    def _look(self, hop: str) -> bool:
        if self._all:
            return True
        try:
            address = ip_address(hop)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network or address in network for network in self._networks)


def _hops(forwarded: str, peer: str) -> list[str]:
    return [hop.strip() for hop in (*forwarded.split(","), peer) if hop.strip()]
