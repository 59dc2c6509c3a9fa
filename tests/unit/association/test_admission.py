"""Who is let in, without a socket."""

import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_network
from itertools import combinations, product
from typing import Any

import pytest
from pydantic import ValidationError

from node.association import admission as module
from node.association.admission import EVERY_VERB, Admission, Rights, add_peer
from node.association.request import ProposedContext, ReceivedRequest
from node.association.tls import PeerCertificate
from node.cli.run.config import table_of
from node.index.rows.records import Refused
from node.index.rows.scope import Scope
from node.runtime.metrics import Metrics
from node.settings.peers import RESTRICTIONS, Dicom, Peer, contradictions


class Thread:
    """Notes what it was told."""

    is_served = is_under_way = False

    def __init__(self) -> None:
        self.told: list[str] = []

    def drain(self, finish_seconds: float) -> None:
        self.told.append("drain")

    def hang_up(self) -> None:
        self.told.append("hang up")


def asking(calling: str = "CT1", called: str = "VOXELNODE") -> ReceivedRequest:
    return ReceivedRequest(calling, called, (ProposedContext(1, "1.2.3", ()),), "1.2.840.10008.3.1.1.1")


def admission(peers: dict[str, Peer] | None = None, **dicom: Any) -> Admission:
    return Admission(Dicom(**dicom), lambda: peers or {}, Metrics())


@pytest.mark.parametrize(
    ("address", "fits"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.1.2.3", False),
        ("fd00::1", True),
        ("fd00::1%eth0", True),
        ("fe80::1", False),
    ],
)
def test_addresses_are_compared_as_people_write_them(address: str, fits: bool) -> None:
    peers = {"ct": Peer(ae_title="CT1", networks=(ip_network("10.1.0.0/16"), ip_network("fd00::/64")))}
    doorkeeper = admission(peers)
    assert (doorkeeper.judge(doorkeeper.connected(Thread(), address), asking()) is None) == fits


def test_an_ended_association_makes_room_before_its_connection_is_closed() -> None:
    doorkeeper = admission(maximum_associations=1)
    first = doorkeeper.connected(Thread(), "10.0.0.1")
    assert doorkeeper.judge(first, asking()) is None
    first.holder.is_served = True  # type: ignore[misc]
    second = doorkeeper.connected(Thread(), "10.0.0.2")
    assert doorkeeper.judge(second, asking()) is not None
    doorkeeper.budget.leave(first)
    assert doorkeeper.judge(second, asking()) is None


def test_the_oldest_pending_connection_of_the_busiest_address_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PENDING_CONNECTIONS", 3)
    doorkeeper = admission()
    threads = [Thread() for _ in range(5)]
    doorkeeper.connected(threads[0], "10.0.0.1")
    doorkeeper.connected(threads[1], "10.0.0.2")
    doorkeeper.connected(threads[2], "10.0.0.2")
    doorkeeper.connected(threads[3], "10.0.0.3")
    assert [thread.told for thread in threads] == [[], ["hang up"], [], [], []]
    doorkeeper.connected(threads[4], "10.0.0.2")
    assert [thread.told for thread in threads] == [["hang up"], ["hang up"], [], [], []]


def test_associations_never_give_way_to_pending_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PENDING_CONNECTIONS", 1)
    doorkeeper = admission()
    open_one, silent = Thread(), Thread()
    assert doorkeeper.judge(doorkeeper.connected(open_one, "10.0.0.1"), asking()) is None
    doorkeeper.connected(silent, "10.0.0.1")
    doorkeeper.connected(Thread(), "10.0.0.1")
    assert (open_one.told, silent.told) == ([], ["hang up"])


def test_waiting_for_the_last_connection_ends_with_it() -> None:
    doorkeeper = admission()
    connection = doorkeeper.connected(Thread(), "10.0.0.1")
    assert not doorkeeper.budget.wait_until_empty(0)
    doorkeeper.budget.remove(connection)
    doorkeeper.budget.remove(connection)
    assert doorkeeper.budget.wait_until_empty(0)


def test_a_connection_that_gives_way_and_a_rejected_association_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PENDING_CONNECTIONS", 1)
    reported: list[Refused] = []
    door = Admission(Dicom(), lambda: {"CT2": Peer(ae_title="CT2")}, Metrics(), on_refusal=reported.append)
    door.connected(Thread(), "10.0.0.1")
    assert door.judge(door.connected(Thread(), "10.0.0.2"), asking("CT1")) is not None
    assert [(one.what, one.rule, one.peer, one.calling_ae_title) for one in reported] == [
        ("connection", "pending connections", "10.0.0.1", ""),
        ("association", "calling AE title", "10.0.0.2", "CT1"),
    ]


def test_gateways_behind_one_address_have_numbers_of_their_own() -> None:
    networks = (ip_network("10.1.0.0/16"),)
    peers = {
        name: Peer(ae_title=name, networks=networks, associations=number)
        for name, number in (("GW1", 20), ("GW2", 18), ("CT1", None))
    }
    doorkeeper = admission(peers)

    def let_in(title: str) -> int:
        answers = [doorkeeper.judge(doorkeeper.connected(Thread(), "10.1.2.3"), asking(title)) for _ in range(25)]
        return answers.count(None)

    assert [*map(let_in, peers)] == [20, 18, 16]
    with pytest.raises(ValueError, match="associations needs networks or certificate"):
        Peer(ae_title="GW1", associations=20)


def test_remedies_name_the_certificates() -> None:
    peers = {"ct": Peer(ae_title="CT1", certificate="ct1.example")}
    doorkeeper = admission(peers, tls_certificate="node.pem", tls_client_ca="ca.pem")
    assert "trust the certificate node.pem, and show a certificate signed by ca.pem" in doorkeeper.tls_remedy
    rejection = doorkeeper.judge(doorkeeper.connected(Thread(), "10.1.2.3"), asking())
    assert rejection is not None
    assert rejection.remedy == "the sender must show the certificate of [peers.ct], ct1.example"


VALUES: dict[str, tuple[Any, ...]] = {
    "networks": (None, ["10.1.0.0/16"], ["10.1.2.0/24", "fd00::/8"]),
    "may": (["query", "echo"], ["retrieve", "query"], ["store", "echo"]),
    "takes": (None, ["CTImageStorage"], ["MRImageStorage", "CTImageStorage"]),
    "projects": (None, ["alpha"], ["beta", "alpha"]),
    "certificate": (None, "a", f"sha256:{'AB:' * 31}AB"),
    "associations": (None, 4, 40),
}
CERTIFICATES = (None, PeerCertificate("ab" * 32, ("a", "b")), PeerCertificate("cd" * 32, ("a",)))


def entries() -> Iterator[Peer]:
    """Each value of each restriction, with each network and certificate."""
    for key, values in VALUES.items():
        for value, networks, shown in product(values, VALUES["networks"], VALUES["certificate"]):
            keys = {"networks": networks, "certificate": shown, key: value}
            with suppress(ValidationError):  # a peer with projects stores nothing; associations need a proof
                yield Peer(ae_title="CT1", **{name: one for name, one in keys.items() if one is not None})
                if key == "projects" and value:
                    yield Peer(ae_title="CT1", may=("query",), **{name: one for name, one in keys.items() if one})


def test_no_second_entry_of_a_title_lifts_what_the_first_restricts() -> None:
    assert VALUES.keys() == set(RESTRICTIONS)
    refused = several = 0
    held: dict[str, Peer] = {}
    doorkeeper = Admission(Dicom(), lambda: held, Metrics())

    def rights_of(peers: dict[str, Peer], address: str, shown: PeerCertificate | None) -> Rights:
        held.clear()
        held.update(peers)
        return doorkeeper.rights(address, replace(asking(), certificate=shown))

    for one, other in combinations(dict.fromkeys(entries()), 2):
        if list(contradictions({"one": one, "other": other})):
            refused += 1
            continue
        for address, shown in product(("10.1.2.3", "10.3.0.1"), CERTIFICATES):
            alone = [rights_of({"it": peer}, address, shown) for peer in (one, other)]
            both = rights_of({"one": one, "other": other}, address, shown)
            named = [rights for rights in alone if rights.names]
            assert len(both.names) == len(named)
            several += len(named) == 2
            for rights in named:
                assert both.permitted <= rights.permitted
                assert rights.takes is None or (both.takes is not None and both.takes <= rights.takes)
                seen = set(rights.scope.projects) if rights.scope else None
                assert seen is None or (both.scope is not None and set(both.scope.projects) <= seen)
            assert len(named) != 1 or not one.may_be(other), "who is one of two that are alike is both"
    assert min(refused, several) > 100


def test_what_a_certificate_names_twice_is_what_both_entries_permit() -> None:
    peers = {
        "one": Peer(ae_title="CT1", certificate="a", may=("query", "retrieve"), projects=("alpha",)),
        "other": Peer(ae_title="CT1", certificate=f"sha256:{'ab' * 32}", may=("query", "store"), associations=3),
    }
    rights = admission(peers).rights("10.1.2.3", replace(asking(), certificate=CERTIFICATES[1]))
    assert (rights.permitted, rights.scope) == ({"query"}, Scope(projects=("alpha",)))


def test_the_remedy_for_who_showed_a_certificate_asks_for_it() -> None:
    elsewhere = {"ct": Peer(ae_title="CT1", networks=(ip_network("10.9.0.0/16"),))}
    for peers in ({"other": Peer(ae_title="OTHER")}, elsewhere):
        doorkeeper = admission(peers)
        request = replace(asking(), certificate=CERTIFICATES[1])
        rejection = doorkeeper.judge(doorkeeper.connected(Thread(), "10.1.2.3"), request)
        assert rejection is not None
        assert f"networks=10.1.2.3 certificate=sha256:{'ab' * 32} may=" in rejection.remedy


def test_without_peers_strangers_may_store_and_not_read() -> None:
    assert admission().rights("10.3.2.3", asking("STRANGER")).permitted == {"echo", "store"}
    assert admission().rights("::ffff:10.3.2.3", asking("STRANGER")).permitted == {"echo", "store"}
    for here in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert admission().rights(here, asking("STRANGER")).permitted == EVERY_VERB


@pytest.mark.parametrize(
    ("title", "name"),
    [("XRAY9", "XRAY9"), ("MY CT.2", "MY-CT-2"), ("CT1", "CT1-2"), ("12", "12")],
    ids=["plain", "with a space", "the name of another peer", "a number"],
)
def test_the_remedy_for_a_stranger_admits_it_as_a_sender_and_changes_no_other_peer(title: str, name: str) -> None:
    said = add_peer(title, "::ffff:10.1.2.3", {"CT1"})
    *command, called, title_key, networks, may = shlex.split(said.split("`")[1])
    assert (command, called) == (["voxelnode", "peers", "set"], name)
    keys = (title_key, networks, may)
    peer = Peer(**table_of("peers", keys))
    assert (peer.ae_title, peer.may) == (title, ("echo", "store", "commit"))
    assert peer.networks == (ip_network("10.1.2.3/32"),)


@pytest.mark.parametrize("title", ["X'; rm -rf ~;'", "`reboot`", "$(reboot)", "-x", "A\nreboot", "", "\u00e4", "!1"])
def test_nothing_that_a_stranger_calls_itself_gets_into_a_command(title: str) -> None:
    assert add_peer(title, "10.1.2.3", ()) == (
        "add the sender to [peers]: `voxelnode peers set NAME ae_title=AET networks=ADDRESS may=echo,store,commit`"
    )
