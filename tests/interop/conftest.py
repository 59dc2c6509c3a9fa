"""A node as its users run it, and peers that others have made: DCMTK, Orthanc, dcmjs-dimse."""

import json
import os
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import FileDataset
from pydicom.uid import generate_uid

from node.association.client.send import send_files
from tests.acceptance.served import Served
from tests.make import ct_series, mr_series, saved
from tests.programs import needs
from tests.waiting import until

NODE_MODULES = Path(os.environ.get("VOXELNODE_NODE_MODULES", Path(__file__).parent / "node_modules"))
"""Where `npm ci --prefix tests/interop` puts what package-lock.json names, or another such folder."""

STUDY = generate_uid()


def run(*command: str, ok: bool = True, folder: Path | None = None, **environment: str) -> str:
    """Run a program in a folder; returns what it says."""
    done = subprocess.run(
        command, env=os.environ | environment, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    reported = done.stdout + done.stderr
    assert (done.returncode == 0) is ok, reported
    return reported


def is_answered(port: int) -> bool:
    """Whether something listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextmanager
def served(folder: Path, peers: dict[str, dict[str, Any]]) -> Iterator[Served]:
    """A node with these peers, and one called SENDER."""
    config = folder / "voxelnode.toml"
    tables = {"sender": {"ae_title": "SENDER"}, **peers}
    config.write_text(
        "\n".join(
            f"[peers.{name}]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
            for name, table in tables.items()
        )
    )
    environment = {
        "VOXELNODE_CONFIG": str(config),
        "VOXELNODE_DICOM__HOST": "127.0.0.1",
        "VOXELNODE_WEB__ENABLED": "false",
    }
    with Served(folder / "root", **environment) as node:
        yield node


@pytest.fixture(scope="module")
def study() -> list[FileDataset]:
    """A study of two series."""
    shared = {"study_uid": STUDY, "PatientID": "P-1", "PatientName": "Doe^Jane"}
    return [*ct_series(4, **shared), *mr_series(3, **shared)]


def stored(node: Served, instances: list[FileDataset], folder: Path) -> None:
    """Send instances to a node."""
    send_files(saved(instances, folder), node.address, "SENDER")


@dataclass
class Orthanc:
    """A running Orthanc, spoken to over its REST interface."""

    http_port: int
    dicom_port: int

    def ask(self, path: str, data: Any = None, *, raw: bytes | None = None, method: str | None = None) -> Any:
        """GET, or POST of `data`; the answer's JSON."""
        body = raw if raw is not None else None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", body, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = response.read()
        return json.loads(answer) if answer.strip()[:1] in (b"{", b"[", b'"') else answer

    def instances(self) -> set[str]:
        """SOP Instance UIDs of what it has."""
        return {self.ask(f"/instances/{one}")["MainDicomTags"]["SOPInstanceUID"] for one in self.ask("/instances")}

    def clear(self) -> None:
        """Delete everything."""
        for patient in self.ask("/patients"):
            self.ask(f"/patients/{patient}", method="DELETE")


@contextmanager
def orthanc_beside(folder: Path, http_port: int, dicom_port: int, node_port: int) -> Iterator[Orthanc]:
    """Orthanc, with the node as its modality."""
    program = needs("Orthanc", "orthanc")
    config = folder / "orthanc.json"
    settings = {
        "Name": "interop",
        "StorageDirectory": str(folder / "orthanc"),
        "IndexDirectory": str(folder / "orthanc"),
        "HttpPort": http_port,
        "DicomPort": dicom_port,
        "DicomAet": "ORTHANC",
        "AuthenticationEnabled": False,
        "RemoteAccessAllowed": False,
        "DicomModalities": {"voxelnode": ["VOXELNODE", "127.0.0.1", node_port]},
        "Plugins": [],
    }
    config.write_text(json.dumps(settings))
    (folder / "orthanc").mkdir()
    with (
        (folder / "orthanc.log").open("w") as log,
        subprocess.Popen([program, str(config)], stdout=log, stderr=log) as process,
    ):
        try:
            until(lambda: process.poll() is not None or (is_answered(http_port) and is_answered(dicom_port)), 60)
            assert process.poll() is None, Path(log.name).read_text()
            yield Orthanc(http_port, dicom_port)
        finally:
            process.terminate()
