"""Where what administrators add connects to: not to this machine, by no way of writing its addresses."""

import socket
from ipaddress import ip_network

import pytest

from node.api import Address, OutOfReach, Reach
from node.association.client.association import NoAssociation, verify
from node.runtime import network as module

NOWHERE = Reach(())


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "::", "::1", "::ffff:127.0.0.1", "::127.0.0.1", "2002:7f00:1::",
        "169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "fe80::1%eth0",
        "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254", "224.0.0.1", "ff02::1",
    ],
)  # fmt: skip
def test_no_spelling_of_this_machine_or_of_metadata_is_reached(host: str) -> None:
    assert "hook_networks" in (NOWHERE.refusal(host) or "")


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7", "64:ff9b::c000:207", "pacs.example.org", ""])
def test_other_machines_are_reached(host: str) -> None:
    assert NOWHERE.refusal(host) is None


def test_addresses_of_the_own_interfaces_are_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_is_own", lambda address: str(address) == "10.1.2.3")
    assert NOWHERE.refusal("10.1.2.3")
    assert NOWHERE.refusal("::ffff:10.1.2.3")
    assert NOWHERE.refusal("10.1.2.4") is None
    assert Reach([ip_network("10.1.2.0/24")]).refusal("10.1.2.3") is None


def test_what_can_be_bound_is_an_own_address() -> None:
    assert module._is_own(module.plain_address("127.0.0.1"))
    assert not module._is_own(module.plain_address("192.0.2.7"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_peer_out_of_reach_is_not_connected(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        port = listening.getsockname()[1]
        with pytest.raises(NoAssociation, match="is this machine or its link"):
            verify(Address("ANY", host, port, reach=NOWHERE), "VOXELNODE", 5.0)
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_a_name_is_connected_by_the_address_that_was_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        allowed = Reach([ip_network("127.0.0.0/8"), ip_network("::1")])
        with allowed.connected("localhost", port, 5.0) as connected:
            assert connected.getpeername()[:2] == ("127.0.0.1", port)
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 1)) for host in ("192.0.2.7", "169.254.169.254")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    with pytest.raises(OutOfReach, match=r"169\.254"):
        NOWHERE.connected("rebound.example", 1, 5.0)
