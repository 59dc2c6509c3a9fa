"""A medium with a DICOMDIR, as DCMTK, dicom3tools, pydicom and the import read it."""

import re
import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.fileset import FileSet
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from node.api import Settings, import_instances
from node.archive.base import ArchivedFile
from node.extensions.media.export import write_medium
from node.extensions.media.medium import Written
from tests import dciodvfy, make
from tests.integration.conftest import Root
from tests.programs import needs

pytestmark = pytest.mark.slow


def written(root: Root, settings: Settings, folder: Path) -> Written:
    with root.index.reading() as index:
        instances = list(index.files.stored())
    return write_medium(folder, instances, settings, root.archive.local)


def test_a_medium_has_what_was_selected_as_others_read_it(root: Root, settings: Settings, tmp_path: Path) -> None:
    reported = {"PatientID": "P1", "PatientName": "Müller^Jörg", "SpecificCharacterSet": "ISO_IR 192", "StudyID": "7"}
    series = make.ct_series(2, study_uid="1.2.3", series_uid="1.2.3.1", **reported)
    series += make.ct_series(
        2,
        study_uid="1.2.3",
        series_uid="1.2.3.2",
        transfer_syntax_uid=ImplicitVRLittleEndian,
        SeriesNumber=None,
        **reported,
    )
    series += [make.structured_report(study_uid="1.2.4", series_uid="1.2.4.1", PatientID="P2")]
    compressed = make.ct_series(1, study_uid="1.2.4", series_uid="1.2.4.2", PatientID="P2")[0]
    compressed.compress(RLELossless)
    unplaced = make.instance(sop_class_uid="1.2.840.10008.5.1.4.39.1", study_uid="1.2.5", PatientID="P3")
    root.take_all([*series, compressed, unplaced])
    medium = tmp_path / "cd"
    done = written(root, settings, medium)
    assert (done.instances, done.studies, done.as_stored) == (6, 2, 0)
    assert list(done.left_out) == [unplaced.SOPInstanceUID]
    assert "no type of record" in done.left_out[unplaced.SOPInstanceUID]
    assert "SeriesNumber" in done.invented
    files = [path.relative_to(medium) for path in medium.rglob("*") if path.is_file()]
    names = {part for path in files if len(path.parts) > 1 for part in path.parts}
    assert all(re.fullmatch(r"[A-Z0-9_]{8}", name) for name in names)
    assert {str(path) for path in files if len(path.parts) == 1} == {"DICOMDIR", "README.TXT", "INDEX.HTM"}
    fileset = FileSet(medium / "DICOMDIR")
    found = {str(one.SOPInstanceUID): Path(one.path) for one in fileset}
    assert set(found) == {str(ds.SOPInstanceUID) for ds in [*series, compressed]}
    assert {dcmread(path).file_meta.TransferSyntaxUID for path in found.values()} == {ExplicitVRLittleEndian}
    assert str(fileset.find(SOPInstanceUID=series[0].SOPInstanceUID)[0].PatientName) == "Müller^Jörg"
    for ds in [*series[:2], series[2]]:
        assert dcmread(found[ds.SOPInstanceUID]).PixelData == ds.PixelData
    fileset._stage["t"].cleanup()
    report = import_instances([medium / "DICOMDIR"], root.ingest)  # reads what the DICOMDIR names
    assert (report.already_there + len(report.other_bytes), report.files) == (6, 6)


def test_a_mount_point_is_written_in_place_and_a_missing_file_is_left_out(
    root: Root, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = make.structured_report(study_uid="1.2.3", series_uid="1.2.3.1", PatientID="P1", StudyID="0")
    verified.VerificationFlag = "VERIFIED"
    verified.VerifyingObserverSequence = [
        make.dataset(VerificationDateTime=f"2026030{day}1112", VerifyingOrganization="W") for day in (4, 5)
    ]
    verified.ConceptNameCodeSequence = []
    lost = make.ct_series(1, study_uid="1.2.3", series_uid="1.2.3.3", PatientID="P1")[0]
    root.take_all([verified, lost])
    with root.index.reading() as index:
        instances = list(index.files.stored())

    def local(one: ArchivedFile) -> Path:
        if one.key == key_of_lost:
            raise FileNotFoundError
        return root.archive.local(one)

    key_of_lost = next(one.key for one in instances if one.sop_instance_uid == lost.SOPInstanceUID)
    medium = tmp_path / "stick"
    medium.mkdir()
    place = medium.stat().st_ino
    monkeypatch.setattr("os.path.ismount", lambda path: path == medium)
    done = write_medium(medium, instances, settings, local)
    assert done.left_out[str(lost.SOPInstanceUID)] == "its file is missing"
    assert (done.instances, medium.stat().st_ino) == (1, place)
    assert {path.name for path in tmp_path.iterdir()} == {"root", "stick"}
    directory = dcmread(medium / "DICOMDIR")
    [record] = [one for one in directory.DirectoryRecordSequence if one.DirectoryRecordType == "SR DOCUMENT"]
    assert record.VerificationDateTime == "202603051112"
    assert "ConceptNameCodeSequence" in done.invented
    assert not {"StudyID", "VerificationDateTime"} & set(done.invented)


def test_dcmtk_and_dciodvfy_find_no_fault_with_the_dicomdir(root: Root, settings: Settings, tmp_path: Path) -> None:
    root.take_all(make.ct_series(3, PatientID="P1", PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 192"))
    medium = tmp_path / "cd"
    written(root, settings, medium)
    shown = subprocess.run(
        [needs("dcdirdmp", "dcmtk"), medium / "DICOMDIR"], capture_output=True, text=True, check=True
    )
    assert "IM000002" in shown.stdout + shown.stderr
    assert not dciodvfy.errors(medium / "DICOMDIR")
