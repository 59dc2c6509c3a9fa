"""Where hooks may send that the pages have written: administrators may have no account of the machine.

Services on loopback, and those that hand out the credentials of a machine in a cloud, trust whoever can connect.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from node.addresses import plain_address
from node.notify.channel import NotDelivered
from node.settings.model import Settings

METADATA = frozenset({"100.100.100.200", "168.63.129.16", "fd00:ec2::254"})
"""Services of clouds that hand out credentials of the machine, beside those at link-local addresses."""


class Reach:
    """The addresses that a hook may send to: not this machine, nor its link, nor the metadata of a cloud.

    `allowed`: networks of these that the configuration permits all the same.
    """

    def __init__(self, allowed: Collection[IPv4Network | IPv6Network]) -> None:
        self._allowed = allowed

    def refusal(self, host: str) -> str | None:
        """Return why nothing is sent to a host that is an address; None: it is none, or something is."""
        try:
            address = plain_address(host)
        except ValueError:
            return None
        is_here = address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast
        is_here = is_here or str(address) in METADATA
        if not is_here or any(address.version == one.version and address in one for one in self._allowed):
            return None
        return (
            f"{host} is this machine or its link, where hooks of the pages do not send: set the hook in another file "
            f'of the configuration, or [web] hook_networks = ["{address}"]'
        )

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
                if (reason := self.refusal(str(stream.get_extra_info("server_addr")[0]))) is not None:
                    await stream.aclose()
                    raise NotDelivered(reason)

        return watch


def reach_of(settings: Settings, name: str) -> Reach | None:
    """Return where a hook may send; None: everywhere, since the pages have not written it."""
    return Reach(settings.web.hook_networks) if settings.loaded_from.is_of_pages(f"hooks.{name}") else None
