"""BIDS fields of a stack for its sidecar, from an allow-list.

A field that is not in `BIDS_FIELDS` never reaches a sidecar. Texts that people type (study, series and protocol
descriptions, sequence names, institution, station, operators, comments) and serial numbers are left out: in practice,
they contain names of patients and staff. An allowed text is also left out if it repeats a word of the patient's names
or identifiers, unless it is a code or another fact that nobody types.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from pydicom.config import IGNORE
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag

from node.dicom.values import (
    Element,
    copy_encoding,
    held_elements,
    one_item,
    private_items,
    standard_tag,
    text,
    value,
    whole,
)
from node.volume.describe.bids_fields import BIDS_FIELDS, BidsField
from node.volume.describe.phase_encoding import phase_encoding
from node.volume.elements import DAY_S, groups_of
from node.volume.model import Frame
from node.volume.read.meaning import PARAMETER_TOLERANCE, are_alike, differs, sequences_of
from node.volume.vendors import acquisition_fields, pause_s
from node.volume.vendors.philips import FRAME as PHILIPS_FRAME
from node.volume.vendors.siemens import XA_FRAME, XA_SERIES

PRIVATE_GROUPS = (XA_FRAME, XA_SERIES, PHILIPS_FRAME)
"""Private sequences where vendors describe a frame, or all frames, of an enhanced object."""

MAX_TEXT_LENGTH = 64
"""Length of an LO (PS3.5 6.2), the longest allowed attribute."""

IDENTIFYING = (
    "PatientName",
    "PatientID",
    "OtherPatientIDs",
    "OtherPatientNames",
    "PatientBirthName",
    "PatientBirthDate",
    "PatientMotherBirthName",
    "PatientAddress",
    "AccessionNumber",
    "DeviceSerialNumber",
)
"""Attributes whose words must not occur in a text that may have been typed: those of the patient, and serial numbers.

Institution, station and staff are not among them: no allowed attribute holds their names, but institutions and stations
are named after manufacturers and models."""

MIN_IDENTIFYING_NUMBER = 100_000
"""Smaller whole numbers are counts. A larger one, such as a Series Number (0020,0011), may be an identifier."""

CODED_VR = frozenset({"CS", "UI", "TM", "DT", "SQ"})
"""Value representations of codes, identifiers of objects and times, which nobody types."""

DEVICE_FIELDS = frozenset(
    {
        *("Manufacturer", "ManufacturersModelName", "ImagedNucleus"),
        *("Units", "RescaleType", "TracerName", "ReconMethodName"),
    }
)
"""Texts that programs require and that the device writes. They are kept even if they repeat the name of a patient:
phantoms are named after manufacturers and models."""

MAX_READ = 8
"""Most different headers of which a field is read although its attributes differ: it may be the same."""

OF_STACK = frozenset({"AcquisitionTime", "ImageOrientationPatientDICOM"})
"""Fields that hold for a stack: when it began, and the orientation that its frames share up to rounding."""

TOLERANCES = {"EffectiveEchoSpacing": 0.05, "TotalReadoutTime": 0.05}
"""Relative differences of fields that are computed from times in whole milliseconds."""

SAME_INSTANT_S = 0.001
"""Instants are seconds on a scale that began long ago, so that their last digits are lost."""


def describe(ds: Dataset, frames: Sequence[Frame], planes: Sequence[Sequence[Frame]] | None = None) -> dict[str, Any]:
    """Return the allowed fields of one stack, with BIDS' names and units (seconds, millimetres, degrees, tesla).

    `ds`: the first data set of the stack.
    `frames`: all planes of the stack in order: slices of the first time first.
    `planes`: the same by time, then by slice; then a field in which they differ is left out, or in ``of_each_time``.

    Values that JSON can hold, by BIDS name.

    Attributes of enhanced objects come from the shared functional groups and from those of the first frame
    (PS3.3 C.7.6.16). `PhaseEncodingDirection` is along the axes of the volume as the stack has them: i along a row, j
    down a column, k in the order of the frames.
    """
    sources = list(_sources(ds, frames[0].frame_number if frames else 1))
    words = identifying_words(ds)
    fields: dict[str, Any] = {}
    for field in BIDS_FIELDS:
        content = _read(field, sources)
        if content is not None and not (_is_typed(field) and repeats(content, words)):
            fields[field.name] = content
    if fields.get("Modality") == "MR":
        private = acquisition_fields(sources)
        fields |= {
            name: _bounded(content)
            for name, content in private.items()
            if not (name in fields or repeats(content, words))
        }
        fields |= phase_encoding(sources, *_plane(ds, frames), fields)
        repetition_time_s = fields.get("RepetitionTime")
        if repetition_time_s is not None:
            fields["RepetitionTime"] = _seconds(repetition_time_s + pause_s(ds))
        if len({frame.private.get("DelayTime") for frame in frames}) > 1:
            fields.pop("RepetitionTime", None)
    if planes is not None:
        fields = settle_fields(planes, fields)
    return fields | derived_fields(sources, frames, fields)


class _Noting(dict[BaseTag, Element]):
    """The elements of a data set, which notes those that are asked for."""

    def __init__(self, elements: Mapping[BaseTag, Element]) -> None:
        super().__init__(elements)
        self.asked: set[BaseTag] = set()

    def get(self, tag: Any, default: Any = None) -> Any:
        self.asked.add(tag)
        return super().get(tag, default)

    def __getitem__(self, tag: BaseTag) -> Element:
        self.asked.add(tag)
        return super().__getitem__(tag)

    def __contains__(self, tag: Any) -> bool:
        self.asked.add(tag)
        return super().__contains__(tag)


class _Known(NamedTuple):
    """The private fields of a frame, and all that was asked for to find them: the tags in each source, their values."""

    asked: Sequence[frozenset[BaseTag]]
    values: Sequence[Sequence[Any]]
    fields: Mapping[str, Any]


_known = _Known((), (), {})


def private_fields(ds: Dataset, rows: int, columns: int, frame_number: int = 1) -> Mapping[str, Any]:
    """Return the fields of an MR frame that private elements state or decide; equal ones are one object.

    They are found again only if an element differs that was asked for in the frame before. `rows`, `columns`: of one
    plane.
    """
    global _known
    if text(ds, "Modality") != "MR":
        return {}
    sources, known = list(_sources(ds, frame_number)), _known
    if len(sources) != len(known.asked) or _values(sources, known.asked) != known.values:
        noting = [_Noting(held_elements(source)) for source in sources]
        read = [Dataset(elements) for elements in noting]
        for source, new in zip(sources, read, strict=True):
            copy_encoding(source, new)
        fields = acquisition_fields(read)
        fields |= phase_encoding(read, rows, columns, fields)
        asked = [frozenset(elements.asked) for elements in noting]
        same = known.fields if known.fields == fields else fields
        _known = known = _Known(asked, _values(sources, asked), same)
    return known.fields


def _values(sources: Sequence[Dataset], asked: Sequence[frozenset[BaseTag]]) -> list[list[Any]]:
    """Return the values of elements in each source as they are held: of raw ones their bytes."""
    return [
        [getattr(elements.get(tag), "value", None) for tag in tags]
        for elements, tags in zip(map(held_elements, sources), asked, strict=True)
    ]


def settle_fields(planes: Sequence[Sequence[Frame]], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields in which all frames are alike, and under ``of_each_time`` those that are alike in each time.

    Any other field is left out. Those of `OF_STACK` are of the stack, not of its frames.

    `planes`: frames by time, then by slice. `fields`: those of the first frame.
    """
    kept, by_time = dict(fields), dict[str, list[Any]]()
    frames = [frame for time in planes for frame in time]
    private = dict.fromkeys(name for own in _distinct(frames, "private") for name in own.private)
    differing = {path[0] for kind in ("meaning", "told") for path in differs(frames, kind)}
    for field in BIDS_FIELDS:
        tags = list(map(standard_tag, field.keywords))
        if field.name not in OF_STACK and field.name not in private and not differing.isdisjoint(tags):
            _settle(field.name, planes, partial(_told, tags), partial(_read_told, field), kept, by_time)
    for name in private.keys() - OF_STACK:
        _settle(name, planes, partial(_private, name), partial(_private, name), kept, by_time)
    return kept | ({"of_each_time": by_time} if by_time else {})


def _distinct(frames: Sequence[Frame], *names: str) -> Sequence[Frame]:
    """Return a frame for each combination of objects that frames share under these names."""
    return list({tuple(id(getattr(frame, name)) for name in names): frame for frame in frames}.values())


def _settle(
    name: str,
    planes: Sequence[Sequence[Frame]],
    key: Callable[[Frame], Any],
    read: Callable[[Frame], Any],
    kept: dict[str, Any],
    by_time: dict[str, list[Any]],
) -> None:
    """Take a field out of those that hold for all frames if they differ in it."""

    def are_one(frames: Sequence[Frame]) -> bool:
        several = _distinct(frames, "meaning", "told", "private")
        if are_alike([key(frame) for frame in several], TOLERANCES.get(name, PARAMETER_TOLERANCE)):
            return True
        return len(several) <= MAX_READ and are_alike([read(frame) for frame in several])

    if are_one([frame for time in planes for frame in time]):
        return
    own = kept.pop(name, None)
    if len(planes) > 1 and all(map(are_one, planes)):
        values = [read(time[0]) for time in planes]
        if values[0] == own or own is None:
            by_time[name] = [list(value) if isinstance(value, tuple) else value for value in values]


def _told(tags: Sequence[BaseTag], frame: Frame) -> tuple[Any, ...]:
    """Return the values of attributes of a frame."""
    values = [_stated_of(frame, tag) for tag in tags]
    return next(filter(None, values), ()) if len(tags) == 1 else tuple(values)


def _stated_of(frame: Frame, tag: BaseTag) -> Any:
    """Return the value of an attribute of a frame; of a sequence, all that its items have."""
    if dictionary_VR(tag) != "SQ":
        return frame.told.get((tag,), frame.meaning.get((tag,)))
    return tuple(own for kind in (frame.told, frame.meaning) for own in kind.items() if own[0][0] == tag)


def _read_told(field: BidsField, frame: Frame) -> Any:
    """Return the value of a field from what a frame tells."""
    ds = Dataset()
    for keyword in (*field.keywords, "Modality"):
        tag = standard_tag(keyword)
        value, vr = _stated_of(frame, tag), dictionary_VR(tag)
        if value is not None and vr != "SQ":
            ds[tag] = DataElement(tag, vr, list(value), validation_mode=IGNORE)
    return _plain(_read(field, [ds]))


def _private(name: str, frame: Frame) -> Any:
    return _plain(frame.private.get(name))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def identifying_words(ds: Dataset) -> set[str]:
    """Return the words of the patient's names and identifiers, and of serial numbers."""
    return {word for keyword in IDENTIFYING for word in _words(_stated(ds, keyword))}


def _sources(ds: Dataset, frame_number: int) -> Iterator[Dataset]:
    """Yield the data sets that may hold fields: the instance, functional groups of one frame, private items.

    Of several items of a sequence, only what they have in common is a field (`several_items`).
    """
    groups = groups_of(ds, frame_number)
    yield ds
    yield from groups
    yield from map(one_item, filter(None, sequences_of(ds, *groups)))
    for group in (ds, *groups):
        for tag in PRIVATE_GROUPS:
            yield from private_items(group, tag)[:1]


def several_items(ds: Dataset, frame: Frame, fields: Mapping[str, Any]) -> list[str]:
    """Return the names of fields that are left out, because the items of a sequence differ in them."""
    several = [own for own in sequences_of(ds, *groups_of(ds, frame.frame_number)) if len(own) > 1]
    return [
        field.name
        for field in BIDS_FIELDS
        if field.name not in fields and any(len({str(_read(field, [one])) for one in own}) > 1 for own in several)
    ]


def _plane(ds: Dataset, frames: Sequence[Frame]) -> tuple[int, int]:
    """Return rows and columns of one plane, which may be a tile of the image."""
    return (frames[0].rows, frames[0].columns) if frames else (whole(ds, "Rows") or 0, whole(ds, "Columns") or 0)


def _read(field: BidsField, sources: Sequence[Dataset]) -> Any:
    """Return the first value of a field; None if it is absent, or if a sidecar cannot hold it."""
    for keyword in field.keywords:
        for source in sources:
            content = field.read(source, keyword)
            if content is None or content in ("", ()):
                continue
            if isinstance(content, tuple):
                return [_bounded(part) for part in content]
            return _bounded(content) if field.factor is None else _seconds(content * field.factor)
    return None


def _bounded(content: Any) -> Any:
    return content[:MAX_TEXT_LENGTH] if isinstance(content, str) else content


def _seconds(product: float) -> float:
    """Return a product without the rounding noise of binary fractions: 2435.37 ms are 2.43537 s."""
    return float(f"{product:.12g}")


def _stated(ds: Dataset, keyword: str) -> str:
    """Return a value as text; empty if it is no text but items, as a broken value representation makes them."""
    content = value(ds, keyword)
    return "" if content is None or isinstance(content, DicomSequence) else str(content)


def _words(text: str) -> Iterator[str]:
    """Yield the words that could identify a person, those of three or more characters."""
    return (word for word in re.split(r"[\W_]+", text.casefold()) if len(word) > 2)


def _is_typed(field: BidsField) -> bool:
    """Return whether the text of a field may have been typed, so that it could name a person."""
    if field.name in DEVICE_FIELDS:
        return False
    return not all(dictionary_has_tag(keyword) and dictionary_VR(keyword) in CODED_VR for keyword in field.keywords)


def repeats(content: Any, words: set[str]) -> bool:
    """Return whether a text, one of a list of texts, or a number that may be an identifier has one of these words."""
    parts = content if isinstance(content, list) else [content]
    telling = [
        part for part in parts if isinstance(part, str) or (isinstance(part, int) and part >= MIN_IDENTIFYING_NUMBER)
    ]
    return any(word in words for part in telling for word in _words(str(part)))


def derived_fields(sources: Sequence[Dataset], frames: Sequence[Frame], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields that follow from others, among them better values of those.

    `sources`: the data set, its functional groups, the vendor's private items of a frame. `frames`: all planes of the
    stack. `fields`: the fields of the stack so far.
    """
    derived: dict[str, Any] = {}
    began = _time_of_beginning(frames, is_philips=str(fields.get("Manufacturer", "")).upper().startswith("PHILIPS"))
    if began and "AcquisitionTime" in fields:
        derived["AcquisitionTime"] = began
    if fields.get("Modality") != "MR":
        return derived
    kind = pulse_sequence_type(sources, frames, fields)
    if kind:
        derived["PulseSequenceType"] = kind
    if "PartialFourierEnabled" in fields and fields.get("PhaseEncodingSteps"):  # Philips counts those without it
        derived["PhaseEncodingStepsNoPartialFourier"] = fields["PhaseEncodingSteps"]
    return derived | _labelling(sources, fields)


def _time_of_beginning(frames: Sequence[Frame], *, is_philips: bool) -> str:
    """Return the time of day of the plane that was acquired first, unless it is that of the first plane.

    Of Philips, the image with the lowest Instance Number counts, as for dcm2niix.
    """
    instants = [frame.time_key.get("acquisition_time") for frame in frames]
    known = [instant for instant in instants if isinstance(instant, float)]
    if not known or len(known) < len(instants):
        return ""
    first = min(frames, key=lambda frame: frame.instance_number or 0).time_key["acquisition_time"]
    began = first if is_philips else min(known)
    if abs(known[0] - began) < SAME_INSTANT_S:
        return ""
    minutes, seconds = divmod(round(began % DAY_S, 4), 60)
    return f"{int(minutes) // 60:02}:{int(minutes) % 60:02}:{seconds:09.6f}"


def pulse_sequence_type(sources: Sequence[Dataset], frames: Sequence[Frame], fields: Mapping[str, Any]) -> str:
    """Return a general description of the sequence in BIDS' words; empty if nothing is stated.

    Images of a diffusion sequence may state an echo-planar readout alone. Such a sequence refocuses, so that nothing is
    said of its echo; any other one is then a gradient echo.
    """
    kinds, variants = fields.get("ScanningSequence", ()), fields.get("SequenceVariant", ())
    echo = fields.get("EchoPulseSequence", "")
    spin = "SE" in kinds or (not kinds and echo in ("SPIN", "BOTH"))
    gradient = "GR" in kinds or (not kinds and echo in ("GRADIENT", "BOTH"))
    if "EP" in kinds or any(text(source, "EchoPlanarPulseSequence") == "YES" for source in sources):
        weighted = any(frame.diffusion is not None and frame.diffusion.b_value > 0 for frame in frames)
        name = "Spin Echo EPI" if spin else "EPI" if weighted and not gradient else "Gradient Echo EPI"
        return f"Multiband {name}" if fields.get("MultibandAccelerationFactor", 1) > 1 else name
    if gradient:
        if "MP" in variants and "IR" in kinds:
            return "MPRAGE"
        return "Spoiled Gradient Echo" if "SP" in variants or fields.get("SpoilingState") else "Gradient Echo"
    if spin:
        return "Inversion Recovery Spin Echo" if "IR" in kinds else "Spin Echo"
    return ""


def _labelling(sources: Sequence[Dataset], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the times of arterial spin labelling that are those of the sequence.

    Preparation recurs with every repetition. If the standard's attribute says that spins are labelled, Inversion Time
    is the delay after labelling.
    """
    if "ArterialSpinLabelingType" not in fields:
        return {}
    times = {"RepetitionTimePreparation": fields.get("RepetitionTime")}
    if any(text(source, "ArterialSpinLabelingContrast") for source in sources) and "PostLabelingDelay" not in fields:
        times["PostLabelingDelay"] = fields.get("InversionTime")
    return {name: time for name, time in times.items() if time is not None}
