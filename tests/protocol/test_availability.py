"""Instance Availability Notification to a peer, through the ledger of hooks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_context, evt

from node.audit.audit_log import Audit
from node.dicom.uids import INSTANCE_AVAILABILITY_NOTIFICATION
from node.extensions.results.intake import ResultIntake
from node.notify.channel import NotDelivered, hook_channel
from node.notify.notifier import Notifier
from node.settings.model import HookSettings, Peer, Settings
from tests import make
from tests.messages import sample
from tests.protocol.conftest import CT_IMAGE_STORAGE, Running, associate, until
from tests.protocol.test_performed_steps import STEP, Modality


@dataclass
class Pacs:
    """A peer that takes notifications."""

    port: int = 0
    answers: list[int] = field(default_factory=list)  # the next ones; then success
    taken: list[tuple[str, Dataset]] = field(default_factory=list)

    def take(self, event: Any) -> tuple[int, None]:
        status = self.answers.pop(0) if self.answers else 0x0000
        self.taken.append((str(event.request.AffectedSOPInstanceUID), event.attribute_list))
        return status, None


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    peer, ae = Pacs(), AE("PACS")
    ae.add_supported_context(INSTANCE_AVAILABILITY_NOTIFICATION)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_CREATE, peer.take)])
    peer.port = server.server_address[1]
    yield peer
    server.shutdown()


@pytest.fixture
def settings(pacs: Pacs) -> Settings:
    return Settings(
        peers={"pacs": Peer(ae_title="PACS", host="127.0.0.1", port=pacs.port)},
        hooks={"ian": HookSettings(on=("series-quiet",), peer="pacs")},
    )


@pytest.fixture
def notified(node: Running, settings: Settings, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Let a series of a node become quiet, whose hook notifies the peer."""
    index = node.ingest.index
    results = ResultIntake(index, node.ingest, node.metrics)
    audit = Audit(tmp_path, "VOXELNODE")
    notifier = Notifier(settings, index, node.metrics, audit, results)
    notifier.start()

    def quiet(*instances: Dataset) -> None:
        assoc = associate(node, build_context(CT_IMAGE_STORAGE, ExplicitVRLittleEndian))
        for ds in instances:
            assert assoc.send_c_store(ds).Status == 0
        assoc.release()
        node.ingest.applier.catch_up()
        assert index.series.claim_due(dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)) is not None

    yield quiet
    notifier.stop(5)


def deliveries(node: Running) -> list[dict[str, Any]]:
    with node.ingest.index.reading() as index:
        return index.hooks.deliveries(10)


@pytest.mark.slow
def test_a_peer_is_notified_of_every_instance_of_a_quiet_series(
    node: Running, pacs: Pacs, notified: Callable[..., None]
) -> None:
    images = make.ct_series(3, study_uid="1.2.3", series_uid="1.2.3.1")
    with Modality(node) as modality:
        modality.perform("1.2.3", "COMPLETED", *images)
    notified(*images)
    assert until(lambda: bool(pacs.taken))
    [(uid, ds)] = pacs.taken
    assert uid.startswith("2.25.")
    assert ds.StudyInstanceUID == "1.2.3"
    [series] = ds.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == "1.2.3.1"
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence} == {
        ds.SOPInstanceUID for ds in images
    }
    [first, *_] = series.ReferencedSOPSequence
    assert (first.InstanceAvailability, first.RetrieveAETitle) == ("ONLINE", "VOXELNODE")
    assert first.ReferencedSOPClassUID == CT_IMAGE_STORAGE
    [step] = ds.ReferencedPerformedProcedureStepSequence
    assert step.ReferencedSOPInstanceUID == STEP
    assert until(lambda: [row["state"] for row in deliveries(node)] == ["delivered"])


@pytest.mark.slow
def test_a_refusal_is_tried_again_with_the_same_uid(node: Running, pacs: Pacs, notified: Callable[..., None]) -> None:
    pacs.answers = [0x0110, 0x0111]
    notified(*make.ct_series(1))
    assert until(lambda: [row["state"] for row in deliveries(node)] == ["waiting"])
    assert "0x0110" in deliveries(node)[0]["reason"]
    node.ingest.index.deliveries.retry("ian", None, dt.datetime.now(dt.UTC))
    assert until(lambda: [row["state"] for row in deliveries(node)] == ["delivered"])  # the peer has it: 0x0111
    assert pacs.taken[0][0] == pacs.taken[1][0]


def test_a_test_message_only_negotiates(settings: Settings, pacs: Pacs) -> None:
    import threading

    channel = hook_channel(settings, "ian")
    channel.deliver(sample("series-quiet", "VOXELNODE", dt.datetime.now(dt.UTC)), threading.Event())
    assert pacs.taken == []
    deaf = settings.model_copy(update={"peers": {"pacs": Peer(ae_title="PACS", host="127.0.0.1", port=1)}})
    with pytest.raises(NotDelivered, match="does not answer"):
        hook_channel(deaf, "ian").deliver(sample("series-quiet", "X", dt.datetime.now(dt.UTC)), threading.Event())


@pytest.mark.parametrize(
    "hook",
    [
        {"on": ["series-quiet"], "peer": "nobody"},
        {"on": ["series-quiet"], "peer": "silent"},
        {"on": ["instance-stored"], "peer": "pacs"},
        {"on": ["study-quiet"], "peer": "pacs", "include_patient": True},
        {"on": ["study-quiet"], "peer": "pacs", "plugin": "x"},
    ],
)  # fmt: skip
def test_a_hook_that_cannot_notify_is_refused(hook: dict[str, Any]) -> None:
    peers = {"pacs": {"ae_title": "PACS", "host": "127.0.0.1"}, "silent": {"ae_title": "S"}}
    with pytest.raises(ValueError, match="peer"):
        Settings.model_validate({"peers": peers, "hooks": {"ian": hook}})
