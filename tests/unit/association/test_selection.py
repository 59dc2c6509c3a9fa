"""Identifiers of C-MOVE and C-GET."""

import pytest
from pydicom import DataElement

from node.association.services.retrieve import read_selection
from node.dicom.keys import UNIQUE_KEYS, IdentifierMismatch, Level, QueryModel
from node.dicom.values import standard_tag
from tests import make


def test_a_uid_that_is_none_is_refused() -> None:
    ds = make.dataset(QueryRetrieveLevel="STUDY")
    with pytest.warns(UserWarning, match="UI"):
        ds.StudyInstanceUID = "1.2 OR 1=1"
    with pytest.raises(IdentifierMismatch):
        read_selection(ds, QueryModel.STUDY_ROOT)


@pytest.mark.parametrize("wildcard", ["*", "ID-?", "1.2.*"])
@pytest.mark.parametrize("level", list(Level))
def test_a_wild_card_in_a_unique_key_of_any_level_is_refused(level: Level, wildcard: str) -> None:
    keys = {UNIQUE_KEYS[one]: "1.2.3" for one in Level if one <= level}
    for wild in keys:
        ds = make.dataset(QueryRetrieveLevel=level.name, **keys)
        ds[wild] = DataElement(standard_tag(wild), "LO", wildcard)
        with pytest.raises(IdentifierMismatch, match="wild card") as refused:
            read_selection(ds, QueryModel.PATIENT_ROOT)
        assert refused.value.tag == standard_tag(wild)
