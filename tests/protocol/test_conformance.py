"""The conformance statement says what associations do."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import pytest
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.uid import ImplicitVRLittleEndian, UID_dictionary
from pynetdicom import build_context, evt

from node.api import Address, Settings, VoxelnodeError
from node.association.client.association import verify
from node.association.client.commitment import request_commitment
from node.dicom.encoding import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.dicom.keys import SUPPORTED, TIMEZONE, UNIQUE_KEYS, Level, key_of
from node.dicom.uids import PATIENT_ROOT_FIND, STUDY_ROOT_FIND, STUDY_ROOT_GET, VERIFICATION
from node.extensions.conformance.statement import statement_for_programs
from node.extensions.peers.find import find
from tests import make
from tests.peers import listening
from tests.protocol.conftest import CT_IMAGE_STORAGE, Running, StartNode, associate, identifier

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
    start_node: StartNode, tables: dict[str, list[dict[str, str]]]
) -> None:
    reported = {row["SOP Class UID"] for row in tables["storage_classes"]}
    reported |= {
        row["SOP Class UID"] for row in tables["dimse_services"] if "SCP" in row["Role"] and row["SOP Class UID"]
    }
    proposals = ((uid, ImplicitVRLittleEndian) for uid in of_kind("SOP Class", "Meta SOP Class", "Service Class"))
    assert {uid for uid, _ in accepted(start_node(), proposals)} == reported


def test_exactly_the_transfer_syntaxes_of_the_statement_are_accepted(
    start_node: StartNode, tables: dict[str, list[dict[str, str]]]
) -> None:
    reported = {row["Transfer Syntax UID"] for row in (*tables["read_syntaxes"], *tables["other_syntaxes"])}
    proposals = ((CT_IMAGE_STORAGE, uid) for uid in of_kind("Transfer Syntax"))
    assert {uid for _, uid in accepted(start_node(), proposals)} == reported


@pytest.mark.slow
def test_services_are_spoken_in_the_transfer_syntaxes_of_the_statement(
    start_node: StartNode, tables: dict[str, list[dict[str, str]]]
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


def test_a_class_that_nobody_knows_is_accepted_as_the_statement_says(start_node: StartNode) -> None:
    private = "1.2.826.0.1.3680043.9.7433.1.1"
    assert accepted(start_node(), iter([(private, ImplicitVRLittleEndian)])) == {(private, ImplicitVRLittleEndian)}


def test_the_acceptance_names_the_implementation_of_the_statement(
    start_node: StartNode, tables: dict[str, list[dict[str, str]]]
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


@pytest.mark.slow
def test_every_key_of_the_statement_is_returned_and_matched(start_node: StartNode) -> None:
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


VALUES: dict[str, tuple[str, Any, Any]] = {
    "AE": ("PerformedStationAETitle", "STATION1", "STATION2"), "AS": ("PatientAge", "040Y", "041Y"),
    "AT": ("DimensionIndexPointer", 0x00280010, 0x00280011), "CS": ("SmokingStatus", "YES", "NO"),
    "DA": ("LastMenstrualDate", "20240110", "20240111"), "DS": ("PatientSize", "1.75", "1.76"),
    "DT": ("CalibrationDateTime", "20240110101112", "20240110101113"), "FD": ("XAAcquisitionDuration", 2.5, 2.25),
    "FL": ("B1rms", 1.5, 1.25), "IS": ("EvaluatorNumber", "7", "8"), "LO": ("InstitutionName", "General", "Other"),
    "LT": ("PatientComments", "Words", "Other"), "PN": ("EvaluatorName", "Doe^Jane", "Doe^John"),
    "SH": ("Occupation", "Nurse", "Other"), "SL": ("ReferencePixelX0", -3, 4),
    "SS": ("PrimaryPositionerIncrementSign", -1, 1), "ST": ("InstitutionAddress", "Street", "Other"),
    "SV": ("SelectorSVValue", -5, 5), "TM": ("SecondaryReviewTime", "101112", "101113"),
    "UC": ("StrainDescription", "Long", "Other"), "UI": ("DeviceUID", "1.2.3.4", "1.2.3.5"),
    "UL": ("TriggerSamplePosition", 70000, 70001), "UR": ("StorageURL", "http://a/b", "http://a/c"),
    "US": ("PregnancyStatus", 4, 3), "UT": ("LensMake", "Text", "Other"), "UV": ("SelectorUVValue", 9, 10),
}  # fmt: skip
"""By VR: an attribute, a value that an image has, and one that it has not."""


@pytest.mark.slow
def test_values_match_as_the_statement_says(start_node: StartNode, tables: dict[str, list[dict[str, str]]]) -> None:
    stated = {vr: row["Matching"] for row in tables["matching"] for vr in row["Value Representations"].split(", ")}
    assert stated.keys() == {*VALUES, "SQ"}
    ds = make.instance(**{keyword: value for keyword, value, _ in VALUES.values()})
    assoc = associate(start_node(), *map(build_context, (CT_IMAGE_STORAGE, STUDY_ROOT_FIND)))
    assert assoc.send_c_store(ds).Status == 0

    def found(keyword: str, value: Any) -> int | None:
        """How many answers there are; None if the value is refused."""
        vr = dictionary_VR(keyword)
        query = identifier("IMAGE", StudyInstanceUID=ds.StudyInstanceUID, SeriesInstanceUID=ds.SeriesInstanceUID)
        written = "LO" if isinstance(value, str) and vr not in ("PN", "UT", "UR") else vr  # a pattern is no value of it
        query.add(DataElement(keyword, written, value, validation_mode=IGNORE))
        statuses = [status.Status for status, _ in assoc.send_c_find(query, STUDY_ROOT_FIND)]
        return statuses.count(0xFF00) if statuses[-1] == 0 else {0xC000: None}[statuses[-1]]

    for vr, (keyword, value, other) in VALUES.items():
        matching = stated[vr]
        assert (found(keyword, value), found(keyword, other)) == (1, 0), vr
        if vr not in ("LT", "ST", "UR", "UT"):  # in these a backslash is text
            assert found(keyword, [other, value]) == 1, vr
        if not isinstance(value, str):
            continue
        assert found(keyword, "*") == 1, vr
        patterns = (f"{value[:-1]}?", f"{value[0]}*", f"?{value}")
        expected = (1, 1, 0) if matching.startswith("wild card") else (None, None, None)
        assert tuple(found(keyword, pattern) for pattern in patterns) == expected, vr
        if matching == "range":
            assert (found(keyword, f"{value}-"), found(keyword, f"-{value}"), found(keyword, f"{other}-")) == (1, 1, 0)
        if "number" in matching:
            assert (found(keyword, f"+0{value}"), found(keyword, f"{value}-{other}")) == (1, None), vr
        if matching.startswith("wild card") and value != value.lower():
            assert found(keyword, value.lower()) == ("case-insensitive" in matching), vr
    assoc.release()


def test_contexts_are_proposed_as_the_statement_says(tables: dict[str, list[dict[str, str]]]) -> None:
    proposed: dict[str, list[str]] = {}

    def note(event: Any) -> None:
        for context in event.assoc.requestor.requested_contexts:
            proposed[context.abstract_syntax] = [UID_dictionary[uid][0] for uid in context.transfer_syntax]

    query = identifier("STUDY", StudyInstanceUID="1.2.3")
    with listening("PEER", [(evt.EVT_REQUESTED, note)], "1.2.3") as port:  # a class that is not proposed
        peer = Address("PEER", "127.0.0.1", port)
        with suppress(VoxelnodeError):
            verify(peer, "VOXELNODE", 10)
        with suppress(VoxelnodeError):
            list(find(query, peer, "VOXELNODE", 10))
        with suppress(VoxelnodeError):
            request_commitment(peer, "VOXELNODE", "1.2.3", [(CT_IMAGE_STORAGE, "1.2.3")], 10)
    asked = {row["SOP Class UID"] for row in tables["dimse_services"] if "SCU" in row["Role"]} - {"", STUDY_ROOT_GET}
    assert proposed.keys() == asked
    verification, others, *_ = tables["proposed_contexts"]
    assert proposed.pop(VERIFICATION) == [verification["Transfer Syntaxes"]]
    assert others["Transfer Syntaxes"] == "Explicit and Implicit VR Little Endian"
    for syntaxes in proposed.values():
        assert syntaxes == ["Explicit VR Little Endian", "Implicit VR Little Endian"]
