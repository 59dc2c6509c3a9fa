"""The conformance statement says what associations do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.uid import ImplicitVRLittleEndian, UID_dictionary
from pynetdicom import build_context

from node.dicom.keys import SUPPORTED, TIMEZONE, UNIQUE_KEYS, Level, key_of
from node.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.dicom.uids import PATIENT_ROOT_FIND, STUDY_ROOT_FIND
from node.extensions.conformance.statement import statement_for_programs
from node.settings.model import Settings
from tests import make
from tests.protocol.conftest import CT_IMAGE_STORAGE, Running, associate, identifier

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
    reported = {row["SOP Class UID"] for row in tables["storage_classes"]}
    reported |= {
        row["SOP Class UID"] for row in tables["dimse_services"] if "SCP" in row["Role"] and row["SOP Class UID"]
    }
    proposals = ((uid, ImplicitVRLittleEndian) for uid in of_kind("SOP Class", "Meta SOP Class", "Service Class"))
    assert {uid for uid, _ in accepted(start_node(), proposals)} == reported


def test_exactly_the_transfer_syntaxes_of_the_statement_are_accepted(
    start_node: Callable[..., Running], tables: dict[str, list[dict[str, str]]]
) -> None:
    reported = {row["Transfer Syntax UID"] for row in (*tables["read_syntaxes"], *tables["other_syntaxes"])}
    proposals = ((CT_IMAGE_STORAGE, uid) for uid in of_kind("Transfer Syntax"))
    assert {uid for _, uid in accepted(start_node(), proposals)} == reported


@pytest.mark.slow
def test_services_are_spoken_in_the_transfer_syntaxes_of_the_statement(
    start_node: Callable[..., Running], tables: dict[str, list[dict[str, str]]]
) -> None:
    names = {uid: UID_dictionary[uid][0] for uid in of_kind("Transfer Syntax")}
    verification, others, *_ = tables["accepted_contexts"]
    assert (verification["Transfer Syntaxes"], others["Role"]) == ("any", "SCP")
    services = {
        row["SOP Class UID"]: set(others["Transfer Syntaxes"].split(", "))
        for row in tables["dimse_services"][2:]
        if "SCP" in row["Role"]
    }
    assert len(services) > 5
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
    reported = {row["Parameter"]: row["Value"] for row in tables["association"]}
    assert acceptor.implementation_class_uid == IMPLEMENTATION_CLASS_UID == reported["Implementation Class UID"]
    assert (
        acceptor.implementation_version_name == IMPLEMENTATION_VERSION_NAME == reported["Implementation Version Name"]
    )
    assert acceptor.maximum_length == int(reported["Maximum Length Received, bytes"])
    assoc.release()


STATED = [(level, key) for level in Level for name in SUPPORTED[level] if (key := key_of(name, level)) is not None]

OTHER_VALUES = {
    "AS": "149Y", "CS": "NONE", "DA": "18000101", "IS": "4711", "LO": "none", "PN": "Nosuch^Value", "SH": "none",
    "TM": "031415", "UI": "2.25.1", "US": 65001,
}  # fmt: skip
"""By VR: a value that the stored image does not have."""


def image_with_every_key() -> Dataset:
    by_vr = {
        "AS": "040Y", "CS": "VERIFY", "DA": "20200102", "IS": "3", "LO": "Verify", "PN": "Verify^Key", "SH": "Verify",
        "TM": "101112", "US": 8,
    }  # fmt: skip
    ds = make.instance(TimezoneOffsetFromUTC="+0100", FrameOfReferenceUID="1.2.3")
    for key in (key for _, key in STATED if key.column and key.vr in by_vr and key.keyword not in ds):
        setattr(ds, key.keyword, by_vr[key.vr])
    for keyword in [keyword for _, key in STATED if (keyword := key.keyword) in ds and ds[keyword].is_empty]:
        setattr(ds, keyword, by_vr[ds[keyword].VR])
    ds.RequestAttributesSequence = [make.dataset(ScheduledProcedureStepID="Verify", RequestedProcedureID="Verify")]
    return ds


def test_every_key_of_the_statement_is_returned_and_matched(start_node: Callable[..., Running]) -> None:
    ds = image_with_every_key()
    models = PATIENT_ROOT_FIND, STUDY_ROOT_FIND
    assoc = associate(start_node(), *map(build_context, (CT_IMAGE_STORAGE, *models)))
    assert assoc.send_c_store(ds).Status == 0

    def found(level: Level, keyword: str, value: Any) -> list[Dataset]:
        query = identifier(level.name)
        for above in [one for one in Level if one <= level and (one or level is Level.PATIENT)]:
            setattr(query, UNIQUE_KEYS[above], ds[UNIQUE_KEYS[above]].value)
        query.add(DataElement(keyword, dictionary_VR(keyword), value, validation_mode=IGNORE))
        return [one for _, one in assoc.send_c_find(query, models[level is not Level.PATIENT]) if one is not None]

    for level, key in STATED:
        [answer] = found(level, key.keyword, [Dataset()] if key.items else None)
        value = answer[key.keyword].value
        assert value, key.keyword
        for inner in key.items:
            step = make.dataset(**{inner.keyword: "Verify"})
            assert len(found(level, key.keyword, [step])) == 1, inner.keyword
            setattr(step, inner.keyword, OTHER_VALUES[inner.vr])
            assert found(level, key.keyword, [step]) == [], inner.keyword
        if key.matched and not key.items and key.keyword != TIMEZONE:
            assert len(found(level, key.keyword, value)) == 1, key.keyword
            assert found(level, key.keyword, OTHER_VALUES[key.vr]) == [], key.keyword
    assoc.release()
