"""The conformance statement says what associations do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import pytest
from pydicom.uid import ImplicitVRLittleEndian, UID_dictionary
from pynetdicom import build_context

from node.association.client.association import Address
from node.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.extensions.conformance.statement import statement_for_programs
from node.extensions.conformance.target import Target
from node.extensions.conformance.verification import verified
from node.settings.model import ExtensionsSettings, Peer, Settings
from tests.programs import free_port
from tests.protocol.conftest import CT_IMAGE_STORAGE, Running, associate

CONTEXTS_OF_AN_ASSOCIATION = 128
"""Most presentation contexts of an association: IDs are odd and end at 255 (PS3.8 9.3.2.2)."""


@pytest.fixture(scope="module")
def tables() -> dict[str, list[dict[str, str]]]:
    """The tables of the statement by name."""
    found: dict[str, Any] = {}
    for section in statement_for_programs(Settings())["sections"]:
        found |= section["tables"]
    return found


def accepted(node: Running, proposals: Iterator[tuple[str, str]]) -> set[tuple[str, str]]:
    """Which pairs of abstract and transfer syntax a node accepts, each proposed in a context of its own."""
    found = set()
    while several := list(islice(proposals, CONTEXTS_OF_AN_ASSOCIATION)):
        assoc = associate(node, *(build_context(abstract, [transfer]) for abstract, transfer in several))
        if assoc.is_established:
            found |= {(str(one.abstract_syntax), str(one.transfer_syntax[0])) for one in assoc.accepted_contexts}
            assoc.release()
    return found


def of_kind(*kinds: str) -> list[str]:
    return [uid for uid, entry in UID_dictionary.items() if entry[1] in kinds]


@pytest.mark.slow
def test_exactly_the_abstract_syntaxes_of_the_statement_are_accepted(
    start_node: Callable[..., Running], tables: dict[str, list[dict[str, str]]]
) -> None:
    told = {row["SOP Class UID"] for row in tables["storage_classes"]}
    told |= {row["SOP Class UID"] for row in tables["dimse_services"] if row["SCP"] == "Yes" and row["SOP Class UID"]}
    proposals = ((uid, ImplicitVRLittleEndian) for uid in of_kind("SOP Class", "Meta SOP Class", "Service Class"))
    assert {uid for uid, _ in accepted(start_node(), proposals)} == told
    assert {row["UID"] for row in tables["accepted_contexts"] if row["UID"]} <= told


def test_exactly_the_transfer_syntaxes_of_the_statement_are_accepted(
    start_node: Callable[..., Running], tables: dict[str, list[dict[str, str]]]
) -> None:
    told = {row["Transfer Syntax UID"] for row in tables["transfer_syntaxes"]}
    proposals = ((CT_IMAGE_STORAGE, uid) for uid in of_kind("Transfer Syntax"))
    assert {uid for _, uid in accepted(start_node(), proposals)} == told


@pytest.mark.slow
def test_services_are_spoken_in_the_transfer_syntaxes_of_the_statement(
    start_node: Callable[..., Running], tables: dict[str, list[dict[str, str]]]
) -> None:
    names = {uid: UID_dictionary[uid][0] for uid in of_kind("Transfer Syntax")}
    services = {
        row["UID"]: set(row["Transfer Syntaxes"].split(", "))
        for row in tables["accepted_contexts"]
        if row["UID"] and row["Transfer Syntaxes"] != "any"
    }
    assert services
    proposals = ((service, uid) for service in services for uid in names)
    found: dict[str, set[str]] = {service: set() for service in services}
    for service, uid in accepted(start_node(maximum_associations_per_address=64), proposals):
        found[service].add(names[uid])
    assert found == services


def test_a_class_that_nobody_knows_is_accepted_as_the_statement_says(start_node: Callable[..., Running]) -> None:
    private = "1.2.826.0.1.3680043.9.7433.1.1"
    assert accepted(start_node(), iter([(private, ImplicitVRLittleEndian)])) == {(private, ImplicitVRLittleEndian)}


def test_the_acceptance_names_the_implementation_of_the_statement(
    start_node: Callable[..., Running], tables: dict[str, list[dict[str, str]]]
) -> None:
    assoc = associate(start_node())
    acceptor = assoc.acceptor
    told = {row["Parameter"]: row["Value"] for row in tables["association"]}
    assert acceptor.implementation_class_uid == IMPLEMENTATION_CLASS_UID == told["Implementation Class UID"]
    assert acceptor.implementation_version_name == IMPLEMENTATION_VERSION_NAME == told["Implementation Version Name"]
    assert acceptor.maximum_length == int(told["Maximum Length Received, bytes"])
    assoc.release()


@pytest.mark.slow
def test_a_check_that_fails_ends_no_other() -> None:
    class Odd(Target):
        def negotiate(self, pairs: Iterable[tuple[str, str]]) -> Mapping[tuple[str, str], int]:
            raise EOFError("the PDU ends")

    results = list(verified(Settings(), Odd(Address("VOXELNODE", "127.0.0.1", free_port()), "CHECK", "")))
    broken = {result.finding.detail for result in results if result.finding.outcome == "broken"}
    assert broken == {"the answer cannot be understood: EOFError: the PDU ends"}
    assert results[-1].finding.outcome == "not checked"


def test_a_node_and_a_peer_that_are_away_leave_claims_unchecked() -> None:
    peers = {"GONE": Peer(ae_title="GONE", host="127.0.0.1", port=free_port(), may=())}
    settings = Settings(peers=peers, extensions=ExtensionsSettings(disabled=("results",)))
    away = Target(Address("VOXELNODE", "127.0.0.1", free_port()), "CHECK", f"http://127.0.0.1:{free_port()}")
    results = list(verified(settings, away))
    assert Counter(result.finding.outcome for result in results).keys() == {"not checked"}
    assert all(result.finding.detail for result in results)
    assert results[-1].claim.table == "peers"
