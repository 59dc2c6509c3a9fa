"""What identifiers of C-MOVE and C-GET select."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom import Dataset

from node.association.services.retrieve import read_selection
from node.dicom.keys import IdentifierMismatch, Level, QueryModel, Selection
from tests import make


def identifier(level: str | None, **keys: Any) -> Dataset:
    return make.dataset(**({} if level is None else {"QueryRetrieveLevel": level}), **keys)


@pytest.mark.parametrize(
    ("keys", "model", "expected"),
    [
        (identifier("PATIENT", PatientID=" P-1 "), QueryModel.PATIENT_ROOT, Selection(Level.PATIENT, "P-1")),
        (
            identifier("STUDY", PatientID="P-1", StudyInstanceUID=["1.2", "1.3"]),
            QueryModel.PATIENT_ROOT,
            Selection(Level.STUDY, "P-1", ("1.2", "1.3")),
        ),
        (
            identifier("SERIES", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.3", SOPInstanceUID="9.9"),
            QueryModel.STUDY_ROOT,
            Selection(Level.SERIES, "", ("1.2",), ("1.2.3",)),  # what is below the level is not looked at
        ),
        (
            identifier("IMAGE", SOPInstanceUID=["1.4", "1.5"]),
            QueryModel.STUDY_ROOT,
            Selection(Level.IMAGE, "", (), (), ("1.4", "1.5")),
        ),
    ],
)
def test_unique_keys_select(keys: Dataset, model: QueryModel, expected: Selection) -> None:
    assert read_selection(keys, model) == expected


@pytest.mark.parametrize(
    ("keys", "model", "tag"),
    [
        (identifier(None, StudyInstanceUID="1.2"), QueryModel.STUDY_ROOT, 0x00080052),
        (identifier("WORKLIST", StudyInstanceUID="1.2"), QueryModel.STUDY_ROOT, 0x00080052),
        (identifier("PATIENT", PatientID="P-1"), QueryModel.STUDY_ROOT, 0x00080052),
        (identifier("PATIENT"), QueryModel.PATIENT_ROOT, 0x00100020),
        (identifier("PATIENT", PatientID=["P-1", "P-2"]), QueryModel.PATIENT_ROOT, 0x00100020),
        (identifier("STUDY", StudyInstanceUID=""), QueryModel.STUDY_ROOT, 0x0020000D),
        (identifier("SERIES", StudyInstanceUID="1.2"), QueryModel.STUDY_ROOT, 0x0020000E),
        (
            identifier("SERIES", StudyInstanceUID=["1.2", "1.3"], SeriesInstanceUID="1.2.3"),
            QueryModel.STUDY_ROOT,
            0x0020000D,
        ),
        (identifier("IMAGE", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.3"), QueryModel.STUDY_ROOT, 0x00080018),
    ],
)
def test_what_breaks_the_model_names_its_element(keys: Dataset, model: QueryModel, tag: int) -> None:
    with pytest.raises(IdentifierMismatch) as refused:
        read_selection(keys, model)
    assert refused.value.tag == tag


def test_a_uid_that_is_none_is_refused() -> None:
    ds = identifier("STUDY")
    with pytest.warns(UserWarning, match="UI"):
        ds.StudyInstanceUID = "1.2 OR 1=1"
    with pytest.raises(IdentifierMismatch):
        read_selection(ds, QueryModel.STUDY_ROOT)
