"""C-GET as a service user: how many SOP classes one association can ask for."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE, evt

from node.api import Address
from node.dicom.uids import STUDY_ROOT_FIND, STUDY_ROOT_GET
from node.extensions.peers.get import GetFailed, RetrieveTarget, get
from node.settings.peers import Dicom
from tests.make import ct_series
from tests.protocol.conftest import StartNode


class Peer:
    """A peer with one series of as many SOP classes as it is asked to have, which notes what is proposed to it."""

    def __init__(self) -> None:
        self.sop_class_uids: list[str] = []
        self.proposed: list[str] = []
        self.studies = [("1.2.3", "1.2.3.4")]
        ae = AE("PACS")
        ae.add_supported_context(STUDY_ROOT_FIND)
        ae.add_supported_context(STUDY_ROOT_GET)
        ae.add_supported_context(CTImageStorage, scu_role=True, scp_role=True)
        handlers: Any = [
            (evt.EVT_C_FIND, self._find), (evt.EVT_REQUESTED, self._requested), (evt.EVT_C_GET, self._get)
        ]  # fmt: skip
        self._server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.address = Address("PACS", "127.0.0.1", int(self._server.server_address[1]))

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset]]:
        for number, sop_class_uid in enumerate(self.sop_class_uids):
            ds = Dataset()
            ds.QueryRetrieveLevel = event.identifier.QueryRetrieveLevel
            ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.4"
            ds.SOPInstanceUID, ds.SOPClassUID = f"1.2.3.4.{number + 1}", sop_class_uid
            yield 0xFF00, ds

    def _get(self, event: Any) -> Iterator[Any]:
        """An instance of each of `studies`, then a failure."""
        yield len(self.studies) + 1
        for study, series in self.studies:
            yield 0xFF00, ct_series(1, study_uid=study, series_uid=series)[0]
        yield 0xC001, None

    def _requested(self, event: Any) -> None:
        contexts = event.assoc.requestor.primitive.presentation_context_definition_list
        self.proposed = [str(context.abstract_syntax) for context in contexts]

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture
def peer() -> Iterator[Peer]:
    listening = Peer()
    yield listening
    listening.close()


@pytest.mark.parametrize(("classes", "is_proposed"), [(127, True), (128, False)])
def test_as_many_sop_classes_are_asked_for_as_an_association_has_contexts(
    start_node: StartNode, peer: Peer, classes: int, is_proposed: bool
) -> None:
    # PS3.8 9.3.2.2: context IDs are odd and below 256, and one of the 128 is that of the C-GET.
    peer.sop_class_uids = [f"1.2.840.10008.5.1.4.1.1.{number + 1}" for number in range(classes)]
    with pytest.raises(GetFailed) as refused:
        get(RetrieveTarget("1.2.3", "1.2.3.4"), peer.address, Dicom(ae_title="ASKER"), start_node().ingest)
    if is_proposed:
        assert peer.proposed == [STUDY_ROOT_GET, *peer.sop_class_uids]
    else:
        assert "128 SOP classes are too many for one association" in str(refused.value)
        assert peer.proposed == [STUDY_ROOT_FIND]


def test_a_failure_after_some_instances_is_a_failure(start_node: StartNode, peer: Peer) -> None:
    peer.sop_class_uids, node, statuses = [CTImageStorage], start_node(), list[int]()
    target = RetrieveTarget("1.2.3", "1.2.3.4")
    with pytest.raises(GetFailed, match="answered C-GET with 0xC001"):
        get(target, peer.address, Dicom(ae_title="ASKER"), node.ingest, on_answer=statuses.append)
    assert statuses == [0x0000]
    assert len(node.rows()) == 1


def test_what_was_not_asked_for_is_refused_and_stays_at_the_peer(start_node: StartNode, peer: Peer) -> None:
    peer.sop_class_uids, node, statuses, reasons = [CTImageStorage], start_node(), list[int](), list[str]()
    peer.studies = [("1.2.9", "1.2.3.4"), ("1.2.3", "1.2.3.9"), ("1.2.3", "1.2.3.4")]
    target = RetrieveTarget("1.2.3", "1.2.3.4")
    with pytest.raises(GetFailed):
        get(
            target,
            peer.address,
            Dicom(ae_title="ASKER"),
            node.ingest,
            on_answer=statuses.append,
            on_refusal=lambda refused: reasons.append(refused.reason),
        )
    assert statuses == [0x0124, 0x0124, 0x0000]
    assert [reason.split()[5] for reason in reasons] == ["study", "series"]
    assert [(row["study_instance_uid"], row["series_instance_uid"]) for row in node.rows()] == [("1.2.3", "1.2.3.4")]
