"""Addresses of clients: what they are, and which of them count as one client."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

MAX_ADDRESS_LENGTH = 64
"""Longest address with its scope; what a proxy forwards may be anything."""


def plain_address(address: str) -> IPv4Address | IPv6Address:
    """Parse an address without its scope; an IPv4 address that is mapped to IPv6 becomes IPv4 again.

    Raises ValueError.
    """
    parsed = ip_address(address.partition("%")[0])
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed


def block_of(address: str) -> str:
    """Return the addresses that one client may have: an IPv4 address, or the /64 of an IPv6 address (RFC 4291 2.5.4).

    What is no address stands for itself, cut to `MAX_ADDRESS_LENGTH` characters.
    """
    return _block_of(address[:MAX_ADDRESS_LENGTH])


@lru_cache(maxsize=1024)
def _block_of(address: str) -> str:
    try:
        plain = plain_address(address)
    except ValueError:
        return address
    return str(plain if isinstance(plain, IPv4Address) else IPv6Network((int(plain) >> 64 << 64, 64)))


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
