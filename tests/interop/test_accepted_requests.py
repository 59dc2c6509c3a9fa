"""What `tests/protocol` says that DCMTK and Orthanc accept: they are asked."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.conftest import is_answered, orthanc_beside, run, until
from tests.make import ct_series
from tests.programs import free_port, needs
from tests.protocol.conftest import Raw, data_set_bytes
from tests.protocol.test_requests import ACCEPTED, request, results
from tests.protocol.test_unknown_vrs import VRS, with_element

pytestmark = [pytest.mark.peer, pytest.mark.slow]


@dataclass
class Peer:
    port: int
    folder: Path
    host: str = "127.0.0.1"


@pytest.fixture(scope="module", params=["storescp", "Orthanc"])
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    folder, port = tmp_path_factory.mktemp("peer"), free_port()
    if request.param == "Orthanc":
        with orthanc_beside(folder, free_port(), port, 1):
            yield Peer(port, folder)
        return
    command = [needs("storescp", "dcmtk"), "--output-directory", str(folder), str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: is_answered(port), 60)
            yield Peer(port, folder)
        finally:
            process.terminate()


@pytest.mark.parametrize("sent", ACCEPTED.values(), ids=ACCEPTED)
def test_other_receivers_accept_what_the_node_accepts(peer: Peer, sent: bytes) -> None:
    with Raw(peer) as asking:
        asking.send(sent)
        answer = asking.receive()
        assert (answer[0], results(answer[1])) == (2, {1: 0, 3: 0})


@pytest.mark.parametrize(("vr", "length_bytes"), VRS)
def test_other_receivers_keep_a_private_element_of_unknown_vr(peer: Peer, vr: bytes, length_bytes: int) -> None:
    [ds] = ct_series(1)
    with Raw(peer).associate(request()) as asking:
        assert asking.store(ds.SOPInstanceUID, with_element(data_set_bytes(ds), vr, length_bytes)) == 0
    for kept in peer.folder.glob(f"*{ds.SOPInstanceUID}"):
        assert "(0009,1001) UN 61\\62\\63\\64" in run(needs("dcmdump"), str(kept))
