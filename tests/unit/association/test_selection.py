"""Identifiers of C-MOVE and C-GET."""

from __future__ import annotations

import pytest

from node.association.services.retrieve import read_selection
from node.dicom.keys import IdentifierMismatch, QueryModel
from tests import make


def test_a_uid_that_is_none_is_refused() -> None:
    ds = make.dataset(QueryRetrieveLevel="STUDY")
    with pytest.warns(UserWarning, match="UI"):
        ds.StudyInstanceUID = "1.2 OR 1=1"
    with pytest.raises(IdentifierMismatch):
        read_selection(ds, QueryModel.STUDY_ROOT)
