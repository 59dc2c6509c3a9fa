"""C-FIND over real associations: what is answered, how it ends, and that a C-CANCEL ends it."""

import json
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
from pydicom import DataElement, Dataset, config
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import build_context
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

from node.audit.audit_log import Audit
from node.dicom.uids import PATIENT_ROOT_FIND, STUDY_ROOT_FIND
from tests import make
from tests.pace import idle_seconds, now
from tests.protocol.conftest import (
    CT_IMAGE_STORAGE,
    Raw,
    Running,
    StartNode,
    associate,
    associate_rq,
    command,
    decoded,
    echo_seconds,
    identifier,
    p_data,
    padded,
    pdv,
)
from tests.rows import is_read, write_rows

PENDING, PENDING_WITHOUT_KEYS = 0xFF00, 0xFF01


def agreed_on(fields: bytes, sop_class_uid: str = STUDY_ROOT_FIND) -> SOPClassExtendedNegotiation:
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid, item.service_class_application_information = sop_class_uid, fields
    return item


def ask(
    node: Running,
    ds: Dataset,
    model: str = STUDY_ROOT_FIND,
    transfer_syntax: str = ExplicitVRLittleEndian,
    **options: Any,
) -> tuple[list[tuple[int, Dataset]], Dataset]:
    """The answers with their statuses, and the final response."""
    assoc = associate(node, build_context(model, transfer_syntax), **options)
    assert assoc.is_established
    responses = list(assoc.send_c_find(ds, model))
    assoc.release()
    assert all(status.Status in (PENDING, PENDING_WITHOUT_KEYS) for status, _ in responses[:-1])
    return [(status.Status, found) for status, found in responses[:-1]], responses[-1][0]


def found(node: Running, ds: Dataset, **options: Any) -> list[Dataset]:
    """The answers of a query that succeeds."""
    answers, final = ask(node, ds, **options)
    assert final.Status == 0x0000
    return [answer for _, answer in answers]


def store(node: Running, *instances: Dataset) -> None:
    assoc = associate(node, build_context(CT_IMAGE_STORAGE, ExplicitVRLittleEndian))
    assert [assoc.send_c_store(ds).Status for ds in instances] == [0] * len(instances)
    assoc.release()


@pytest.fixture
def archive(start_node: StartNode) -> tuple[Running, dict[str, str]]:
    """A node with two patients: three studies, the first of two series; and the UIDs by name."""
    node = start_node()
    uids = {name: generate_uid() for name in ("early", "late", "other", "ct", "sr", "mr")}
    early = {"study_uid": uids["early"], "PatientID": "A1", "PatientName": "Müller^Jörg", "StudyDate": "20240101"}
    instances = [
        make.instance(**early, series_uid=uids["ct"], InstanceNumber=1, SpecificCharacterSet="ISO_IR 100"),
        make.instance(**early, series_uid=uids["ct"], InstanceNumber=2, SpecificCharacterSet="ISO_IR 100"),
        make.instance(
            **early, series_uid=uids["sr"], modality="SR", SeriesNumber=2, SpecificCharacterSet="ISO_IR 100"
        ),
        make.instance(
            study_uid=uids["late"], PatientID="A1", PatientName="Müller^Jörg", StudyDate="20240601",
            SpecificCharacterSet="ISO_IR 100",
        ),
        make.instance(
            study_uid=uids["other"], PatientID="B%_[", PatientName="Doe^Jane", StudyDate="20240301",
            series_uid=uids["mr"], modality="MR",
        ),
    ]  # fmt: skip
    store(node, *instances)
    return node, uids


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_study_is_answered_with_what_was_asked_for(archive: tuple[Running, dict[str, str]], syntax: str) -> None:
    node, uids = archive
    ds = identifier(
        "STUDY", PatientID="A1", StudyDate="-20240301", PatientName=None, ModalitiesInStudy=None, StudyInstanceUID=None,
        NumberOfStudyRelatedSeries=None, NumberOfStudyRelatedInstances=None, InstanceAvailability=None,
        SOPClassesInStudy=None, NumberOfPatientRelatedStudies=None,
    )  # fmt: skip
    [answer] = found(node, ds, transfer_syntax=syntax)
    assert answer.StudyInstanceUID == uids["early"]
    assert answer.PatientName == "Müller^Jörg"
    assert answer.SpecificCharacterSet == "ISO_IR 192"
    assert list(answer.ModalitiesInStudy) == ["CT", "SR"]
    assert answer.SOPClassesInStudy == CT_IMAGE_STORAGE
    assert (answer.NumberOfStudyRelatedSeries, answer.NumberOfStudyRelatedInstances) == (2, 3)
    assert answer.NumberOfPatientRelatedStudies == 2
    assert answer.InstanceAvailability == "ONLINE"
    assert (answer.QueryRetrieveLevel, answer.RetrieveAETitle) == ("STUDY", "VOXELNODE")


def test_each_of_two_people_with_one_patient_id_is_found_by_the_name_of_the_files(start_node: StartNode) -> None:
    node = start_node()
    people = {"Anonymous": ("20060101", "M"), "Dog^AVeryGood": ("20140422", "F")}
    for name, (birth_date, sex) in people.items():
        store(node, make.instance(PatientID="S1", PatientName=name, PatientBirthDate=birth_date, PatientSex=sex))
    for model, level in ((STUDY_ROOT_FIND, "STUDY"), (PATIENT_ROOT_FIND, "PATIENT")):
        for name, (birth_date, sex) in people.items():
            wanted = identifier(
                level, PatientID=None, PatientName=name, PatientBirthDate=None, PatientSex=None,
                NumberOfPatientRelatedStudies=None,
            )  # fmt: skip
            [answer] = found(node, wanted, model=model)
            assert (answer.PatientID, answer.PatientName) == ("S1", name)
            assert (answer.PatientBirthDate, answer.PatientSex) == (birth_date, sex)
            assert answer.NumberOfPatientRelatedStudies == 1


@pytest.mark.parametrize("terms", [["", "ISO 2022 IR 58"], ["GB18030"], ["ISO_IR 192"]])
def test_a_chinese_name_is_found_in_every_character_set(start_node: StartNode, terms: list[str]) -> None:
    node = start_node()
    ds = make.instance(SpecificCharacterSet=["", "ISO 2022 IR 58"], PatientID="C1")
    ds.PatientName = "Zhang^XiaoDong=张^小东"
    store(node, ds)
    query = identifier("STUDY", PatientID=None)
    query.SpecificCharacterSet = terms
    query.PatientName = "*=张*"
    [answer] = found(node, query)
    assert answer.PatientID == "C1"
    assert answer.PatientName == "Zhang^XiaoDong=张^小东"
    assert answer.SpecificCharacterSet == query.SpecificCharacterSet


@pytest.mark.slow
def test_every_level_of_both_models_is_answered(archive: tuple[Running, dict[str, str]]) -> None:
    node, uids = archive
    study, series = {"StudyInstanceUID": uids["early"]}, {"SeriesInstanceUID": uids["ct"]}
    assert len(found(node, identifier("STUDY"))) == 3
    assert len(found(node, identifier("SERIES", **study))) == 2
    numbers = [one.InstanceNumber for one in found(node, identifier("IMAGE", **study, **series, InstanceNumber=None))]
    assert numbers == [1, 2]
    options = {"model": PATIENT_ROOT_FIND}
    assert [one.PatientID for one in found(node, identifier("PATIENT", PatientName="mu*"), **options)] == ["A1"]
    assert len(found(node, identifier("STUDY", PatientID="A1"), **options)) == 2
    assert len(found(node, identifier("SERIES", PatientID="A1", **study), **options)) == 2
    assert len(found(node, identifier("IMAGE", PatientID="A1", **study, **series), **options)) == 2


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("model", "keys", "status", "offending"),
    [
        (STUDY_ROOT_FIND, {"level": "SERIES"}, 0xA900, 0x0020000D),
        (STUDY_ROOT_FIND, {"level": "SERIES", "StudyInstanceUID": ["1.2", "1.3"]}, 0xA900, 0x0020000D),
        (STUDY_ROOT_FIND, {"level": "IMAGE", "StudyInstanceUID": "1.2"}, 0xA900, 0x0020000E),
        (STUDY_ROOT_FIND, {"level": "PATIENT"}, 0xA900, 0x00080052),
        (STUDY_ROOT_FIND, {"level": "WORLD"}, 0xA900, 0x00080052),
        (PATIENT_ROOT_FIND, {"level": "STUDY"}, 0xA900, 0x00100020),
        (PATIENT_ROOT_FIND, {"level": "STUDY", "PatientID": "A*"}, 0xA900, 0x00100020),
        (STUDY_ROOT_FIND, {"level": "STUDY", "StudyInstanceUID": "1.2.abc"}, 0xC000, 0x0020000D),
        (STUDY_ROOT_FIND, {"level": "STUDY", "StudyDate": "20240501-20240101"}, 0xC000, 0x00080020),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_query_that_breaks_the_rules_is_refused_with_the_offending_element(
    archive: tuple[Running, dict[str, str]], model: str, keys: dict[str, Any], status: int, offending: int
) -> None:
    answers, final = ask(archive[0], identifier(**keys), model)
    assert answers == []
    assert (final.Status, final.OffendingElement) == (status, offending)
    assert final.ErrorComment


def test_keys_that_are_not_supported_are_reported_by_the_status(archive: tuple[Running, dict[str, str]]) -> None:
    node, _ = archive
    ds = identifier("STUDY", PatientID="A1", RequestAttributesSequence=[Dataset()], EncapsulatedDocument=b"NO")
    answers, final = ask(node, ds)
    assert final.Status == 0
    assert [status for status, _ in answers] == [PENDING_WITHOUT_KEYS] * 2
    assert found(node, identifier("STUDY", PatientID="A1", InstitutionName="NOWHERE")) == []
    assert all(
        "EncapsulatedDocument" not in answer and "RequestAttributesSequence" not in answer for _, answer in answers
    )


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_any_attribute_is_matched_and_answered(start_node: StartNode, syntax: str) -> None:
    node = start_node()
    ds = make.instance(study_uid="1.2.3", InstitutionName="Klinik Süd", KVP="120.0", BitsAllocated=16)
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ProcedureCodeSequence = [make.dataset(CodeValue="P1", CodeMeaning="Head")]
    ds.private_block(0x0029, "EXAMPLE", create=True).add_new(0x10, "SH", "private")
    store(node, ds)
    query = identifier("STUDY", KVP="120", BitsAllocated=None, ProcedureCodeSequence=[make.dataset(CodeValue="P*")])
    query.SpecificCharacterSet, query.InstitutionName = "ISO_IR 192", "Klinik Sü*"
    query.private_block(0x0029, "EXAMPLE", create=True).add_new(0x20, "SH", "")
    query.private_block(0x0029, "EXAMPLE").add_new(0x10, "SH", "private")
    [answer] = found(node, query, transfer_syntax=syntax)
    assert (answer.InstitutionName, str(answer.KVP), answer.BitsAllocated) == ("Klinik Süd", "120.0", 16)
    assert [item.CodeValue for item in answer.ProcedureCodeSequence] == ["P1"]
    assert answer.private_block(0x0029, "EXAMPLE")[0x10].value in ("private", b"private ")
    query.ProcedureCodeSequence[0].CodeValue = "Q*"
    assert found(node, query, transfer_syntax=syntax) == []


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_series_is_found_by_the_request_that_it_fulfils(start_node: StartNode, syntax: str) -> None:
    node = start_node()
    ds = make.instance(study_uid="1.2.3", series_uid="1.2.3.1", TimezoneOffsetFromUTC="+0200")
    ds.RequestAttributesSequence = [make.dataset(ScheduledProcedureStepID="S1", RequestedProcedureID="R1")]
    store(node, ds)
    query = identifier("SERIES", StudyInstanceUID="1.2.3", TimezoneOffsetFromUTC="-0800")
    query.RequestAttributesSequence = [make.dataset(ScheduledProcedureStepID="S*")]
    [answer] = found(node, query, transfer_syntax=syntax)
    [item] = answer.RequestAttributesSequence
    assert (item.ScheduledProcedureStepID, "RequestedProcedureID" in item) == ("S1", False)
    assert answer.TimezoneOffsetFromUTC == "+0200"
    query.RequestAttributesSequence[0].ScheduledProcedureStepID = "T*"
    assert found(node, query, transfer_syntax=syntax) == []


@pytest.mark.parametrize("asked", [{}, {"ImageType": None}])
def test_the_transfer_syntax_of_images_is_answered_beside_any_other_key(
    archive: tuple[Running, dict[str, str]], asked: dict[str, None]
) -> None:
    node, uids = archive
    ds = identifier(
        "IMAGE", StudyInstanceUID=uids["early"], SeriesInstanceUID=uids["ct"], SOPInstanceUID=None,
        AvailableTransferSyntaxUID=None, **asked,
    )  # fmt: skip
    assert [answer.AvailableTransferSyntaxUID for answer in found(node, ds)] == [ExplicitVRLittleEndian] * 2


def test_relational_queries_are_answered_once_agreed_on(archive: tuple[Running, dict[str, str]]) -> None:
    node, uids = archive
    series = identifier("SERIES", Modality="MR")
    _, refused = ask(node, series)
    assert refused.Status == 0xA900
    [answer] = found(node, series, ext_neg=[agreed_on(b"\1\0\0")])
    assert answer.SeriesInstanceUID == uids["mr"]
    [study] = found(node, identifier("STUDY", SeriesInstanceUID=uids["mr"]), ext_neg=[agreed_on(b"\1")])
    assert study.StudyInstanceUID == uids["other"]
    [study] = found(node, identifier("STUDY", PatientName="jane doe"), ext_neg=[agreed_on(b"\0\0\1")])
    assert study.StudyInstanceUID == uids["other"]


def test_only_what_is_asked_for_and_done_is_agreed_on(archive: tuple[Running, dict[str, str]]) -> None:
    node, _ = archive
    assoc = associate(node, build_context(STUDY_ROOT_FIND), ext_neg=[agreed_on(b"\1\0\1\1\1")])
    assert assoc.acceptor.sop_class_extended == {STUDY_ROOT_FIND: b"\1\0\1\0\0"}
    assoc.release()


def test_hostile_keys_are_looked_for_literally(archive: tuple[Running, dict[str, str]]) -> None:
    node, uids = archive
    for hostile in ("'; DROP TABLE studies; --", "%", "_", "B%__", "\\'", "[A-Z]*", "{0}", "*a" * 32):
        ds = identifier("STUDY", PatientID=None)
        ds.add_new(0x00100020, "LO", hostile)
        assert found(node, ds) == [], hostile
    for pattern in ("B%_[", "B%*", "*_[", "?%_["):
        assert [one.StudyInstanceUID for one in found(node, identifier("STUDY", PatientID=pattern))] == [uids["other"]]
    assert len(found(node, identifier("STUDY"))) == 3


def test_a_list_of_some_thousand_uids_is_answered(archive: tuple[Running, dict[str, str]]) -> None:
    node, uids = archive
    several = [f"{'1.2.3456789' * 5}.{number}" for number in range(5000)] + [uids["late"], uids["other"]]
    answers = found(node, identifier("STUDY", StudyInstanceUID=several), transfer_syntax=ImplicitVRLittleEndian)
    assert {one.StudyInstanceUID for one in answers} == {uids["late"], uids["other"]}


def test_a_longer_identifier_is_refused_with_the_limit(node: Running) -> None:
    several = [f"{'1.2.3456789' * 5}.{number}" for number in range(20_000)]
    answers, final = ask(node, identifier("STUDY", StudyInstanceUID=several), transfer_syntax=ImplicitVRLittleEndian)
    assert (answers, final.Status) == ([], 0xC000)
    assert final.ErrorComment == "the identifier has more than 1048576 bytes: ask for less at once"


def test_a_query_with_too_many_answers_gets_none(start_node: StartNode) -> None:
    node = start_node(maximum_query_results=100)
    fill(node, 101)
    answers, final = ask(node, identifier("STUDY"))
    assert answers == []
    assert final.Status == 0xA700
    assert final.ErrorComment == "more than 100 answers: narrow the query"
    assert len(found(node, identifier("STUDY", StudyID="*1"))) == 11


def fill(node: Running, studies: int) -> None:
    """Put studies into the index, without anything in them."""
    write_rows(node.root, "INSERT INTO patients (id, identity, patient_id) VALUES (1, '\\P', 'P')")
    write_rows(
        node.root,
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :studies) "
        "INSERT INTO studies (id, patient_id, study_instance_uid, study_id) SELECT i, 1, '1.2.' || i, '' || i FROM n",
        studies=studies,
    )


@pytest.mark.slow
def test_a_cancel_ends_a_query(node: Running) -> None:
    fill(node, 20_000)
    assoc = associate(node, build_context(STUDY_ROOT_FIND, ExplicitVRLittleEndian))
    statuses = []
    for number, (status, _) in enumerate(
        assoc.send_c_find(identifier("STUDY", StudyID=None), STUDY_ROOT_FIND, msg_id=7)
    ):
        statuses.append(status.Status)
        if number == 10:
            assoc.send_c_cancel(7, query_model=STUDY_ROOT_FIND)
    assert statuses[-1] == 0xFE00
    assert 10 < len(statuses) < 20_000
    assert len(list(assoc.send_c_find(identifier("STUDY", StudyID="17"), STUDY_ROOT_FIND))) == 2  # the next one goes on
    assoc.release()


@pytest.mark.slow
def test_a_peer_that_goes_away_ends_its_query(node: Running) -> None:
    fill(node, 20_000)
    assoc = associate(node, build_context(STUDY_ROOT_FIND, ExplicitVRLittleEndian))
    for status, _ in assoc.send_c_find(identifier("STUDY", StudyID=None), STUDY_ROOT_FIND):
        assert status.Status == PENDING
        break
    assoc.abort()
    assert node.settled()


EMPTY_ITEMS = 1_000_000
ITEMS = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * EMPTY_ITEMS
ITEMS_END = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


@pytest.mark.parametrize(
    "items",
    [
        struct.pack("<HH2s2xL", 0x0040, 0x0275, b"SQ", len(ITEMS)) + ITEMS,
        struct.pack("<HH2s2xL", 0x0040, 0x0275, b"SQ", 0xFFFFFFFF) + ITEMS + ITEMS_END,
        struct.pack("<HH2s2xL", 0x0041, 0x1001, b"UN", 0xFFFFFFFF) + ITEMS + ITEMS_END,
        struct.pack("<HH2sH", 0x0041, 0x1001, b"LO", 0) * EMPTY_ITEMS,
    ],
    ids=["sequence", "sequence without length", "unknown value without length", "elements"],
)
def test_an_identifier_of_a_million_elements_is_refused_at_once(node: Running, items: bytes) -> None:
    body = STUDY_LEVEL + items
    pieces = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
    with Raw(node) as peer:
        peer.associate(associate_rq(build_context(STUDY_ROOT_FIND, ExplicitVRLittleEndian)))
        began = now()
        peer.send(p_data(pdv(1, 3, c_find_rq(1))))
        peer.send(b"".join(p_data(pdv(1, 0, piece)) for piece in pieces[:-1]) + p_data(pdv(1, 2, pieces[-1])))
        assert statuses(peer) == [(1, 0xC000)]
        assert idle_seconds(began, 5) < 5
    assert echo_seconds(node) < 2


def c_find_rq(message_id: int, sop_class_uid: str = STUDY_ROOT_FIND) -> bytes:
    return command(
        {
            0x0002: padded(sop_class_uid),
            0x0100: b"\x20\x00",
            0x0110: struct.pack("<H", message_id),
            0x0700: b"\x00\x00",
            0x0800: b"\x01\x00",
        }
    )


STUDY_LEVEL = struct.pack("<HH2sH", 0x0008, 0x0052, b"CS", 6) + b"STUDY "


def statuses(peer: Raw) -> list[tuple[int, int]]:
    """(Message ID Being Responded To, Status) of each response, until one is final."""
    found = []
    while True:
        answer = peer.receive()
        assert answer[0] == 0x04
        if not answer[1][5] & 1:  # a fragment of a data set
            continue
        elements = decoded(answer[1])
        found.append((struct.unpack("<H", elements[0x0120])[0], struct.unpack("<H", elements[0x0900])[0]))
        if found[-1][1] not in (PENDING, PENDING_WITHOUT_KEYS):
            return found


@pytest.mark.parametrize("garbage", [b"", b"\x08", b"\x08\x00\x52\x00CS\xff\xffSTUDY", b"\xff" * 200, STUDY_LEVEL[:-2]])
def test_an_identifier_that_is_none_is_refused(node: Running, garbage: bytes) -> None:
    with Raw(node) as peer:
        peer.associate(associate_rq(build_context(STUDY_ROOT_FIND, ExplicitVRLittleEndian)))
        peer.send(p_data(pdv(1, 3, c_find_rq(1))) + p_data(pdv(1, 2, garbage)))
        assert statuses(peer)[0] in [(1, 0xC000), (1, 0xA900)]
        peer.send(p_data(pdv(1, 3, c_find_rq(2))) + p_data(pdv(1, 2, STUDY_LEVEL)))
        assert statuses(peer) == [(2, 0x0000)]


@pytest.mark.own_acceptor("pynetdicom aborts")
def test_a_query_on_the_context_of_another_service_is_refused(node: Running) -> None:
    with Raw(node) as peer:
        peer.associate(associate_rq(build_context(CT_IMAGE_STORAGE, ExplicitVRLittleEndian)))
        peer.send(p_data(pdv(1, 3, c_find_rq(1))) + p_data(pdv(1, 2, STUDY_LEVEL)))
        assert statuses(peer) == [(1, 0x0122)]


def test_two_queries_at_once_are_answered_one_after_the_other(node: Running) -> None:
    fill(node, 300)
    with Raw(node) as peer:
        peer.associate(associate_rq(build_context(STUDY_ROOT_FIND, ExplicitVRLittleEndian)))
        one, other = (p_data(pdv(1, 3, c_find_rq(number))) + p_data(pdv(1, 2, STUDY_LEVEL)) for number in (1, 2))
        peer.send(one + other)
        for number in (1, 2):
            assert statuses(peer) == [(number, PENDING)] * 300 + [(number, 0x0000)]


@pytest.mark.slow
def test_a_query_ends_when_the_node_stops(start_node: StartNode) -> None:
    node = start_node()
    fill(node, 50_000)
    assoc = associate(node, build_context(STUDY_ROOT_FIND, ExplicitVRLittleEndian))
    answers = assoc.send_c_find(identifier("STUDY", StudyID=None), STUDY_ROOT_FIND)
    assert next(answers)[0].Status == PENDING
    stopping = threading.Thread(target=node.listener.drain, args=(10,))
    stopping.start()
    *_, (last, _) = answers
    stopping.join(20)
    assert not stopping.is_alive()
    assert last.get("Status", 0xA700) == 0xA700  # or the association ended before it was read


@pytest.mark.slow
def test_a_peer_that_does_not_read_its_answers_holds_nothing_in_the_index(start_node: StartNode) -> None:
    node = start_node(pdu_seconds=60)
    fill(node, 50_000)
    with Raw(node) as silent:
        silent.associate(associate_rq(build_context(STUDY_ROOT_FIND, ExplicitVRLittleEndian)))
        silent.send(p_data(pdv(1, 3, c_find_rq(1))) + p_data(pdv(1, 2, STUDY_LEVEL)))
        assert silent.receive() is not None
        for _ in range(3):
            assert len(found(node, identifier("STUDY", StudyID="17"))) == 1
        assert not is_read(node.root)


def test_queries_are_audited(start_node: StartNode, tmp_path: Path) -> None:
    audit = Audit(tmp_path, "VOXELNODE")
    node = start_node(audit=audit)
    ds = identifier("STUDY", PatientName="Nobody*")
    ds.add(DataElement("PatientSex", "CS", "f*", validation_mode=config.IGNORE))
    found(node, ds)
    assert node.settled()
    audit.close()
    [line] = [json.loads(text) for text in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert line["event"]["code"] == "110112"
    assert line["participants"][0]["user"] == "GOOD"
    assert line["objects"][0]["query"] == {"QueryRetrieveLevel": "STUDY", "PatientName": "Nobody*", "PatientSex": "f*"}
    assert line["detail"] == "0 answers, 0x0000"
