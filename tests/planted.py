"""An instance of any kind with the identities of one person in every attribute of the standard, and what is left."""

import re
import struct
from typing import Any

import numpy as np
from pydicom import DataElement, Dataset, config
from pydicom.datadict import DicomDictionary
from pydicom.dataset import FileDataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from tests import make

NAME, GIVEN, NUMBER, TELEPHONE = "Quillfeather", "Ottoline", "73518264", "8675309"
ROOT_OF_THE_STANDARD = f"1.2.840.10008.9.{NUMBER}.1"

_TEXT = f"{GIVEN} {NAME} Feb 3 1971 3.2.71 {NUMBER} +4930{TELEPHONE}"
_VALUES: dict[str, Any] = {
    "AE": "QUILLFEATHER", "AS": "Ottoline", "AT": 0x00100010, "CS": "QUILLFEATHER", "DA": "19710203",
    "DS": NUMBER, "DT": "19710203101500", "FD": float(NUMBER), "FL": float(NUMBER), "IS": NUMBER, "LO": _TEXT,
    "LT": f"{_TEXT}\r\nwww.quillfeather.example o.q@{NAME}.example", "OB": f"{NAME} ".encode(),
    "OD": bytes(8), "OF": bytes(4), "OL": bytes(4), "OV": bytes(8), "OW": f"{NAME}!!".encode("utf-16-le"),
    "PN": f"{NAME}^{GIVEN}", "SH": f"{NAME} 1", "SL": int(NUMBER), "SS": 1, "ST": _TEXT, "SV": int(NUMBER),
    "TM": "101500", "UC": _TEXT, "UI": ROOT_OF_THE_STANDARD, "UL": int(NUMBER), "UN": f"{NAME} ".encode(),
    "UR": f"https://{NAME}.example/studies/{NUMBER}", "US": 1, "UT": _TEXT, "UV": int(NUMBER),
}  # fmt: skip
_IDENTITY = ("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "PatientID", "PatientName", "PatientBirthDate")
_DECIDING = ("BurnedInAnnotation", "RecognizableVisualFeatures", "ImageType", "ConversionType", "Modality")
_OF_KINDS = ("EncapsulatedDocument", "WaveformSequence", "ContentSequence", "SequenceOfUltrasoundRegions")
_NOT_PLANTED = frozenset((*_IDENTITY, *_DECIDING, *_OF_KINDS, "DeidentificationMethod"))

_SHORT = re.compile(rb"(?<![\d.])(?:1971|3\.2\.71)(?!\d)|feb")
"""Parts of the date; a number that is a part of another one, as in a UID, is none of them."""


def plant_secrets(ds: Dataset) -> None:
    """Add secrets in sequences, private elements, an overlay and the padding."""
    inner = make.dataset(PatientName="Secret^Inner", OperatorsName="Secret^Operator", ContentDate="20240102")
    inner.add(DataElement(0x00090010, "LO", "SECRET CREATOR"))
    inner.add(DataElement(0x00091001, "LO", "Secret private"))
    ds.AnatomicRegionSequence = [inner]
    ds.IconImageSequence = [make.dataset(PatientComments="Secret icon")]
    ds.add(DataElement(0x00290010, "LO", "SECRET CREATOR"))
    ds.add(DataElement(0x00291001, "OB", b"Secret bytes"))
    ds.add(DataElement(0x00291002, "SQ", Sequence([inner])))
    ds.add(DataElement(0x60000040, "CS", "G"))
    ds.add(DataElement(0x60003000, "OW", b"Secret overlay"))
    ds.add(DataElement(0xFFFCFFFC, "OB", b"Secret padding"))


def planted(sop_class_uid: str, **attributes: Any) -> FileDataset:
    """Return an instance with one small picture and every attribute; `attributes` win over those."""
    ds = make.instance(
        sop_class_uid=sop_class_uid,
        PatientID=NUMBER,
        PatientName=f"{NAME}^{GIVEN}",
        PatientBirthDate="19710203",
        PatientTelephoneNumbers=f"+49 30 {TELEPHONE}",
    )
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        group = tag >> 16
        if keyword and 0x0008 <= group < 0x7F00 and group != 0x0028 and keyword not in _NOT_PLANTED:
            ds.add(_element(tag, vr.split(" or ")[-1]))
    ds.add(DataElement(0x00090010, "LO", NAME))
    ds.add(DataElement(0x00091001, "UN", NAME.encode()))
    for group in (0x5000, 0x6000):
        ds.add(_element(group << 16 | 0x0022, "LO"))
        ds.add(_element(group << 16 | 0x1500, "LO"))
    ds.add(DataElement(0x60000040, "CS", "R"))
    ds.add(DataElement(0x60003000, "OW", bytes(2)))
    make.set_pixels(ds, np.zeros((4, 4), np.int16))
    make.changed(ds, **attributes)
    ds.file_meta.SourceApplicationEntityTitle = NAME.upper()
    ds.file_meta.PrivateInformationCreatorUID, ds.file_meta.PrivateInformation = "1.2.3", NAME.encode()
    ds.preamble = NAME.encode().ljust(128, b"\0")
    return ds


def _element(tag: int, vr: str) -> DataElement:
    if vr != "SQ":
        return DataElement(tag, vr, _VALUES[vr], validation_mode=config.IGNORE)
    item = make.dataset(OperatorsName=f"{NAME}^{GIVEN}", SegmentLabel=_TEXT, KVP=NUMBER, TextString=_TEXT)
    item.add(DataElement(0x0040A30A, "DS", NUMBER))
    return DataElement(tag, "SQ", Sequence([item]))


def left_in(content: bytes, *, short: bool = True) -> list[bytes]:
    """Return what of the person is in the bytes of a file; `short`: also what real pixels and texts have by chance."""
    lower = content.lower()
    number = int(NUMBER)
    binary = [struct.pack(form, number) for form in ("<d", "<q", *(("<f", "<i", ">i") if short else ()))]
    texts = [each.lower().encode() for each in (NAME, GIVEN, NUMBER, TELEPHONE, "19710203", "Feb 3 1971")]
    wide = [each.lower().encode("utf-16-le") for each in (NAME, GIVEN)]
    dates = _SHORT.findall(lower) if short else []
    return [each for each in (*texts, *wide) if each in lower] + dates + [each for each in binary if each in content]


def where(ds: Dataset, place: str = "") -> list[str]:
    """Return the attributes in which something of the person is left."""
    found = []
    for element in ds:
        path = f"{place}/{element.keyword or BaseTag(element.tag)}"
        if element.VR == "SQ":
            found += [each for item in element.value for each in where(item, path)]
        elif left_in(str(element.value).encode()):
            found.append(f"{path} {element.VR} {element.value!r}")
    return found
