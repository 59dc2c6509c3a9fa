"""examples/pynetdicom_program.py: pynetdicom accepts, a node keeps what comes, and both are killed."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import CTImageStorage, Verification
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as FIND
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as GET
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as MOVE

import node
from node.receive.readiness import read_counters, running
from node.runtime.failpoints import RECEIVING
from tests import make
from tests.crash.harness import Node, Run, beside_random_moments, gone
from tests.preloaded import Process
from tests.waiting import until

pytestmark = pytest.mark.slow


PROGRAM = Path(__file__).parents[2] / "examples" / "pynetdicom_program.py"
START_SECONDS = 60.0


class Program(Node):
    """The program instead of `voxelnode serve`: pynetdicom answers a release, then tells of it."""

    releases_after_answer = True

    def start(self, environment: Mapping[str, str] | None = None) -> bool:
        """Start it; False when it dies before it listens."""
        with socket.create_server((self.host, 0)) as probe:
            self.port = probe.getsockname()[1]
        (temporary := self.root.parent / "temporary").mkdir(exist_ok=True)
        with self.log.open("a") as log:
            self._process = process = self._begin(
                {**self._environment, **(environment or {}), "TMPDIR": str(temporary)}, log
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and not gone(process.pid, 0):
            try:
                socket.create_connection((self.host, self.port), 1).close()
                return True
            except OSError:
                time.sleep(0.05)
        self.end()
        return False

    def _begin(self, environment: Mapping[str, str], log: IO[str]) -> Any:
        arguments = [sys.executable, str(PROGRAM), str(self.root), str(self.port), "--create"]
        process = subprocess.Popen(
            arguments,
            env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[1]), **environment},
            cwd=self.root.parent,
            stdout=log,
            stderr=log,
            text=True,
        )
        process.stdout = io.StringIO()  # which nobody has to read
        return process


class Forked(Program):
    """The same, without its imports."""

    def _begin(self, environment: Mapping[str, str], log: IO[str]) -> Any:
        return Process([str(self.root), str(self.port), "--create"], environment, log, program=PROGRAM.read_text())


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("times", [4, pytest.param(10, marks=pytest.mark.long)])
def test_a_program_killed_again_and_again_loses_nothing_that_it_acknowledged(tmp_path: Path, times: int) -> None:
    result = Run(tmp_path, senders=2, slices=4, moments=tuple(beside_random_moments(RECEIVING)), node=Forked).run(times)
    assert result.problems == []
    assert result.cycles == times
    assert result.acknowledged > 2 * times
    assert result.died_at.keys() & set(RECEIVING), "no named step was reached"


@pytest.fixture
def destination() -> Iterator[tuple[int, list[Dataset]]]:
    """The port of a peer to which instances are moved, and what it received."""
    received: list[Dataset] = []
    server = AE("ELSEWHERE")
    server.supported_contexts = [build_context(CTImageStorage)]

    def keep(event: evt.Event) -> int:
        received.append(event.dataset)
        return 0x0000

    listening = server.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    yield listening.server_address[1], received
    listening.shutdown()


@pytest.fixture
def program(tmp_path: Path, destination: tuple[int, list[Dataset]]) -> Iterator[Program]:
    (configuration := tmp_path / "voxelnode.toml").write_text(
        f"""
        [series]
        quiet_seconds = 3600
        [peers.peer]
        ae_title = "PEER"
        [peers.elsewhere]
        ae_title = "ELSEWHERE"
        host = "127.0.0.1"
        port = {destination[0]}
        """
    )
    with Forked(tmp_path / "root", environment={"VOXELNODE_CONFIG": str(configuration)}) as program:
        assert program.start(), program.log.read_text()
        yield program


def answered(responses: Iterator[tuple[Dataset, Dataset | None]]) -> list[tuple[int, Dataset | None]]:
    return [(status.Status, identifier) for status, identifier in responses]


def associate(program: Program, title: str, received: list[Dataset]) -> Association:
    def keep(event: evt.Event) -> int:
        received.append(event.dataset)
        return 0x0000

    assoc = AE(title).associate(
        program.host,
        program.port,
        contexts=[build_context(CTImageStorage), *map(build_context, (Verification, FIND, MOVE, GET))],
        ext_neg=[build_role(CTImageStorage, scu_role=True, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, keep)],
    )
    assert assoc.is_established
    return assoc


def test_the_program_stores_finds_and_gives_back(program: Program, destination: tuple[int, list[Dataset]]) -> None:
    series = make.ct_series(3)
    uids = {ds.SOPInstanceUID for ds in series}
    got: list[Dataset] = []
    assoc = associate(program, "PEER", got)
    assert assoc.send_c_echo().Status == 0x0000
    assert [assoc.send_c_store(ds).Status for ds in series] == [0x0000] * 3
    [broken] = make.ct_series(1)
    del broken.SeriesInstanceUID
    refused = assoc.send_c_store(broken)
    assert (refused.Status, "Series Instance UID" in refused.ErrorComment) == (0xC000, True)

    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID, query.PatientID = "STUDY", series[0].StudyInstanceUID, ""
    found = answered(assoc.send_c_find(query, FIND))
    assert [(status, ds and ds.PatientID) for status, ds in found] == [(0xFF00, series[0].PatientID), (0x0000, None)]
    assert answered(assoc.send_c_get(query, GET))[-1][0] == 0x0000
    assert {ds.SOPInstanceUID for ds in got} == uids
    assert answered(assoc.send_c_move(query, "ELSEWHERE", MOVE))[-1][0] == 0x0000
    assert {ds.SOPInstanceUID for ds in destination[1]} == uids
    assert [ds.PixelData for ds in sorted(got, key=lambda ds: ds.InstanceNumber)] == [ds.PixelData for ds in series]

    assert [status for status, _ in answered(assoc.send_c_move(query, "NOWHERE", MOVE))] == [0xA801]
    query.QueryRetrieveLevel = "NONE"
    assert [status for status, _ in answered(assoc.send_c_find(query, FIND))] == [0xA900]
    assert [status for status, _ in answered(assoc.send_c_get(query, GET))] == [0xA900]
    assoc.release()


def test_the_program_converts_what_it_receives(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with Program(root) as program:
        assert program.start(), program.log.read_text()
        assoc = associate(program, "PEER", [])
        assert [assoc.send_c_store(ds).Status for ds in make.ct_series(3)] == [0x0000] * 3
        assoc.release()
        until(lambda: [series.verdict for series in node.open(root).series()] == ["complete"], 120, "a volume")
        [volume] = [volume for series in node.open(root).series() for volume in series.volumes()]
        got = f"volume {volume.path} {list(volume.row['shape'])} {volume.row['series_instance_uid']}"
        until(lambda: got in program.log.read_text(), 60, "the volume in the program")
        assert running(read_counters(root))["port"] is None, "only the program knows where it listens"
        assert program.end(signal.SIGINT) == 0
    [series] = node.open(root).series()
    assert [volume.array().shape[2] for volume in series.volumes()] == [3]
    assert "Traceback" not in program.log.read_text()


def test_a_stranger_may_do_nothing(program: Program) -> None:
    [ds] = make.ct_series(1)
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", ds.StudyInstanceUID
    assoc = associate(program, "STRANGER", [])
    assert assoc.send_c_echo().Status == 0x0122
    assert assoc.send_c_store(ds).Status == 0x0124
    assert [status for status, _ in answered(assoc.send_c_find(query, FIND))] == [0x0124]
    assert [status for status, _ in answered(assoc.send_c_get(query, GET))] == [0x0124]
    assert [status for status, _ in answered(assoc.send_c_move(query, "ELSEWHERE", MOVE))] == [0xA801]
    assoc.release()
    assert program.end(signal.SIGTERM) == 0
