"""Notifications of performed procedure steps: a peer hears of each change, in order, and none is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from pynetdicom import AE, evt

from node.dicom.uids import PERFORMED_PROCEDURE_STEP_NOTIFICATION
from node.errors import UsageError
from node.extensions.worklist import PERFORMED_PROCEDURE_STEP_RETRIEVE
from node.extensions.worklist.notifications import notified_peers
from node.extensions.worklist.settings import WorklistSettings
from node.settings.model import Dicom, Peer, Settings
from tests import make
from tests.make import dataset
from tests.protocol.conftest import Running, until
from tests.protocol.test_performed_steps import STEP, Modality, begun, over


@dataclass
class Ris:
    """A peer that is told; it answers `answers` first, then success."""

    port: int = 0
    answers: list[int] = field(default_factory=list)
    told: list[tuple[str, int]] = field(default_factory=list)

    def hear(self, event: Any) -> tuple[int, None]:
        """Take a notification (``evt.EVT_N_EVENT_REPORT``)."""
        assert event.request.AffectedSOPClassUID == PERFORMED_PROCEDURE_STEP_NOTIFICATION
        self.told.append((str(event.request.AffectedSOPInstanceUID), event.event_type))
        return self.answers.pop(0) if self.answers else 0x0000, None

    @property
    def settings(self) -> Settings:
        peers = {"ris": Peer(ae_title="RIS", host="127.0.0.1", port=self.port), "deaf": Peer(ae_title="DEAF")}
        return Settings(peers=peers, dicom=Dicom(response_seconds=10))


@pytest.fixture
def ris() -> Iterator[Ris]:
    """A RIS that listens."""
    found, ae = Ris(), AE("RIS")
    ae.add_supported_context(PERFORMED_PROCEDURE_STEP_NOTIFICATION, scu_role=True, scp_role=True)
    handlers: Any = [(evt.EVT_N_EVENT_REPORT, found.hear)]
    server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    found.port = int(server.server_address[1])
    yield found
    server.shutdown()


def test_a_peer_is_told_of_every_change_and_reads_the_step(start_node: Callable[..., Running], ris: Ris) -> None:
    node = start_node(
        peers={**ris.settings.peers, "ct": Peer(ae_title="GOOD")}, worklist=WorklistSettings(notify=("ris",))
    )
    with Modality(node) as modality:
        assert modality.create(begun()).Status == 0
        assert modality.set(dataset(CommentsOnThePerformedProcedureStep="half way")).Status == 0
        assert modality.set(over("COMPLETED", *make.ct_series(1))).Status == 0
        refused = modality.set(over("DISCONTINUED"))
        assert refused.Status == 0x0110  # nobody is told of what did not happen
    assert until(lambda: len(ris.told) == 3)
    assert ris.told == [(STEP, 1), (STEP, 4), (STEP, 2)]
    ae = AE("RIS")
    ae.add_requested_context(PERFORMED_PROCEDURE_STEP_RETRIEVE)
    assoc = ae.associate(node.host, node.port)
    status, step = assoc.send_n_get([], PERFORMED_PROCEDURE_STEP_RETRIEVE, STEP)
    assoc.release()
    assert (status.Status, step.PerformedProcedureStepStatus) == (0, "COMPLETED")


@pytest.mark.parametrize(("name", "reason"), [("nobody", r"no \[peers.nobody\]"), ("deaf", "has no host")])
def test_a_peer_that_cannot_be_told_is_refused_at_the_start(name: str, reason: str, ris: Ris) -> None:
    with pytest.raises(UsageError, match=reason):
        notified_peers(ris.settings, (name,))
