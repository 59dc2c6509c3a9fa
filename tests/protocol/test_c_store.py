"""C-STORE over real associations."""

import struct
from collections.abc import Iterator
from io import BytesIO

import pytest
from pydicom import FileDataset, config, dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless
from pynetdicom import build_context

from node.association.framing import MAXIMUM_PDU_BYTES
from node.dicom.uids import STUDY_ROOT_FIND
from node.receive.readiness import reasons_not_ready
from tests.make import corrected, ct_series, instance
from tests.protocol.conftest import (
    CT_IMAGE_STORAGE,
    Raw,
    Running,
    StartNode,
    associate,
    c_echo_rq,
    c_store_rq,
    data_set_bytes,
    decoded,
    identifier,
    p_data,
    pdv,
    status_of,
)
from tests.rows import index_locked, read_rows
from tests.waiting import until


def test_what_was_sent_is_stored_byte_for_byte(node: Running) -> None:
    series = ct_series(5)
    assoc = associate(node)
    statuses = [assoc.send_c_store(ds).Status for ds in series]
    assoc.release()
    assert statuses == [0] * 5
    stored = node.stored_data_sets()
    for ds in series:
        assert stored[ds.SOPInstanceUID] == data_set_bytes(ds)
    for row in node.rows():
        meta = dcmread(node.root / row["path"]).file_meta
        assert (meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID) == (
            ExplicitVRLittleEndian, row["sop_instance_uid"],
        )  # fmt: skip
        assert row["calling_ae_title"] == "GOOD"
    assert node.part_files() == []
    assert node.settled()
    assert node.count("associations_total{outcome=released}") == 1
    assert 0 < node.count("receive_seconds_sum") < 60


def test_a_sender_is_warned_of_a_version_that_is_not_current_if_so_configured(start_node: StartNode) -> None:
    first, other = ct_series(2)
    second = corrected(first)
    sent = [first, second, second, first, other, other]
    statuses = {}
    for answer in ("success", "warning"):
        assoc = associate(start_node(conflict_answer=answer))
        responses = [assoc.send_c_store(ds) for ds in sent]
        assoc.release()
        statuses[answer] = [response.Status for response in responses]
        comments = [response.get("ErrorComment", "") for response in responses]
    assert statuses == {"success": [0] * 6, "warning": [0, 0xB000, 0xB000, 0, 0, 0]}
    assert "another version is current" in comments[1]


def test_a_sender_that_is_promised_the_index_hears_of_success_once_the_row_is_there(start_node: StartNode) -> None:
    first, second, third = ct_series(3)
    node = start_node(acknowledge="index", conflict_answer="warning")
    promise = node.ingest.acknowledgement
    promise.seconds = 600.0
    assoc = associate(node)
    assert assoc.send_c_store(first).Status == 0
    held = [{"sop_instance_uid": first.SOPInstanceUID}]
    assert read_rows(node.root, "SELECT sop_instance_uid FROM v_images") == held
    assert assoc.send_c_store(corrected(first)).Status == 0xB000
    with index_locked(node.root):
        promise.seconds = 0.1
        response = assoc.send_c_store(second)
        assert (response.Status, response.ErrorComment) == (0xA700, "not in the index within 0.1 s: send it again")
        response = assoc.send_c_store(third)
        assert response.Status == 0xA700
        assert response.ErrorComment.startswith("the index has not taken what was received for")
        assert not associate(node).is_established
        assert list(reasons_not_ready(node.ingest, {})) == ["intake"]
    until(lambda: node.ingest.applier.lag == 0)
    promise.seconds = 600.0
    assert [assoc.send_c_store(ds).Status for ds in (second, third)] == [0, 0]
    assoc.release()
    assert node.stored_data_sets() == {ds.SOPInstanceUID: data_set_bytes(ds) for ds in (first, second, third)}
    assert node.count("acknowledge_seconds_count") == 5


def test_private_and_unknown_classes_are_stored(node: Running) -> None:
    for sop_class_uid in ("1.3.12.2.1107.5.9.1", "1.2.840.10008.5.1.4.1.1.99999"):
        ds = instance(sop_class_uid=sop_class_uid)
        assoc = associate(node, build_context(sop_class_uid, ExplicitVRLittleEndian))
        assert assoc.send_c_store(ds).Status == 0x0000
        assoc.release()
    assert {row["sop_class_uid"] for row in node.rows()} == {"1.3.12.2.1107.5.9.1", "1.2.840.10008.5.1.4.1.1.99999"}


def fragmentations(ds_bytes: bytes, request: bytes) -> dict[str, list[bytes]]:
    half = len(ds_bytes) // 2
    return {
        "command and data set in one PDU": [p_data(pdv(1, 3, request), pdv(1, 2, ds_bytes))],
        "several PDVs a PDU": [p_data(pdv(1, 3, request), pdv(1, 0, ds_bytes[:half]), pdv(1, 2, ds_bytes[half:]))],
        "a command set in fragments": [
            p_data(pdv(1, 1, request[:7])),
            p_data(pdv(1, 1, request[7:30]), pdv(1, 3, request[30:])),
            p_data(pdv(1, 2, ds_bytes)),
        ],
        "one-byte PDVs": [
            p_data(pdv(1, 3, request)),
            *[p_data(pdv(1, 0, ds_bytes[at : at + 1])) for at in range(len(ds_bytes))],
            p_data(pdv(1, 2, b"")),
        ],
        "a last fragment without bytes": [
            p_data(pdv(1, 3, request)),
            p_data(pdv(1, 0, ds_bytes)),
            p_data(pdv(1, 2, b"")),
        ],
        "an empty fragment in between": [
            p_data(pdv(1, 3, request)),
            p_data(pdv(1, 0, ds_bytes[:half]), pdv(1, 0, b"")),
            p_data(pdv(1, 2, ds_bytes[half:])),
        ],
    }


@pytest.mark.parametrize("way", fragmentations(b"", b""))
def test_every_way_to_cut_a_message_is_understood(node: Running, way: str) -> None:
    ds = instance()
    data = data_set_bytes(ds)
    with Raw(node).associate() as peer:
        for piece in fragmentations(data, c_store_rq(ds.SOPInstanceUID))[way]:
            peer.send(piece)
        assert status_of(peer.receive()) == 0x0000
    assert node.stored_data_sets()[ds.SOPInstanceUID] == data


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_the_cuts_of_tcp_do_not_matter(node: Running, step: int) -> None:
    ds = instance()
    data = data_set_bytes(ds)
    stream = p_data(pdv(1, 3, c_store_rq(ds.SOPInstanceUID))) + p_data(pdv(1, 2, data))
    with Raw(node).associate() as peer:
        for at in range(0, len(stream), step):
            peer.send(stream[at : at + step])
        assert status_of(peer.receive()) == 0x0000
    assert node.stored_data_sets()[ds.SOPInstanceUID] == data


def test_pdus_of_the_announced_size_pass(node: Running) -> None:
    size = MAXIMUM_PDU_BYTES
    ds = instance()
    ds.add_new(0x7FE00010, "OW", bytes(range(256)) * 8192)
    data = data_set_bytes(ds)
    with Raw(node).associate() as peer:
        peer.send(p_data(pdv(1, 3, c_store_rq(ds.SOPInstanceUID))))
        for at in range(0, len(data), size - 6):
            part = data[at : at + size - 6]
            peer.send(p_data(pdv(1, 2 if at + size - 6 >= len(data) else 0, part)))
        assert status_of(peer.receive()) == 0x0000
    assert node.stored_data_sets()[ds.SOPInstanceUID] == data


@pytest.mark.slow
def test_pipelined_requests_are_answered_in_order(node: Running) -> None:
    series = [instance() for _ in range(20)]
    stream = BytesIO()
    for number, ds in enumerate(series, 1):
        stream.write(p_data(pdv(1, 3, c_store_rq(ds.SOPInstanceUID, message_id=number))))
        stream.write(p_data(pdv(1, 2, data_set_bytes(ds))))
        stream.write(p_data(pdv(3, 3, c_echo_rq(1000 + number))))
    with Raw(node).associate() as peer:
        peer.send(stream.getvalue())
        answered = [int.from_bytes(decoded(peer.receive()[1])[0x0120], "little") for _ in range(40)]  # type: ignore[index]
    assert answered == [number for pair in zip(range(1, 21), range(1001, 1021), strict=True) for number in pair]
    assert len(node.rows()) == 20


def test_the_answer_names_the_message_and_the_instance(node: Running) -> None:
    ds = instance()
    with Raw(node).associate() as peer:
        peer.send(p_data(pdv(1, 3, c_store_rq(ds.SOPInstanceUID, message_id=777))))
        peer.send(p_data(pdv(1, 2, data_set_bytes(ds))))
        answer = peer.receive()
        peer.send(p_data(pdv(3, 3, c_store_rq(ds.SOPInstanceUID)), pdv(3, 2, data_set_bytes(ds))))
        refused = peer.receive()
    assert decoded(refused[1])[0x0900] == (0x0122).to_bytes(2, "little"), "context 3 is for C-ECHO"
    elements = decoded(answer[1])
    assert elements[0x0100] == b"\x01\x80"
    assert elements[0x0120] == (777).to_bytes(2, "little")
    assert elements[0x1000].rstrip(b"\0").decode() == ds.SOPInstanceUID
    assert elements[0x0002].rstrip(b"\0").decode() == CT_IMAGE_STORAGE
    assert elements[0x0800] == b"\x01\x01"


@pytest.mark.own_acceptor("pynetdicom has one order of transfer syntaxes for all contexts of a class")
def test_the_sender_chooses_the_transfer_syntax(node: Running) -> None:
    both = [
        build_context(CT_IMAGE_STORAGE, [JPEG2000Lossless, ExplicitVRLittleEndian]),
        build_context(CT_IMAGE_STORAGE, [ImplicitVRLittleEndian, JPEG2000Lossless]),
        build_context(CT_IMAGE_STORAGE, ["1.2.840.10008.1.2.1.99", ExplicitVRLittleEndian]),
    ]
    assoc = associate(node, *both)
    assert [context.transfer_syntax[0] for context in assoc.accepted_contexts] == [
        JPEG2000Lossless,
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
    ]
    assoc.release()


@pytest.mark.own_acceptor("pynetdicom has one result for contexts that it does not support")
def test_pixels_that_are_elsewhere_and_other_services_are_not_accepted(node: Running) -> None:
    assoc = associate(
        node,
        build_context(CT_IMAGE_STORAGE, "1.2.840.10008.1.2.4.205"),
        build_context(CT_IMAGE_STORAGE, "1.2.840.10008.1.2.4.95"),
        build_context("1.2.840.10008.5.1.4.34.6.3", ImplicitVRLittleEndian),  # unified procedure step
        build_context("1.2.840.10008.1.1", ImplicitVRLittleEndian),
    )
    assert [context.abstract_syntax for context in assoc.accepted_contexts] == ["1.2.840.10008.1.1"]
    assert sorted(context.result for context in assoc.rejected_contexts) == [3, 4, 4]
    assoc.release()


def relabelled(ds: FileDataset, **uids: str) -> bytes:
    """A data set as it is sent, with other UIDs that pydicom would not write."""
    data = data_set_bytes(ds)
    for keyword, uid in uids.items():
        element = b"UI" + struct.pack("<H", len(uid)) + uid.encode()
        before = ds[keyword].value.encode() + b"\0" * (len(ds[keyword].value) % 2)
        data = data.replace(b"UI" + struct.pack("<H", len(before)) + before, element)
    return data


@pytest.mark.own_acceptor("pynetdicom aborts at a UID that is none")
@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_people_whose_uids_are_the_same_up_to_64_characters_stay_apart(node: Running, keyword: str) -> None:
    start = "1.2.826.0.1.3680043.8.498.".ljust(64, "7")
    with Raw(node).associate() as peer:
        for end, who in ((".1", "A"), (".2", "B")):
            ds = instance(PatientID=who)
            data = relabelled(ds, **{keyword: start + end})
            uid = start + end if keyword == "SOPInstanceUID" else ds.SOPInstanceUID
            assert peer.store(uid, data) == 0xC000
    assert node.rows() == []


@pytest.fixture
def unchecked() -> Iterator[None]:
    """What pydicom says of values that are longer than the standard has them is not heard."""
    with config.disable_value_validation():
        yield


@pytest.mark.usefixtures("unchecked")
def test_values_longer_than_the_standard_has_them_are_kept_and_compared_whole(node: Running) -> None:
    for end in "12":
        ds = instance(
            SpecificCharacterSet="ISO_IR 192",
            PatientID="f" * 127 + end,  # as of a SHA-512
            AccessionNumber=f"HOSPITAL-2024-000000{end}",
            StudyDescription="山" * 340 + end,
        )
        with Raw(node).associate() as peer:
            assert peer.store(ds.SOPInstanceUID, data_set_bytes(ds)) == 0
    patients = node.rows("SELECT patient_id FROM v_patients ORDER BY patient_id")
    assert [row["patient_id"] for row in patients] == ["f" * 127 + end for end in "12"]
    assert node.rows("SELECT * FROM v_conflicts") == []
    for key, whole in (("AccessionNumber", "HOSPITAL-2024-0000002"), ("StudyDescription", "山" * 340 + "2")):
        query = identifier("STUDY", SpecificCharacterSet="ISO_IR 192", StudyInstanceUID=None, **{key: whole})
        assoc = associate(node, build_context(STUDY_ROOT_FIND, ExplicitVRLittleEndian))
        answers = [found for status, found in assoc.send_c_find(query, STUDY_ROOT_FIND) if status.Status == 0xFF00]
        assoc.release()
        assert [(found[key].value, found.StudyInstanceUID) for found in answers] == [(whole, ds.StudyInstanceUID)]


@pytest.mark.usefixtures("unchecked")
def test_a_text_that_no_index_takes_is_refused_by_its_name_and_the_next_instance_is_stored(node: Running) -> None:
    assoc = associate(node)
    refused = assoc.send_c_store(instance(SpecificCharacterSet="ISO_IR 192", PatientID="山" * 342))
    stored = assoc.send_c_store(instance())
    assoc.release()
    assert (refused.Status, stored.Status) == (0xC000, 0)
    assert refused.ErrorComment == "Patient ID (0010,0020) has more than 1024 bytes of text"
    assert len(node.rows()) == 1


@pytest.mark.own_acceptor("pynetdicom aborts at a UID that is none")
def test_what_is_no_uid_is_refused_unless_the_archive_has_such(start_node: StartNode) -> None:
    strict, lenient = start_node(), start_node(any_uids=True)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        for uid, is_one in (("1.2.007", True), ("1.2.3%2Flinks?", False), ("ABC-1", False), ("1..2", False)):
            ds = instance()
            data = relabelled(ds, **{keyword: uid})
            statuses = []
            for node in (strict, lenient):
                with Raw(node).associate() as peer:
                    statuses.append(peer.store(uid if keyword == "SOPInstanceUID" else ds.SOPInstanceUID, data))
            assert statuses == [0 if is_one else 0xC000, 0], (keyword, uid)
    with Raw(strict).associate() as peer:
        peer.send(p_data(pdv(1, 3, c_store_rq("ABC"))) + p_data(pdv(1, 2, data_set_bytes(instance()))))
        answer = peer.receive()
    assert decoded(answer[1])[0x0902].rstrip() == b"SOP Instance UID is no UID (PS3.5 9.1): see [storage] any_uids"
