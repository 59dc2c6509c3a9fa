"""Instances that are made to fill the memory of whoever reads them: the node itself stays small."""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from pydicom import dcmwrite
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate

from node.api import import_instances
from node.control.repository import Repository
from tests import make
from tests.acceptance.served import Served, peak_bytes
from tests.ingest import settings_of

MEGABYTE = 1_000_000
LARGE_BYTES = 200 * MEGABYTE
GROWTH_BYTES = 150 * MEGABYTE
"""Less than any one of the values here."""


def private_element() -> FileDataset:
    """A large private element."""
    ds = make.ct_series(1, study_uid="1.2.1", series_uid="1.2.1.1")[0]
    ds.private_block(0x0029, "HOSTILE", create=True).add_new(0x10, "OB", bytes(LARGE_BYTES))
    return ds


def compressed_with_private_element() -> FileDataset:
    """The same before compressed pixels."""
    ds = private_element()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = "1.2.2", "1.2.2.1", "1.2.2.1.1"
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.5"
    ds.PixelData = encapsulate([bytes(1000)])
    ds["PixelData"].is_undefined_length = True
    return ds


def bits() -> FileDataset:
    """A frame of single bits, of odd size, so that the second one begins within a byte."""
    ds = make.ct_series(1, study_uid="1.2.3", series_uid="1.2.3.1")[0]
    ds.Rows, ds.Columns, ds.NumberOfFrames = 29_999, 29_999, 2
    ds.BitsAllocated = ds.BitsStored = 1
    ds.HighBit = ds.PixelRepresentation = 0
    ds.PixelData = np.full(-(-(29_999**2) * 2 // 16) * 2, 0xA5, np.uint8).tobytes()
    return ds


def document() -> FileDataset:
    """A large encapsulated PDF."""
    ds = make.ct_series(1, study_uid="1.2.4", series_uid="1.2.4.1")[0]
    for keyword in ("PixelData", "Rows", "Columns"):
        del ds[keyword]
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.104.1"
    ds.EncapsulatedDocument = b"%PDF-1.7" + bytes(LARGE_BYTES)
    ds.EncapsulatedDocumentLength = LARGE_BYTES + 8
    return ds


def items() -> FileDataset:
    """A sequence of a million empty items: eight bytes each, and a hundred times as much as objects."""
    ds = make.ct_series(1, study_uid="1.2.5", series_uid="1.2.5.1")[0]
    ds.add_new(0x00081111, "UN", struct.pack("<HHL", 0xFFFE, 0xE000, 0) * MEGABYTE)
    return ds


def frames() -> FileDataset:
    """One large compressed frame, which nobody can decode."""
    ds = make.ct_series(1, study_uid="1.2.6", series_uid="1.2.6.1")[0]
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    ds.PixelData = encapsulate([bytes(LARGE_BYTES)])
    ds["PixelData"].is_undefined_length = True
    return ds


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "media").mkdir()
    hostile = (private_element, compressed_with_private_element, bits, document, items, frames)
    for number, make_one in enumerate(hostile, start=1):
        ds = make_one()
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number}.1.1"
        dcmwrite(folder / "media" / f"{number}.dcm", ds, enforce_file_format=True)
        del ds
    store = Repository(settings_of(folder / "root"))
    report = import_instances([folder / "media"], store.ingest)
    assert (report.stored, len(report.refused)) == (len(hostile) - 1, 1)
    assert "more than 200000 elements" in report.refused[0].reason
    store.close()
    with Served(folder / "root", VOXELNODE_STORAGE__RESERVE_BYTES="0",
                VOXELNODE_SERIES__QUIET_SECONDS="600") as node:  # fmt: skip
        yield node, re.findall(r"http://\S+\d", node.process.stdout.readline())[0]


MULTIPART = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'


def read(url: str, accept: str) -> tuple[int, int, bytes]:
    """Status, length and beginning of an answer, of which nothing else is held."""
    try:
        with urlopen(Request(url, headers={"Accept": accept}), timeout=100) as answer:
            beginning = answer.read(200)
            length = len(beginning)
            while piece := answer.read(MEGABYTE):
                length += len(piece)
            return answer.status, length, beginning
    except HTTPError as error:
        return error.code, 0, error.read(500)


@pytest.mark.sample(0, 2)
@pytest.mark.parametrize(
    ("study", "path", "accept", "status", "length"),
    [
        (1, "/metadata", "application/dicom+json", 200, 0),
        (1, "/bulkdata/00291010", "application/octet-stream", 200, LARGE_BYTES),
        pytest.param(1, "/frames/1", MULTIPART, 200, 0, marks=pytest.mark.long),
        pytest.param(2, "/metadata", "application/dicom+json", 200, 0, marks=pytest.mark.long),
        pytest.param(2, "/frames/1", MULTIPART, 200, 1000, marks=pytest.mark.long),
        pytest.param(3, "/metadata", "application/dicom+json", 200, 0, marks=pytest.mark.long),
        (3, "/frames/2", MULTIPART, 200, -(-(29_999**2) // 8)),
        (4, "/metadata", "application/dicom+json", 200, 0),
        (4, "/rendered", "application/pdf", 200, LARGE_BYTES + 8),
        pytest.param(4, "/bulkdata/00420011", "application/octet-stream", 200, LARGE_BYTES + 8, marks=pytest.mark.long),
        pytest.param(6, "/metadata", "application/dicom+json", 200, 0, marks=pytest.mark.long),
        (6, "/frames/1", MULTIPART, 200, LARGE_BYTES),
        (6, "/rendered", "image/jpeg", 406, 0),
    ],
)
def test_the_node_stays_small(
    served: tuple[Served, str], study: int, path: str, accept: str, status: int, length: int
) -> None:
    node, url = served
    Path(f"/proc/{node.process.pid}/clear_refs").write_text("5")  # VmHWM begins anew
    before = peak_bytes(node.process.pid)
    instance = f"{url}/dicom-web/studies/1.2.{study}/series/1.2.{study}.1/instances/1.2.{study}.1.1"
    answered, size, beginning = read(instance + path, accept)
    assert answered == status, beginning
    assert size >= length
    if path == "/metadata":
        assert b'"00080018"' in beginning
    assert peak_bytes(node.process.pid) - before < GROWTH_BYTES
