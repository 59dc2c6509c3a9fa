"""What a configuration says of text in pixels, and what is told where its recognition is not installed."""

from __future__ import annotations

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

from node.errors import UsageError
from node.extensions.deidentify import EXTENSION
from node.extensions.deidentify.burned_in_text import is_examined
from node.extensions.deidentify.deidentification import BurnedInText, Deidentification, NotDeidentified, Reason
from node.extensions.deidentify.instance import deidentified
from node.extensions.deidentify.profile import Profile
from node.extensions.deidentify.pseudonyms import new_key_file, passing_key
from node.extensions.deidentify.recognition import require_recognition
from node.extensions.deidentify.settings import DeidentifySettings
from node.settings.model import Settings
from tests import make


def test_what_is_missing_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"onnxruntime.*: pip install 'voxelnode\[ocr\]', or set burned_in_text = "):
        require_recognition()


def test_a_node_does_not_start_without_what_its_configuration_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    new_key_file(tmp_path / "key")
    for what in ("off", "refuse"):
        table = {"key": tmp_path / "key", "burned_in_text": what}
        [check] = EXTENSION.checks(Settings.model_validate({"deidentify": {"trial": table}}))
        if what == "off":
            check()
        else:
            with pytest.raises(UsageError, match=r"\[deidentify.trial\] burned_in_text needs .*pip install"):
                check()


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
    assert raised.value.reason is Reason.UNDECODABLE
