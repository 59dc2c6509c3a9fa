"""What a copy with a corrected identity has: the right values, the former ones beside them, and all else as stored."""

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, FileDataset, dcmread, dcmwrite
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from node.children.forwarding import CopyChange, copy_of, forward
from node.dicom.coercion import Coercion, Identity, identifies
from tests import make

RIGHT = Identity("Right^Person", "C-1", "", "19700102", "", "F", "CORRECT", dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC))
WRONG = {
    "PatientID": "C-7", "PatientName": "Wrong^Person", "OtherPatientIDs": "C-8", "IssuerOfPatientID": "ELSEWHERE",
    "PatientAge": "044Y", "PatientSize": "1.8", "PatientComments": "of another", "AdditionalPatientHistory": "x",
}  # fmt: skip


def copied(ds: FileDataset, folder: Path, change: CopyChange) -> Dataset:
    into = folder / "copy"
    dcmwrite(folder / "stored", ds, enforce_file_format=True)
    copy_of(forward(folder / "stored", change, into), change)
    return dcmread(into)


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless],
)
def test_a_copy_differs_in_the_identity_alone_in_every_encoding(tmp_path: Path, syntax: str) -> None:
    [ds] = make.ct_series(1, **WRONG, PatientWeight="70")
    if syntax == RLELossless:
        ds.compress(RLELossless, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").byteswap().tobytes()
        ds.file_meta.TransferSyntaxUID = syntax
    else:
        ds.file_meta.TransferSyntaxUID = syntax
    stored = copied(ds, tmp_path, CopyChange(Coercion(remove=(0x00104010,))))
    copy = copied(ds, tmp_path, CopyChange(identity=RIGHT))
    assert (copy.PatientID, copy.PatientName, copy.PatientSex) == ("C-1", "Right^Person", "F")
    assert "IssuerOfPatientID" not in copy
    assert copy.file_meta.TransferSyntaxUID == syntax
    [item] = copy.OriginalAttributesSequence
    assert item.AttributeModificationDateTime == "20260102030000.000000+0000"
    [before] = item.ModifiedAttributesSequence
    assert {name: str(before[name].value) for name in WRONG} == WRONG
    assert "PatientWeight" in copy
    assert "PatientWeight" not in before
    rest = [{e.tag: e.value for e in one if not identifies(e.tag) and e.tag != 0x04000561} for one in (stored, copy)]
    assert rest[0] == rest[1]


@pytest.mark.parametrize(
    ("stored", "said", "name", "becomes"),
    [
        ("", "Plain^Name", "Other^Name", None),
        ("ISO_IR 100", "Müller^Änne", "Möller^Änne", "ISO_IR 100"),
        ("ISO_IR 100", "Müller^Änne", "Yamada^Tarou=山田^太郎", "ISO_IR 192"),
        ("", "Plain^Name", "Müller^Änne", "ISO_IR 192"),
        ("ISO_IR 192", "山田", "Иванов^Иван", "ISO_IR 192"),
        ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ", "山田^太郎", "ISO_IR 192"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎", "Suzuki^Ichirou=鈴木^一郎", ["", "ISO 2022 IR 87"]),
    ],
)
def test_a_name_that_the_character_set_lacks_makes_it_unicode_and_no_text_is_lost(
    tmp_path: Path, stored: str, said: str, name: str, becomes: str | None
) -> None:
    [ds] = make.ct_series(1)
    if stored:
        ds.SpecificCharacterSet = stored
    ds.PatientName = ds.OperatorsName = said
    copy = copied(ds, tmp_path, CopyChange(identity=replace(RIGHT, patient_name=name)))
    assert copy.get("SpecificCharacterSet") == becomes
    assert (str(copy.PatientName), str(copy.OperatorsName)) == (name, said)
    assert str(copy.OriginalAttributesSequence[0].ModifiedAttributesSequence[0].PatientName) == said


def test_an_earlier_change_is_kept_and_a_copy_that_is_right_already_has_no_new_one(tmp_path: Path) -> None:
    [ds] = make.ct_series(1, **WRONG)
    first = copied(ds, tmp_path, CopyChange(identity=RIGHT))
    assert len(copied(first, tmp_path, CopyChange(identity=RIGHT)).OriginalAttributesSequence) == 1
    later = copied(first, tmp_path, CopyChange(identity=replace(RIGHT, patient_id="C-2", reason="COERCE")))
    assert [item.ReasonForTheAttributeModification for item in later.OriginalAttributesSequence] == [
        "CORRECT",
        "COERCE",
    ]
    assert later.OriginalAttributesSequence[1].ModifiedAttributesSequence[0].PatientID == "C-1"


def test_a_route_coerces_what_the_right_patient_has(tmp_path: Path) -> None:
    [ds] = make.ct_series(1, **WRONG)
    change = CopyChange(Coercion.of({"PatientID": "SITE-{PatientID}"}, {}, []), identity=RIGHT)
    assert copied(ds, tmp_path, change).PatientID == "SITE-C-1"
