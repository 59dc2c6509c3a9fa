import gzip
import os
import shutil
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import pydicom
import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from node.receive.dicom_files import CUT_OFF_ZIP, HEAD_BYTES, MediaFile, NotDicom, SkippedFile, find_instances, identify
from tests import make
from tests.make import PYDICOM_FILES


def dicom_bytes(**attributes: object) -> bytes:
    return make.as_file(make.instance(**attributes))


def instances(*paths: Path) -> list[MediaFile]:
    return [file for file in find_instances(paths) if isinstance(file, MediaFile)]


def left_out(*paths: Path) -> dict[str, str]:
    return {Path(file.name).name: file.reason for file in find_instances(paths) if isinstance(file, SkippedFile)}


@pytest.mark.parametrize(
    ("name", "transfer_syntax_uid"),
    [
        ("MR_small.dcm", ExplicitVRLittleEndian),
        ("MR_small_implicit.dcm", ImplicitVRLittleEndian),
        ("MR_small_bigendian.dcm", ExplicitVRBigEndian),
        ("MR_small_RLE.dcm", RLELossless),
        ("no_meta_group_length.dcm", ImplicitVRLittleEndian),
        ("ExplVR_BigEndNoMeta.dcm", ExplicitVRBigEndian),
        ("ExplVR_LitEndNoMeta.dcm", ExplicitVRLittleEndian),
        ("rtstruct.dcm", ImplicitVRLittleEndian),  # neither preamble nor meta information
    ],
)
def test_a_file_is_identified_in_every_encoding(name: str, transfer_syntax_uid: str) -> None:
    (file,) = instances(PYDICOM_FILES / name)
    assert file.identity.transfer_syntax_uid == transfer_syntax_uid
    ds = dcmread(PYDICOM_FILES / name, force=True, stop_before_pixels=True)
    meta_uid = getattr(ds.file_meta, "MediaStorageSOPInstanceUID", None)
    assert file.identity.sop_instance_uid == ds.get("SOPInstanceUID", meta_uid)
    assert file.identity.series_instance_uid == ds.get("SeriesInstanceUID", "")


def test_the_bytes_of_the_data_set_are_those_behind_the_meta_information() -> None:
    (file,) = instances(PYDICOM_FILES / "CT_small.dcm")
    whole = (PYDICOM_FILES / "CT_small.dcm").read_bytes()
    assert b"".join(file.data_set()) == whole[file.identity.data_set_offset :]
    assert whole[file.identity.data_set_offset :][:2] == b"\x08\x00"


def test_what_is_not_dicom_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "only_prefix.dcm").write_bytes(b"\x00" * 128 + b"DICM")
    (tmp_path / "not.zip").write_bytes(b"PK\x03\x04 but no archive")
    (tmp_path / "slice.dcm.gz").write_bytes(gzip.compress((PYDICOM_FILES / "CT_small.dcm").read_bytes()))
    (tmp_path / "volume.nii.gz").write_bytes(gzip.compress(struct.pack("<i", 348) + bytes(344)))
    (tmp_path / "half.gz").write_bytes(b"\x1f\x8b and then nothing of it")
    for name, mode in (("slices.tar", "w"), ("slices.tar.gz", "w:gz"), ("slices.tar.xz", "w:xz")):
        with tarfile.open(tmp_path / name, mode) as archive:
            archive.add(PYDICOM_FILES / "CT_small.dcm", "CT_small.dcm")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert left_out(tmp_path) == {
        "text.txt": "not a DICOM file",
        "empty.dcm": "empty",
        "only_prefix.dcm": "a DICOM file without readable class and instance UIDs",
        "not.zip": CUT_OFF_ZIP,
        "slice.dcm.gz": "compressed with gzip: unpack it first",
        "volume.nii.gz": "not a DICOM file",
        "half.gz": "not a DICOM file",
        "slices.tar": "a tar archive: unpack it first",
        "slices.tar.gz": "compressed with gzip: unpack it first",
        "slices.tar.xz": "compressed with xz: unpack it first",
        "pipe": "neither a file nor a folder",
        "dangling": "cannot be read: No such file or directory",
    }


@pytest.mark.parametrize("transfer_syntax_uid", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_data_set_older_than_dicom_is_called_by_its_name(tmp_path: Path, transfer_syntax_uid: str) -> None:
    ds = make.instance(RecognitionCode="ACR-NEMA 2.0")
    del ds.SOPClassUID, ds.SOPInstanceUID
    implicit = transfer_syntax_uid == ImplicitVRLittleEndian
    pydicom.dcmwrite(tmp_path / "old.ima", pydicom.Dataset(ds), implicit_vr=implicit, little_endian=True)
    [reason] = left_out(tmp_path).values()
    assert reason.startswith("an ACR-NEMA data set, older than DICOM: it names neither class nor instance")


def test_links_that_lead_in_circles_are_followed_once_and_second_names_of_a_file_are_skipped(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "one.dcm").write_bytes(dicom_bytes())
    (folder / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(folder)
    (tmp_path / "same.dcm").symlink_to(folder / "one.dcm")
    os.link(folder / "one.dcm", tmp_path / "hard.dcm")
    assert len(instances(tmp_path, tmp_path / "a")) == 1
    again = "a second name of a file that was read"
    assert left_out(tmp_path) == {"same.dcm": again, "one.dcm": again}
    (tmp_path / "hard.dcm").unlink()
    (tmp_path / "same.dcm").unlink()
    assert left_out(tmp_path, folder / "one.dcm") == {}, "it is named twice, and has one name"


def test_a_folder_that_cannot_be_searched_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "image.dcm").write_bytes(dicom_bytes())
    found = find_instances([tmp_path])
    assert isinstance(next(found), MediaFile)
    shutil.rmtree(tmp_path / "b")
    [left_out] = found
    assert isinstance(left_out, SkippedFile)
    assert (Path(left_out.name), left_out.reason) == (tmp_path / "b", "cannot be read: No such file or directory")


def test_members_of_a_zip_file_are_read_where_they_lie(tmp_path: Path) -> None:
    data = dicom_bytes()
    with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../outside.dcm", data)
        archive.writestr("readme.txt", "hello")
        archive.writestr("inner.zip", b"PK\x03\x04")
        archive.mkdir("folder")
    (file,) = instances(tmp_path / "study.zip")
    assert file.path is None
    assert file.name.endswith("study.zip!../../outside.dcm")
    assert b"".join(file.data_set()) == data[file.identity.data_set_offset :]
    assert set(left_out(tmp_path / "study.zip").values()) == {"not a DICOM file", "a ZIP file: unpack it first"}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["study.zip"]


def test_members_of_a_zip_file_come_in_the_order_of_a_folder(tmp_path: Path) -> None:
    names = ["b.dcm", "a/2.dcm", "a.dcm", "a/b/0.dcm", "a/1.dcm"]
    for name in names:
        (tmp_path / "study" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "study" / name).write_bytes(dicom_bytes())
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for name in names:
            archive.write(tmp_path / "study" / name, name)
    packed = [file.name.rpartition("!")[2] for file in instances(tmp_path / "study.zip")]
    assert packed == [str(Path(file.name).relative_to(tmp_path / "study")) for file in instances(tmp_path / "study")]
    assert packed == ["a.dcm", "b.dcm", "a/1.dcm", "a/2.dcm", "a/b/0.dcm"]


def test_a_damaged_member_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("broken.dcm", dicom_bytes())
        archive.writestr("whole.dcm", dicom_bytes())
    data = bytearray(path.read_bytes())
    data[300] ^= 0xFF
    path.write_bytes(data)
    (file,) = instances(path)
    assert file.name.endswith("whole.dcm")
    (reason,) = left_out(path).values()
    assert reason.startswith("cannot be read from the zip file: Bad CRC-32")


def test_a_dicomdir_stands_for_the_files_that_it_lists() -> None:
    listed = instances(PYDICOM_FILES / "dicomdirtests" / "DICOMDIR")
    assert len(listed) == 31
    assert all("TINY_ALPHA" not in file.name for file in listed)


def test_a_dicomdir_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    secret = tmp_path / "secret.dcm"
    secret.write_bytes(dicom_bytes())
    medium = tmp_path / "medium"
    medium.mkdir()
    (medium / "link").symlink_to(tmp_path)
    (medium / "in.dcm").write_bytes(dicom_bytes())
    ds = dcmread(PYDICOM_FILES / "dicomdirtests" / "DICOMDIR")
    ways_out = (["..", "secret.dcm"], str(secret), ["link", "secret.dcm"], "in.dcm", "absent.dcm")
    records = list(ds.DirectoryRecordSequence)[: len(ways_out)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom tells that these are no valid file IDs
        for record, way in zip(records, ways_out, strict=True):
            record.ReferencedFileID = way
        ds.DirectoryRecordSequence = records
        ds.save_as(medium / "DICOMDIR")
    found = list(find_instances([medium / "DICOMDIR"]))
    assert [Path(file.name).name for file in found if isinstance(file, MediaFile)] == ["in.dcm"]
    reasons = [file.reason for file in found if isinstance(file, SkippedFile)]
    assert reasons == ["listed in the DICOMDIR, but not below its folder"] * 4


def test_the_series_is_found_behind_a_long_header(tmp_path: Path) -> None:
    ds = make.instance(series_uid="1.2.3")
    ds.add_new(0x00090010, "LO", "LONG")
    ds.add_new(0x00091001, "OB", bytes(2 * HEAD_BYTES))
    ds.save_as(tmp_path / "long.dcm", enforce_file_format=True)
    (file,) = instances(tmp_path)
    assert file.identity.series_instance_uid == "1.2.3"


def test_no_truncation_of_a_file_raises_anything_else() -> None:
    data = dicom_bytes()
    for end in range(len(data)):
        try:
            identify(data[:end])
        except NotDicom:
            continue
