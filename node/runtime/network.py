"""Addresses: which of them count as one client, and where what administrators add may connect to.

Administrators, who add hooks and peers, may have no account of the machine. Services on loopback, and those that hand
out the credentials of a machine in a cloud, trust whoever can connect. What is written in other files of the
configuration, by whoever has an account of the machine, may connect everywhere.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from node.errors import VoxelnodeError

MAX_ADDRESS_LENGTH = 64
"""Longest address with its scope; what a proxy forwards may be anything."""

METADATA = frozenset({"100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"})
"""Services of clouds that hand out credentials of the machine, beside those at link-local addresses."""

TRANSLATED = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"), IPv6Network("::/96"))
"""Networks whose addresses end with that of an IPv4 host (RFC 6052 2.1, RFC 8215, RFC 4291 2.5.5.1)."""

_Address = IPv4Address | IPv6Address


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


class OutOfReach(VoxelnodeError):
    """Nothing is sent to an address; the message says why, and who may permit it."""


class Reach:
    """The addresses to connect to: not this machine, nor its link, nor the metadata of a cloud.

    `allowed`: networks of these that the configuration permits all the same.
    """

    def __init__(self, allowed: Collection[IPv4Network | IPv6Network]) -> None:
        self._allowed = allowed

    def refusal(self, host: str) -> str | None:
        """Return why nothing connects to a host that is an address; None: it is none, or something does."""
        try:
            address = plain_address(host)
        except ValueError:
            return None
        if not any(map(_is_here, _meant(address))):
            return None
        if any(address.version == one.version and address in one for one in self._allowed):
            return None
        return (
            f"{host} is this machine or its link, where what administrators add does not connect: write it in "
            f'voxelnode.toml, or there [web] hook_networks = ["{address}"]'
        )

    def require(self, host: str) -> None:
        """Raise OutOfReach if a host is an address to which nothing connects."""
        if (reason := self.refusal(host)) is not None:
            raise OutOfReach(reason)

    def connected(self, host: str, port: int, timeout: float) -> socket.socket:
        """Return a connection to a host, by the first of its addresses that answers.

        Raises OutOfReach if nothing connects to one of them, and OSError as `socket.create_connection` does.
        """
        found = [str(place[0]) for *_, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        for address in found:
            self.require(address)
        refused: OSError = OSError(errno.EHOSTUNREACH, "no address")
        for address in found:  # not the name: it may have another address the next time
            try:
                return socket.create_connection((address, port), timeout)
            except OSError as error:
                refused = error
        raise refused

    def watch(self, host: str) -> Callable[[str, Mapping[str, Any]], Awaitable[None]]:
        """Return what ends a request to a host before anything is sent, judged by the address that it is connected to.

        A name may have another address each time that it is asked for. What a proxy connects to is up to the proxy.
        """
        names: list[str] = []

        async def watch(event: str, info: Mapping[str, Any]) -> None:
            if event == "connection.connect_tcp.started":
                names.append(info["host"])
            if event == "connection.connect_tcp.complete" and names[-1] == host:
                stream = info["return_value"]
                try:
                    self.require(str(stream.get_extra_info("server_addr")[0]))
                except OutOfReach:
                    await stream.aclose()
                    raise

        return watch


def _meant(address: _Address) -> Iterator[_Address]:
    """Yield an address, and the IPv4 address that a translator or a tunnel makes of it."""
    yield address
    if isinstance(address, IPv6Address):
        if any(address in network for network in TRANSLATED):
            yield IPv4Address(int(address) & 0xFFFFFFFF)
        if address.sixtofour is not None:
            yield address.sixtofour


def _is_here(address: _Address) -> bool:
    if address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast:
        return True
    return str(address) in METADATA or _is_own(address)


def _is_own(address: _Address) -> bool:
    """Return whether an interface of this machine has an address: only then can a socket be bound to it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
