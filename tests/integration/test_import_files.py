import errno
import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.api import Index, Ingest, OutOfResources, import_instances
from node.archive.filesystem import Archive
from node.receive.data_set import LARGE_BYTES
from node.receive.dicom_files import MediaFile, find_instances
from node.runtime.metrics import Metrics
from tests import make
from tests.ingest import opened_ingest
from tests.make import PYDICOM_FILES
from tests.rows import view_rows

SHIPPED = PYDICOM_FILES / "dicomdirtests"


@pytest.fixture
def ingest(tmp_path: Path) -> Iterator[Ingest]:
    root = tmp_path / "root"
    metrics = Metrics()
    archive = Archive(root)
    index = Index(root, metrics)
    with opened_ingest(archive, index, metrics, lambda title: 60.0, 1 << 30) as ingest:
        yield ingest
    index.close()


def stored(root: Path) -> dict[str, tuple[str, str]]:
    """SOP Instance UID to the digest that the index holds, and that of the bytes that lie in the archive."""
    rows = view_rows(root, "SELECT sop_instance_uid, sha256, path, data_set_offset FROM v_images")
    return {
        row["sop_instance_uid"]: (
            row["sha256"],
            hashlib.sha256(Path(row["path"]).read_bytes()[row["data_set_offset"] :]).hexdigest(),
        )
        for row in rows
    }


def digests(*paths: Path) -> dict[str, str]:
    files = [file for file in find_instances(paths) if isinstance(file, MediaFile)]
    return {file.identity.sop_instance_uid: hashlib.sha256(b"".join(file.data_set())).hexdigest() for file in files}


def test_a_folder_is_imported_byte_for_byte_and_what_is_not_dicom_is_named(ingest: Ingest, tmp_path: Path) -> None:
    seen: list[None] = []
    report = import_instances([SHIPPED], ingest, lambda: seen.append(None))
    assert (report.stored, report.refused, report.other_bytes) == (81, [], [])
    assert len(report.skipped) == 10
    assert len(seen) == report.files == 91
    assert stored(tmp_path / "root") == {uid: (digest, digest) for uid, digest in digests(SHIPPED).items()}


def test_an_import_may_be_run_again(ingest: Ingest) -> None:
    first = import_instances([SHIPPED / "77654033"], ingest)
    again = import_instances([SHIPPED / "77654033"], ingest)
    assert first.stored == again.already_there > 0
    assert (first.already_there, again.stored) == (0, 0)


def test_a_zip_file_gives_what_its_folder_gives(ingest: Ingest, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "medium.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((SHIPPED / "98892001").rglob("*")):
            archive.write(path, path.name)
    assert import_instances([tmp_path / "medium.zip"], ingest).refused == []
    assert stored(tmp_path / "root") == {uid: (digest, digest) for uid, digest in digests(SHIPPED / "98892001").items()}
    assert import_instances([SHIPPED / "98892001"], ingest).stored == 0


def test_a_refused_file_is_named_and_the_others_are_taken(ingest: Ingest, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    make.instance().save_as(folder / "whole.dcm", enforce_file_format=True)
    broken = make.instance()
    del broken.StudyInstanceUID
    broken.save_as(folder / "broken.dcm", enforce_file_format=True)
    report = import_instances([folder], ingest)
    assert report.stored == 1
    ((name, reason),) = [(Path(file.name).name, file.reason) for file in report.refused]
    assert name == "broken.dcm"
    assert reason


def test_other_bytes_under_a_known_uid_are_named(ingest: Ingest, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    ds = make.instance()
    ds.save_as(folder / "1.dcm", enforce_file_format=True)
    assert import_instances([folder], ingest).stored == 1
    ds.SeriesDescription = "changed"
    ds.save_as(folder / "1.dcm", enforce_file_format=True)
    report = import_instances([folder], ingest)
    assert [Path(name).name for name in report.other_bytes] == ["1.dcm"]


def test_a_full_disk_stops_the_import_and_leaves_no_part_files(ingest: Ingest, tmp_path: Path) -> None:
    ingest.close()  # as a node that stops, or a disk at its reserve: no instance is taken any more
    with pytest.raises(OutOfResources):
        import_instances([SHIPPED], ingest)
    assert list((tmp_path / "root" / "incoming").glob("*.*")) == []


def test_a_large_file_that_cannot_be_read_to_its_end_leaves_no_part_file(
    ingest: Ingest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def data_set(self: MediaFile) -> Iterator[bytes]:
        yield bytes(LARGE_BYTES + 1)
        raise OSError(errno.EIO, "Input/output error")

    make.instance().save_as(tmp_path / "large.dcm", enforce_file_format=True)
    monkeypatch.setattr(MediaFile, "data_set", data_set)
    report = import_instances([tmp_path / "large.dcm"], ingest)
    assert (report.stored, len(report.refused)) == (0, 1)
    assert list((tmp_path / "root" / "incoming").glob("*.*")) == []


@pytest.mark.slow
def test_a_member_that_unpacks_without_end_is_stopped(ingest: Ingest, tmp_path: Path) -> None:
    ds = make.instance()
    ds.add_new(0x00091001, "OB", bytes(50_000_000))
    ds.save_as(tmp_path / "big.dcm", enforce_file_format=True)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "big.dcm")
    assert (tmp_path / "bomb.zip").stat().st_size < 200_000
    ingest.maximum_bytes = 1_000_000
    with pytest.raises(OutOfResources, match="1000000 bytes"):
        import_instances([tmp_path / "bomb.zip"], ingest)
    assert list((tmp_path / "root" / "incoming").glob("*.*")) == []
