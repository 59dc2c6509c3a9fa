"""What a configuration says of text in pixels, and what is told where its recognition is not installed."""

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    MRImageStorage,
    RTDoseStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    UltrasoundImageStorage,
    VLPhotographicImageStorage,
)

from node.children.pseudonyms import passing_key
from node.extensions.deidentify.burned_in_text import is_examined
from node.extensions.deidentify.deidentification import BurnedInText, Deidentification, NotDeidentified, RefusalReason
from node.extensions.deidentify.instance import deidentified
from node.extensions.deidentify.profile import Profile
from node.extensions.deidentify.settings import DeidentifySettings
from tests import make


def test_what_blanks_must_be_allowed_to_change_pixels() -> None:
    with pytest.raises(ValidationError, match="burned_in_text"):
        DeidentifySettings(key=Path("key"), burned_in_text="blank")
    DeidentifySettings(key=Path("key"), burned_in_text="blank", clean=("pixels",))


def test_text_is_looked_for_unless_an_image_that_is_not_at_risk_says_that_there_is_none() -> None:
    for kind in (ComputedRadiographyImageStorage, MRImageStorage):
        assert is_examined(make.instance(sop_class_uid=kind))
        assert is_examined(make.instance(sop_class_uid=kind, BurnedInAnnotation="YES"))
        assert is_examined(make.instance(sop_class_uid=kind, BurnedInAnnotation=""))
        assert not is_examined(make.instance(sop_class_uid=kind, BurnedInAnnotation="NO"))
    for kind in (UltrasoundImageStorage, SecondaryCaptureImageStorage, VLPhotographicImageStorage):
        assert is_examined(make.instance(sop_class_uid=kind, BurnedInAnnotation="NO"))
    screen = {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"], "BurnedInAnnotation": "NO"}
    assert is_examined(make.instance(sop_class_uid=MRImageStorage, **screen))
    for kind in (SegmentationStorage, RTDoseStorage):
        assert not is_examined(make.instance(sop_class_uid=kind))
        assert is_examined(make.instance(sop_class_uid=kind, BurnedInAnnotation="YES"))


def test_where_nobody_can_look_nothing_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    monkeypatch.setitem(sys.modules, "cv2", None)
    [ds] = make.ct_series(1)
    with pytest.raises(NotDeidentified, match="text cannot be looked for") as raised:
        deidentified(ds, Deidentification(Profile(frozenset()), passing_key(), burned_in_text=BurnedInText.REFUSE))
    assert raised.value.reason is RefusalReason.UNDECODABLE
