"""C-MOVE and C-GET as a service provider, over real associations."""

import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import permutations
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from pydicom import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.filereader import read_dataset
from pydicom.uid import (
    MPEG4HP41,
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    VideoEndoscopicImageStorage,
    generate_uid,
)
from pynetdicom import AE, build_context, build_role, evt
from structlog.testing import capture_logs

from node.api import Audit, Correction, PersonRepository, send_files
from node.association.framing import encoded
from node.dicom.uids import PATIENT_ROOT_GET, PATIENT_ROOT_MOVE, STUDY_ROOT_GET, STUDY_ROOT_MOVE
from node.extensions.peers.find import RetrieveTarget
from node.extensions.peers.find import get as get_into
from node.index.look.finder import QueryRefused
from node.settings.peers import Dicom, Peer
from tests.make import ct_series, instance, misencoded, mr_series, rgb_capture, saved
from tests.protocol.conftest import (
    CT_IMAGE_STORAGE,
    VERIFICATION,
    Raw,
    Running,
    StartNode,
    after_file_meta,
    associate_rq,
    c_echo_rq,
    c_store_rq,
    client_context,
    command,
    data_set_bytes,
    decoded,
    echo_seconds,
    identifier,
    p_data,
    padded,
    pdv,
)
from tests.rows import view_rows
from tests.waiting import until

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"


@dataclass
class Destination:
    """A storage provider that keeps what it gets, as it comes."""

    port: int = 0
    stored: dict[str, bytes] = field(default_factory=dict)
    syntaxes: dict[str, str] = field(default_factory=dict)
    requests: list[Any] = field(default_factory=list)
    status: Callable[[str], int] = lambda uid: 0x0000
    associations: int = 0


StartDestination = Callable[..., Destination]


@pytest.fixture
def start_destination() -> Iterator[StartDestination]:
    """Start a storage provider with these contexts (by default CT and MR in every native syntax)."""
    servers: list[Any] = []

    def start(*contexts: tuple[str, list[str]], status: Callable[[str], int] = lambda uid: 0x0000) -> Destination:
        destination = Destination(status=status)

        def store(event: Any) -> int:
            request = event.request
            uid = str(request.AffectedSOPInstanceUID)
            answer = destination.status(uid)
            if answer == 0x0000:
                destination.stored[uid] = request.DataSet.getvalue()
                destination.syntaxes[uid] = str(event.context.transfer_syntax)
            destination.requests.append(request)
            return answer

        def opened(event: Any) -> None:
            destination.associations += 1

        ae = AE("STORE")
        for syntax, transfer in contexts or [
            (CT_IMAGE_STORAGE, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]),
            (MR_IMAGE_STORAGE, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]),
        ]:
            ae.add_supported_context(syntax, transfer)
        handlers = [(evt.EVT_C_STORE, store), (evt.EVT_ESTABLISHED, opened)]
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        servers.append(server)
        destination.port = int(server.server_address[1])
        return destination

    yield start
    for server in servers:
        server.shutdown()


def peers(destination: Destination | None = None, **options: Any) -> dict[str, Peer]:
    """The peer that asks, and the one that instances may be moved to."""
    found = {"asker": Peer(ae_title="ASKER", **options), "sender": Peer(ae_title="SENDER")}
    if destination is not None:
        found["store"] = Peer(ae_title="STORE", host="127.0.0.1", port=destination.port)
    return found


def stored(node: Running, series: list[FileDataset], folder: Path) -> list[FileDataset]:
    """Send instances to the node."""
    send_files(saved(series, folder), node.address, "SENDER")
    return series


Hold = Callable[..., Running]
HoldBoth = Callable[..., tuple[Running, Destination]]


@pytest.fixture
def holding(start_node: StartNode, tmp_path: Path) -> Hold:
    """Start a node that has these instances."""

    def hold(series: list[FileDataset], destination: Destination | None = None, **options: Any) -> Running:
        node = start_node(peers=peers(destination), **options)
        stored(node, series, tmp_path)
        return node

    return hold


@pytest.fixture
def moving(holding: Hold, start_destination: StartDestination) -> HoldBoth:
    """Start a node that has these instances, and where they may be moved to; `options` are those of the node."""

    def hold(
        series: list[FileDataset], status: Callable[[str], int] = lambda uid: 0x0000, **options: Any
    ) -> tuple[Running, Destination]:
        destination = start_destination(status=status)
        return holding(series, destination, **options), destination

    return hold


def move(
    node: Running,
    keys: Dataset,
    to: str = "STORE",
    model: str = STUDY_ROOT_MOVE,
    found: list[Any] | None = None,
    title: str = "ASKER",
) -> list[tuple[Dataset, Dataset | None]]:
    """All responses to a C-MOVE, each status with its identifier; `found` gets them as they come."""
    ae = AE(title)
    ae.add_requested_context(model)
    assoc = ae.associate(node.host, node.port)
    assert assoc.is_established
    responses: list[Any] = [] if found is None else found
    for answer in assoc.send_c_move(keys, to, model, msg_id=7, priority=1):
        responses.append(answer)
    if assoc.is_established:
        assoc.release()
    return responses


def counts(status: Dataset) -> tuple[Any, ...]:
    """Remaining, completed, failed, warning."""
    return tuple(
        getattr(status, f"NumberOf{which}Suboperations", None)
        for which in ("Remaining", "Completed", "Failed", "Warning")
    )


GET_MESSAGE_ID = 9


@dataclass
class Got:
    responses: list[tuple[Dataset, Dataset | None]]
    stored: dict[str, bytes]
    syntaxes: dict[str, str]
    message_ids: list[int]

    @property
    def last(self) -> Dataset:
        return self.responses[-1][0]


def get(
    node: Running,
    keys: Dataset,
    *contexts: tuple[str, list[str]],
    model: str = STUDY_ROOT_GET,
    status: Callable[[str], int] = lambda uid: 0x0000,
    cancel_after: int | None = None,
    roles: bool = True,
    title: str = "ASKER",
) -> Got:
    """All that a C-GET brings."""
    found = Got([], {}, {}, [])

    def store(event: Any) -> int:
        found.message_ids.append(int(event.request.MessageID))
        uid = str(event.request.AffectedSOPInstanceUID)
        answer = status(uid)
        if answer == 0x0000:
            found.stored[uid] = event.request.DataSet.getvalue()
            found.syntaxes[uid] = str(event.context.transfer_syntax)
        return answer

    ae = AE(title)
    ae.add_requested_context(model)
    wanted = contexts or ((CT_IMAGE_STORAGE, [ExplicitVRLittleEndian]), (MR_IMAGE_STORAGE, [ExplicitVRLittleEndian]))
    for syntax, transfer in wanted:
        ae.add_requested_context(syntax, transfer)
    negotiation = [build_role(syntax, scp_role=True) for syntax in {syntax for syntax, _ in wanted}] if roles else []
    assoc = ae.associate(node.host, node.port, ext_neg=negotiation, evt_handlers=[(evt.EVT_C_STORE, store)])
    assert assoc.is_established
    for answer in assoc.send_c_get(keys, model, msg_id=GET_MESSAGE_ID):
        found.responses.append(answer)
        if len(found.responses) == cancel_after:
            assoc.send_c_cancel(GET_MESSAGE_ID, query_model=model)
    assoc.release()
    return found


def move_request(study_instance_uid: str, destination: bytes = b"STORE ") -> bytes:
    """A C-MOVE-RQ of a study, on context 1."""
    keys = encoded(identifier("STUDY", StudyInstanceUID=study_instance_uid), ImplicitVRLittleEndian)
    elements = {0x0002: padded(STUDY_ROOT_MOVE), 0x0100: b"\x21\x00", 0x0110: b"\x07\x00", 0x0600: destination}
    return p_data(pdv(1, 3, command({**elements, 0x0700: b"\0\0", 0x0800: b"\0\0"})), pdv(1, 2, keys))


def asking(node: Running) -> Raw:
    """A peer with an association for C-MOVE and C-ECHO."""
    contexts = [build_context(STUDY_ROOT_MOVE, ImplicitVRLittleEndian), build_context(VERIFICATION)]
    return Raw(node).associate(associate_rq(*contexts, calling="ASKER"))


OFFERS = (JPEG2000Lossless, ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@pytest.mark.slow
def test_whatever_is_stored_is_got_in_a_context_with_many_transfer_syntaxes(holding: Hold) -> None:
    study = generate_uid()
    plain, compressed = ct_series(2, study_uid=study, rows=64, columns=64)
    compressed.compress(JPEG2000Lossless, generate_instance_uid=False)
    node = holding([plain, compressed])
    for offered in (order for length in (1, 2, 3) for order in permutations(OFFERS, length)):
        got = get(node, identifier("STUDY", StudyInstanceUID=study), (CT_IMAGE_STORAGE, list(offered)))
        sent = [compressed] if offered == (JPEG2000Lossless,) else [plain, compressed]
        assert set(got.stored) == {ds.SOPInstanceUID for ds in sent}, offered
        uncompressed = (syntax for syntax in offered if syntax != JPEG2000Lossless)
        assert set(got.syntaxes.values()) == {next(uncompressed, JPEG2000Lossless)}, offered  # the first that suits all


def test_videos_are_got_as_they_are_stored(holding: Hold) -> None:
    video = instance(sop_class_uid=VideoEndoscopicImageStorage)
    video.file_meta.TransferSyntaxUID = MPEG4HP41
    video.PixelData = encapsulate([b"\0" * 100])
    video["PixelData"].is_undefined_length = True
    node = holding([video])
    keys = identifier("STUDY", StudyInstanceUID=video.StudyInstanceUID)
    got = get(node, keys, (VideoEndoscopicImageStorage, [ExplicitVRLittleEndian, MPEG4HP41]))
    assert got.syntaxes == {video.SOPInstanceUID: MPEG4HP41}


def test_a_study_is_moved_byte_for_byte_and_counted(moving: HoldBoth) -> None:
    study = generate_uid()
    series = [*ct_series(3, study_uid=study), *mr_series(2, study_uid=study)]
    node, destination = moving([*series, *ct_series(1)])
    responses = move(node, identifier("STUDY", StudyInstanceUID=study))
    assert destination.stored == {ds.SOPInstanceUID: data_set_bytes(ds) for ds in series}
    assert [status.Status for status, _ in responses] == [0xFF00] * 5 + [0x0000]
    assert [counts(status) for status, _ in responses] == [
        *((5 - done, done, 0, 0) for done in range(1, 6)),
        (None, 5, 0, 0),
    ]
    assert destination.associations == 1
    request = destination.requests[0]
    assert (request.MoveOriginatorApplicationEntityTitle, request.MoveOriginatorMessageID) == ("ASKER", 7)
    assert [request.Priority for request in destination.requests] == [1] * 5


@pytest.mark.parametrize("how", ["series", "instances", "patient"])
def test_every_level_selects_what_it_names(moving: HoldBoth, how: str) -> None:
    study = generate_uid()
    one, other = (ct_series(count, study_uid=study, PatientID="P-1") for count in (3, 2))
    node, destination = moving([*one, *other, *ct_series(2, PatientID="P-2")])
    keys, expected, model = {
        "series": (
            identifier("SERIES", StudyInstanceUID=study, SeriesInstanceUID=one[0].SeriesInstanceUID),
            one,
            STUDY_ROOT_MOVE,
        ),
        "instances": (
            identifier(
                "IMAGE", StudyInstanceUID=study, SOPInstanceUID=[one[0].SOPInstanceUID, other[1].SOPInstanceUID]
            ),
            [one[0], other[1]],
            STUDY_ROOT_MOVE,
        ),
        "patient": (identifier("PATIENT", PatientID="P-1"), [*one, *other], PATIENT_ROOT_MOVE),
    }[how]
    assert move(node, keys, model=model)[-1][0].Status == 0x0000
    assert destination.stored.keys() == {ds.SOPInstanceUID for ds in expected}


def test_a_destination_that_is_not_configured_gets_nothing_and_the_remedy_is_reported(holding: Hold) -> None:
    [ds] = ct_series(1)
    node = holding([ds])
    [(status, _)] = move(node, identifier("STUDY", StudyInstanceUID=ds.StudyInstanceUID), to="EVIL")
    assert status.Status == 0xA801
    assert "not configured" in status.ErrorComment
    until(lambda: bool(node.rows("SELECT * FROM v_rejections WHERE what = 'retrieve'")))
    [row] = node.rows("SELECT * FROM v_rejections WHERE what = 'retrieve'")
    assert 'ae_title = "EVIL"' in row["remedy"]
    assert row["calling_ae_title"] == "ASKER"


def test_while_the_index_is_behind_a_retrieve_is_refused_and_says_so(moving: HoldBoth) -> None:
    [ds] = ct_series(1)
    node, _ = moving([ds])

    class Behind:
        def require_caught_up(self) -> None:
            raise QueryRefused("the index is 3 instances behind what was received: ask again later")

    node.ingest.index.ahead = Behind()
    [(status, _)] = move(node, identifier("STUDY", StudyInstanceUID=ds.StudyInstanceUID))
    assert status.Status == 0xA701
    assert "3 instances behind" in status.ErrorComment


def test_a_destination_that_does_not_answer_fails_all_with_their_uids(holding: Hold) -> None:
    series = ct_series(2)
    node = holding(series, Destination(port=1))
    with capture_logs() as lines:
        [(status, failed)] = move(node, identifier("STUDY", StudyInstanceUID=series[0].StudyInstanceUID))
        until(lambda: any(line["event"] == "retrieve_ended" for line in lines))
    assert (status.Status, counts(status)) == (0xA702, (None, 0, 2, 0))
    [ended] = [line for line in lines if line["event"] == "retrieve_ended"]
    assert (ended["log_level"], ended["failed"]) == ("warning", 2)
    assert "does not answer" in status.ErrorComment
    assert list(failed.FailedSOPInstanceUIDList) == [ds.SOPInstanceUID for ds in series]


def test_what_the_destination_refuses_is_listed_and_the_rest_is_sent(moving: HoldBoth) -> None:
    series = ct_series(4)
    answers = {series[1].SOPInstanceUID: 0xA700, series[2].SOPInstanceUID: 0xB007}
    node, _ = moving(series, lambda uid: answers.get(uid, 0x0000))
    status, failed = move(node, identifier("STUDY", StudyInstanceUID=series[0].StudyInstanceUID))[-1]
    assert (status.Status, counts(status)) == (0xB000, (None, 2, 1, 1))
    assert failed.FailedSOPInstanceUIDList == series[1].SOPInstanceUID


@pytest.mark.slow
def test_a_compressed_instance_is_sent_as_stored_where_it_is_taken_and_decompressed_where_not(
    start_node: StartNode, start_destination: StartDestination, tmp_path: Path
) -> None:
    ds = rgb_capture(64, 64)
    pixels = ds.PixelData
    ds.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    takes = start_destination((ds.SOPClassUID, [ImplicitVRLittleEndian, JPEG2000Lossless]))
    plain = start_destination((ds.SOPClassUID, [ImplicitVRLittleEndian]))
    configured = peers(takes) | {"plain": Peer(ae_title="PLAIN", host="127.0.0.1", port=plain.port)}
    node = start_node(peers=configured)
    stored(node, [ds], tmp_path)
    keys = identifier("STUDY", StudyInstanceUID=ds.StudyInstanceUID)
    assert move(node, keys)[-1][0].Status == 0x0000
    assert takes.stored == {ds.SOPInstanceUID: data_set_bytes(ds)}
    assert takes.syntaxes[ds.SOPInstanceUID] == JPEG2000Lossless
    assert move(node, keys, to="PLAIN")[-1][0].Status == 0x0000
    assert plain.syntaxes[ds.SOPInstanceUID] == ImplicitVRLittleEndian
    assert pixels in plain.stored[ds.SOPInstanceUID]
    assert node.part_files() == []  # where it lay meanwhile


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Expected (im|ex)plicit VR")
@pytest.mark.parametrize(
    ("announced", "is_implicit"), [(ImplicitVRLittleEndian, False), (ExplicitVRLittleEndian, True), (RLELossless, True)]
)
def test_a_data_set_leaves_in_the_encoding_of_its_context_however_it_came(
    start_node: StartNode, start_destination: StartDestination, announced: UID, is_implicit: bool
) -> None:
    [ds] = ct_series(1)
    if announced == RLELossless:
        ds.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    came = after_file_meta(misencoded(ds, announced, is_implicit=is_implicit))
    destination = start_destination((CT_IMAGE_STORAGE, [announced]))
    node = start_node(peers=peers(destination))
    with Raw(node).associate(associate_rq(build_context(CT_IMAGE_STORAGE, announced), calling="SENDER")) as peer:
        assert peer.store(ds.SOPInstanceUID, came) == 0x0000
    assert node.stored_data_sets() == {ds.SOPInstanceUID: came}
    keys = identifier("STUDY", StudyInstanceUID=ds.StudyInstanceUID)
    assert move(node, keys)[-1][0].Status == 0x0000
    got = get(node, keys, (CT_IMAGE_STORAGE, [announced]))
    assert got.last.Status == 0x0000
    for sent in (got.stored[ds.SOPInstanceUID], destination.stored[ds.SOPInstanceUID]):
        assert (sent[4:6] == b"CS") is (announced != ImplicitVRLittleEndian)
        after = read_dataset(BytesIO(sent), announced.is_implicit_VR, True)
        assert (after.PixelData, after.PatientName) == (ds.PixelData, ds.PatientName)


def test_an_instance_whose_file_is_damaged_is_not_handed_on(moving: HoldBoth) -> None:
    series = ct_series(3)
    node, destination = moving(series)
    paths = {row["sop_instance_uid"]: node.root / row["path"] for row in node.rows()}
    flipped = bytearray(paths[series[0].SOPInstanceUID].read_bytes())
    flipped[-3] ^= 1
    paths[series[0].SOPInstanceUID].write_bytes(flipped)
    paths[series[1].SOPInstanceUID].unlink()
    status, failed = move(node, identifier("STUDY", StudyInstanceUID=series[0].StudyInstanceUID))[-1]
    assert (status.Status, counts(status)) == (0xB000, (None, 1, 2, 0))
    assert set(failed.FailedSOPInstanceUIDList) == {series[0].SOPInstanceUID, series[1].SOPInstanceUID}
    assert destination.stored.keys() == {series[2].SOPInstanceUID}
    reported = view_rows(node.root, "SELECT kind, sop_instance_uid FROM v_events WHERE kind LIKE 'file-%'")
    assert {row["kind"]: row["sop_instance_uid"] for row in reported} == {
        "file-damaged": series[0].SOPInstanceUID,
        "file-missing": series[1].SOPInstanceUID,
    }


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (identifier("FRAME", StudyInstanceUID="1.2"), 0xA900),
        (identifier("PATIENT", PatientID="P-1"), 0xA900),  # no level of the Study Root model
        (identifier("SERIES", StudyInstanceUID="1.2"), 0xA900),
        (identifier("SERIES", StudyInstanceUID=["1.2", "1.3"], SeriesInstanceUID="1.2.3"), 0xA900),
    ],
    ids=["level", "level of the model", "unique key", "several above"],
)
def test_an_identifier_that_breaks_a_model_is_reported_so(start_node: StartNode, keys: Dataset, expected: int) -> None:
    node = start_node(peers=peers(Destination(port=1)))
    [(status, _)] = move(node, keys)
    assert status.Status == expected
    assert status.OffendingElement is not None
    [(status, _)] = move(node, identifier("STUDY", StudyInstanceUID="1.2.3"))  # which is right, and matches nothing
    assert (status.Status, counts(status)) == (0x0000, (None, 0, 0, 0))


def test_a_cancelled_move_stops_and_tells_what_remains(moving: HoldBoth) -> None:
    cancelled = threading.Event()
    count = 0

    def slowly(uid: str) -> int:
        nonlocal count
        count += 1
        if count > 2:
            cancelled.wait(10)
        return 0x0000

    series = ct_series(30)
    node, destination = moving(series, slowly)
    ae = AE("ASKER")
    ae.add_requested_context(STUDY_ROOT_MOVE)
    assoc = ae.associate(node.host, node.port)
    responses = []
    keys = identifier("STUDY", StudyInstanceUID=series[0].StudyInstanceUID)
    for status, answer in assoc.send_c_move(keys, "STORE", STUDY_ROOT_MOVE, msg_id=7):
        responses.append((status, answer))
        if len(responses) == 2:
            assoc.send_c_cancel(7, query_model=STUDY_ROOT_MOVE)
            cancelled.set()
    assoc.release()
    status, _ = responses[-1]
    assert status.Status == 0xFE00
    remaining, completed, _, _ = counts(status)
    assert remaining + completed == 30
    assert remaining > 0
    assert len(destination.stored) == completed
    assert node.settled()


def test_a_cancel_that_carries_what_it_must_not_is_still_a_cancel(moving: HoldBoth) -> None:
    go_on = threading.Event()
    series = ct_series(3)
    node, destination = moving(series, lambda uid: 0x0000 if go_on.wait(10) else 0xA700)
    with asking(node) as peer:
        peer.send(move_request(series[0].StudyInstanceUID))
        until(lambda: destination.associations == 1)
        cancel = command({0x0100: b"\xff\x0f", 0x0120: b"\x07\x00", 0x0800: b"\0\0"})
        answers = b"".join(
            pdv(1, 3, command({0x0100: b"\x01\x80", 0x0120: b"\x09\x00", 0x0800: b"\1\1", 0x0900: b"\0\0"}))
            for _ in range(50)
        )
        peer.send(p_data(pdv(1, 3, cancel), pdv(1, 0, b"junk"), pdv(1, 2, b"junk")) + p_data(answers))
        go_on.set()
        statuses = []
        while not statuses or statuses[-1] == b"\x00\xff":
            statuses.append(decoded(peer.receive()[1])[0x0900])
    assert statuses[-1] == b"\x00\xfe"
    assert node.settled()


def test_a_study_comes_back_on_the_same_association_byte_for_byte(holding: Hold) -> None:
    study = generate_uid()
    series = [*ct_series(3, study_uid=study), *mr_series(2, study_uid=study)]
    node = holding(series)
    got = get(node, identifier("STUDY", StudyInstanceUID=study))
    assert got.stored == {ds.SOPInstanceUID: data_set_bytes(ds) for ds in series}
    assert (got.last.Status, counts(got.last)) == (0x0000, (None, 5, 0, 0))
    assert [counts(status)[0] for status, _ in got.responses[:-1]] == [4, 3, 2, 1, 0]
    # PS3.7 9.1.1.1.1: no Message ID is used again while the operation that it names is outstanding.
    assert len({GET_MESSAGE_ID, *got.message_ids}) == 6


def test_an_error_of_our_own_aborts_the_association_and_no_other(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.association.listener.serve_c_get", Mock(side_effect=ZeroDivisionError))
    node = start_node(peers=peers() | {"good": Peer(ae_title="GOOD")})
    assert "Status" not in get(node, identifier("STUDY", StudyInstanceUID="1.2.3")).last
    assert node.settled()
    assert node.count("associations_total{outcome=given up}") == 1
    assert echo_seconds(node) < 5


IMPLICIT_CT = (CT_IMAGE_STORAGE, [ImplicitVRLittleEndian])
BOTH = (IMPLICIT_CT, (MR_IMAGE_STORAGE, [ImplicitVRLittleEndian]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("contexts", "options", "status", "completed", "failed"),
    [
        (BOTH, {"model": PATIENT_ROOT_GET}, 0x0000, "CT MR", ""),
        ((IMPLICIT_CT,), {}, 0xB000, "CT", "MR"),
        (BOTH, {"roles": False}, 0xA702, "", "CT MR"),
        (BOTH, {"status": lambda uid: 0xC000 if uid.endswith(".1") else 0x0000}, 0xB000, "MR", "CT"),
    ],
    ids=["a patient", "a class that is not taken", "no role selection", "a refusal"],
)
def test_what_a_get_does_not_bring_is_a_failure_with_the_reason(
    holding: Hold, contexts: tuple[Any, ...], options: dict[str, Any], status: int, completed: str, failed: str
) -> None:
    study = {"study_uid": generate_uid(), "PatientID": "P-1"}
    both = {"CT": ct_series(1, **study)[0], "MR": mr_series(1, **study)[0]}
    for number, ds in enumerate(both.values(), 1):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
    node = holding(list(both.values()))
    is_patient = options.get("model") == PATIENT_ROOT_GET
    keys = identifier("PATIENT", PatientID="P-1") if is_patient else identifier(
        "STUDY", StudyInstanceUID=study["study_uid"]
    )  # fmt: skip
    got = get(node, keys, *contexts, **options)
    uids = {name: str(ds.SOPInstanceUID) for name, ds in both.items()}
    assert got.last.Status == status
    assert counts(got.last) == (None, len(completed.split()), len(failed.split()), 0)
    assert got.stored.keys() == {uids[name] for name in completed.split()}
    if failed:
        assert ("does not accept" in got.last.ErrorComment) == ("status" not in options)
        listed = got.responses[-1][1].FailedSOPInstanceUIDList  # type: ignore[union-attr]
        assert {listed} if isinstance(listed, str) else set(listed) == {uids[name] for name in failed.split()}


@pytest.mark.slow
def test_a_cancelled_get_stops(holding: Hold) -> None:
    series = ct_series(60)
    node = holding(series)
    got = get(node, identifier("STUDY", StudyInstanceUID=series[0].StudyInstanceUID), cancel_after=2)
    assert got.last.Status == 0xFE00
    remaining, completed, _, _ = counts(got.last)
    assert remaining > 0
    assert remaining + completed == 60
    assert len(got.stored) == completed


@pytest.mark.slow
def test_a_requestor_that_vanishes_during_a_get_leaves_nothing_behind(holding: Hold) -> None:
    series = ct_series(60)
    node = holding(series)
    ae = AE("ASKER")
    ae.add_requested_context(STUDY_ROOT_GET)
    ae.add_requested_context(CT_IMAGE_STORAGE, [ExplicitVRLittleEndian])
    handlers: Any = [(evt.EVT_C_STORE, lambda event: 0x0000)]
    roles = [build_role(CT_IMAGE_STORAGE, scp_role=True)]
    assoc = ae.associate(node.host, node.port, ext_neg=roles, evt_handlers=handlers)  # type: ignore[arg-type]
    keys = identifier("STUDY", StudyInstanceUID=series[0].StudyInstanceUID)
    for number, _ in enumerate(assoc.send_c_get(keys, STUDY_ROOT_GET)):
        if number == 2:
            assoc.abort()
            break
    assert node.settled()
    assert node.count("associations_total{outcome=aborted}") == 1


def test_a_request_that_comes_too_early_waits_until_a_retrieve_is_over(moving: HoldBoth) -> None:
    series = ct_series(3)
    node, _ = moving(series)
    with asking(node) as peer:
        peer.send(move_request(series[0].StudyInstanceUID) + p_data(pdv(3, 3, c_echo_rq(8))))
        answers = [decoded(answer[1]) for answer in (peer.receive() for _ in range(5)) if answer is not None]
    fields = [(answer[0x0100], answer[0x0900]) for answer in answers]
    moved = b"\x21\x80"
    assert fields == [*[(moved, b"\x00\xff")] * 3, (moved, b"\x00\x00"), (b"\x30\x80", b"\x00\x00")]


def test_no_more_retrieves_than_are_configured_are_under_way_at_once(moving: HoldBoth) -> None:
    go_on = threading.Event()
    lock = threading.Lock()
    under_way: list[int] = []

    def count(uid: str) -> int:
        with lock:
            under_way.append(destination.associations)
        go_on.wait(10)
        return 0x0000

    [ds] = ct_series(1)
    node, destination = moving([ds], count, maximum_retrieves=1)
    keys = identifier("STUDY", StudyInstanceUID=ds.StudyInstanceUID)
    last: list[int] = []
    threads = [threading.Thread(target=lambda: last.append(move(node, keys)[-1][0].Status)) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(under_way) == 1)
    until(lambda: node.count("open_associations") == 3)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert last == [0x0000] * 3
    assert under_way == [1, 2, 3]


@pytest.mark.slow  # in one run of five, pynetdicom's requestor waits 30 s before it sees that the connection is closed
def test_a_node_that_drains_tells_what_it_has_not_sent(moving: HoldBoth) -> None:
    sending, draining = threading.Event(), threading.Event()

    def slowly(uid: str) -> int:
        sending.set()
        draining.wait(60)
        return 0x0000

    series = ct_series(5)
    node, _ = moving(series, slowly)
    found: list[Any] = []
    keys = identifier("STUDY", StudyInstanceUID=series[0].StudyInstanceUID)
    asking = threading.Thread(target=lambda: move(node, keys, found=found))
    asking.start()
    assert sending.wait(60)
    drain = threading.Thread(target=node.listener.drain, args=(10,))
    drain.start()
    [connection] = node.listener.admission.budget.all()
    until(lambda: connection.holder.is_draining)  # type: ignore[attr-defined]
    draining.set()
    until(lambda: bool(found) and found[-1][0].Status != 0xFF00)
    status, failed = found[-1]
    assert (status.Status, counts(status)) == (0xB000, (None, 1, 4, 0))
    assert "stopping" in status.ErrorComment
    assert len(failed.FailedSOPInstanceUIDList) == 4
    drain.join(30)
    asking.join(60)


def test_a_get_over_tls_is_the_same(start_node: StartNode, keys: Path, tmp_path: Path) -> None:
    node = start_node(peers=peers(), tls_certificate=keys / "server.pem", tls_key=keys / "server.key")
    [ds] = ct_series(1, pixels=np.zeros((1, 600, 700), np.int16))
    path = tmp_path / "large.dcm"
    ds.save_as(path, enforce_file_format=True)
    context = client_context(keys)
    context.check_hostname = False
    peer = replace(node.address, tls=context)
    send_files([path], peer, "SENDER")
    other = start_node()
    got = get_into(RetrieveTarget(str(ds.StudyInstanceUID)), peer, Dicom(ae_title="ASKER"), other.ingest)
    assert (got.completed, got.failed) == (1, 0)
    assert other.stored_data_sets() == {ds.SOPInstanceUID: data_set_bytes(ds)}


def test_a_move_to_a_peer_with_tls_proves_who_both_are(start_node: StartNode, keys: Path, tmp_path: Path) -> None:
    ours = {"tls_certificate": keys / "server.pem", "tls_key": keys / "server.key"}
    target = start_node(**ours, tls_client_ca=keys / "ca.pem", ae_title="STORE")
    store = {"ae_title": "STORE", "host": "127.0.0.1", "port": target.port, "tls": True}
    trusting = peers() | {"store": Peer(**store, tls_ca=keys / "ca.pem")}
    distrusting = peers() | {"store": Peer(**store, tls_ca=keys / "stranger.pem")}
    for configured, expected in ((trusting, 0x0000), (distrusting, 0xA702)):
        node = start_node(peers=configured, **ours)
        context = client_context(keys)
        context.check_hostname = False
        series = ct_series(1)
        path = tmp_path / f"{expected}.dcm"
        series[0].save_as(path, enforce_file_format=True)
        send_files([path], replace(node.address, tls=context), "SENDER")
        ae = AE("ASKER")
        ae.add_requested_context(STUDY_ROOT_MOVE)
        assoc = ae.associate(node.host, node.port, tls_args=(context, None))  # type: ignore[arg-type]
        wanted = identifier("STUDY", StudyInstanceUID=series[0].StudyInstanceUID)
        status = [status for status, _ in assoc.send_c_move(wanted, "STORE", STUDY_ROOT_MOVE)][-1]
        assoc.release()
        assert status.Status == expected
    assert "TLS failed: self-signed" in status.ErrorComment
    assert len(target.rows()) == 1


@pytest.mark.parametrize(
    ("may", "results"),
    [
        (("echo", "store"), {"move": 1, "get": 1, "store": 0, "take": 1}),
        (("retrieve",), {"move": 0, "get": 0, "store": 1, "take": 0}),
        (("query", "commit"), {"move": 1, "get": 1, "store": 1, "take": 1}),
    ],
)
def test_a_peer_gets_the_contexts_of_what_it_may_do(
    start_node: StartNode, may: tuple[str, ...], results: dict[str, int]
) -> None:
    node = start_node(peers={"asker": Peer(ae_title="ASKER", may=may)})  # type: ignore[arg-type]
    ae = AE("ASKER")
    ae.requested_contexts = [
        build_context(STUDY_ROOT_MOVE),
        build_context(STUDY_ROOT_GET),
        build_context(CT_IMAGE_STORAGE),
        build_context(MR_IMAGE_STORAGE),
    ]
    assoc = ae.associate(node.host, node.port, ext_neg=[build_role(MR_IMAGE_STORAGE, scp_role=True)])
    proposed: Any = assoc.requestor.primitive
    answer: Any = assoc.acceptor.primitive
    names = {STUDY_ROOT_MOVE: "move", STUDY_ROOT_GET: "get", CT_IMAGE_STORAGE: "store", MR_IMAGE_STORAGE: "take"}
    of = {one.context_id: names[one.abstract_syntax] for one in proposed.presentation_context_definition_list}
    found = {of[one.context_id]: one.result for one in answer.presentation_context_definition_results_list}
    assert found == results
    if assoc.is_established:
        assoc.release()
    until(lambda: bool(node.rows("SELECT * FROM v_rejections WHERE rule = 'not permitted'")))
    remedies = {row["remedy"] for row in node.rows("SELECT * FROM v_rejections WHERE rule = 'not permitted'")}
    assert all("`may`" in remedy for remedy in remedies)


def test_each_retrieve_goes_to_the_audit_log(holding: Hold, tmp_path: Path) -> None:
    [ds] = ct_series(1, PatientID="P-1")
    node = holding([ds], audit=Audit(tmp_path, "VOXELNODE"))
    get(node, identifier("STUDY", StudyInstanceUID=ds.StudyInstanceUID))
    assert node.settled()
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["event"]["code"] for line in lines] == ["110102", "110104"]
    assert lines[1]["objects"][0]["patient_id"] == "P-1"
    assert lines[1]["objects"][0]["study_instance_uid"] == ds.StudyInstanceUID
    assert [one["user"] for one in lines[1]["participants"]] == ["VOXELNODE", "ASKER", "ASKER"]


@pytest.mark.slow
@pytest.mark.parametrize("further", [b"", p_data(pdv(3, 3, c_echo_rq(8)))], ids=["alone", "behind a further request"])
def test_a_requestor_that_vanishes_is_noticed_while_the_destination_says_nothing(
    moving: HoldBoth, further: bytes
) -> None:
    series, answer = ct_series(2), threading.Event()
    node, destination = moving(series, lambda uid: 0x0000 if answer.wait(60) else 0xA700, response_seconds=120)
    with asking(node) as peer:
        peer.send(move_request(series[0].StudyInstanceUID) + further)
        until(lambda: destination.associations == 1)
    until(lambda: node.count("connections") == 0, 10)
    assert destination.stored == {}
    answer.set()


@pytest.mark.parametrize("destination", [b"STORE" + 20 * b"E" + b"X", b"ST\0ORE", b"", b"\x1b[2J"])
def test_a_destination_that_is_no_title_is_unknown_and_shown_safely(start_node: StartNode, destination: bytes) -> None:
    node = start_node(peers=peers())
    with asking(node) as peer:
        peer.send(move_request("1.2.3", destination))
        assert decoded(peer.receive()[1])[0x0900] == b"\x01\xa8"
    until(lambda: bool(node.rows("SELECT * FROM v_rejections WHERE what = 'retrieve'")))
    [reported] = node.rows("SELECT * FROM v_rejections WHERE what = 'retrieve'")
    assert len(reported["offered"]) <= 16
    assert reported["offered"].isprintable()


@pytest.mark.slow
def test_a_get_whose_answer_cannot_come_waits_idle_and_is_given_up(holding: Hold) -> None:
    # The peer sends a further request instead of the answer, so the answer would have to come behind it.
    [ds] = ct_series(1)
    node = holding([ds], response_seconds=2)
    keys = encoded(identifier("STUDY", StudyInstanceUID=ds.StudyInstanceUID), ImplicitVRLittleEndian)
    contexts = [build_context(STUDY_ROOT_GET, ImplicitVRLittleEndian), build_context(CT_IMAGE_STORAGE)]
    elements = {0x0002: padded(STUDY_ROOT_GET), 0x0100: b"\x10\x00", 0x0110: b"\x07\x00", 0x0700: b"\0\0"}
    role = struct.pack(">BBHH", 0x54, 0, len(CT_IMAGE_STORAGE) + 4, len(CT_IMAGE_STORAGE))
    role += CT_IMAGE_STORAGE.encode() + b"\1\1"
    request = bytearray(associate_rq(*contexts, calling="ASKER") + role)
    for at, size in ((2, ">L"), (request.index(b"\x50\0") + 2, ">H")):
        struct.pack_into(size, request, at, struct.unpack_from(size, request, at)[0] + len(role))
    with Raw(node) as peer:
        peer.associate(bytes(request))
        peer.send(p_data(pdv(1, 3, command({**elements, 0x0800: b"\0\0"})), pdv(1, 2, keys)))
        assert decoded(peer.receive()[1])[0x0100] == b"\x01\x00"
        peer.send(p_data(pdv(3, 3, c_store_rq("1.2.3"))))
        before = time.process_time()
        assert peer.aborted() == (0, 0)
        assert time.process_time() - before < 0.5
    assert node.settled()
    assert node.count("associations_total{outcome=given up}") == 1


def test_what_is_retrieved_has_the_identity_that_queries_answer(moving: HoldBoth) -> None:
    [ds] = ct_series(1, PatientID="C-7", PatientName="Wrong^Name")
    node, destination = moving([ds])
    persons, [row] = node.ingest.index.repository(PersonRepository), view_rows(node.root, "SELECT id FROM v_patients")
    keys = identifier("STUDY", StudyInstanceUID=ds.StudyInstanceUID)
    now, uid = node.ingest.now(), str(ds.SOPInstanceUID)
    persons.correct(row["id"], Correction("C-1", patient_name="Right^Name"), now, str(ds.StudyInstanceUID))
    for implicit in (False, True):
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        copy = read_dataset(BytesIO(get(node, keys, (CT_IMAGE_STORAGE, [syntax])).stored[uid]), implicit, True)
        assert (copy.PatientID, copy.PatientName, copy.PixelData) == ("C-1", "Right^Name", ds.PixelData)
    assert move(node, keys)[-1][0].Status == 0
    copy = read_dataset(BytesIO(destination.stored[uid]), False, True)
    assert copy.OriginalAttributesSequence[0].ModifiedAttributesSequence[0].PatientID == "C-7"
    persons.separate(row["id"], now, study=str(ds.StudyInstanceUID))
    assert get(node, keys).stored[uid] == data_set_bytes(ds)
    assert list((node.root / "incoming").glob("*.part*")) == []
