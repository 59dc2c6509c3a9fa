"""What is written into rendered pictures: who the patient is, and how the image was made (PS3.18 8.3.5.1.1)."""

from __future__ import annotations

import unicodedata
from typing import Literal

from pydicom import Dataset
from pydicom.multival import MultiValue

from node.dicom.attributes import date_of, time_of
from node.dicom.values import items, numbers, value

Annotation = Literal["patient", "technique"]
ANNOTATIONS: tuple[Annotation, ...] = ("patient", "technique")

MAX_CHARACTERS = 120

_UNSEEN = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"
"""Say in some scripts which form a letter has."""


def patient_lines(ds: Dataset) -> list[str]:
    """Return name, Patient ID, birth date and sex."""
    called = _called(_text(ds, "PatientName"))
    born = _date(_text(ds, "PatientBirthDate"))
    rest = "  ".join(part for part in (f"born {born}" if born else "", _text(ds, "PatientSex")) if part)
    lines = [called or "no name", f"ID {_text(ds, 'PatientID') or 'unknown'}", rest]
    return [visible(line) for line in lines if line]


def _called(name: str) -> str:
    """Return the alphabetic and the ideographic way to write a name, or else the phonetic one (PS3.5 6.2.1.2)."""
    groups = [_called_in(group) for group in name.split("=")[:3]]
    return "  ".join(filter(None, groups[:2])) or "".join(groups[2:])


def _called_in(group: str) -> str:
    family, _, given = group.partition("^")
    return ", ".join(part for part in (family.strip(), " ".join(given.replace("^", " ").split())) if part)


def technique_lines(ds: Dataset, frame_number: int) -> list[str]:
    """Return study, series, image and position of a frame, numbered from 1."""
    study = f"{_date(_text(ds, 'StudyDate'))} {_time(_text(ds, 'StudyTime'))}  {_text(ds, 'StudyDescription')}"
    series = f"{_text(ds, 'Modality')}  series {_text(ds, 'SeriesNumber') or '?'}  {_text(ds, 'SeriesDescription')}"
    frames = _text(ds, "NumberOfFrames")
    image = f"image {_text(ds, 'InstanceNumber') or '?'}"
    if frames not in ("", "1"):
        image += f"  frame {frame_number} of {frames}"
    lines = [study, series, image, _position(ds, frame_number)]
    return [visible(line) for line in lines if line.strip()]


def _position(ds: Dataset, frame_number: int) -> str:
    group = items(ds, "PerFrameFunctionalGroupsSequence")[frame_number - 1 : frame_number]
    planes = [plane for holder in group for plane in items(holder, "PlanePositionSequence")]
    position = numbers(planes[0] if planes else ds, "ImagePositionPatient", 3)
    if position is None:
        return ""
    return "position " + " ".join(f"{axis}{mm:.1f}" for axis, mm in zip("xyz", position, strict=True)) + " mm"


def visible(text: str) -> str:
    """Return a text for a picture: a character that is none to be seen is ``?``, and a long text ends with dots."""
    composed = unicodedata.normalize("NFC", text)
    shown = "".join("?" if unicodedata.category(c) in _UNSEEN and c not in _JOINERS else c for c in composed).strip()
    return shown if len(shown) <= MAX_CHARACTERS else f"{shown[:MAX_CHARACTERS]}..."


def _text(ds: Dataset, keyword: str) -> str:
    """Return the first value of an element as text, cut to what may be shown."""
    content = value(ds, keyword)
    first = content[0] if isinstance(content, MultiValue) else content
    return "" if first is None else str(first)[: 2 * MAX_CHARACTERS].strip()


def _date(text: str) -> str:
    date = date_of(text)
    return date.isoformat() if date is not None else text


def _time(text: str) -> str:
    time = time_of(text)
    return f"{time:%H:%M}" if time is not None else text
