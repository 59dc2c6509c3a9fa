"""The fields of a selector: name, type, meaning, and how a value of each is tested."""

import datetime as dt
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from node.errors import nearest

Type = Literal["text", "number", "date", "moment"]
Group = Literal["patient", "study", "series", "instances", "sender", "volume", "time"]

SeriesState = Literal["receiving", "converting", "converted", "refused", "not-an-image", "failed"]

STATES = get_args(SeriesState)
VERDICTS = ("complete", "suspect", "incomplete")
CERTAINTIES = ("verified", "no gap seen", "suspect", "incomplete")
GEOMETRIES = ("regular", "sheared", "irregular", "single", "none")
ORIENTATIONS = ("axial", "coronal", "sagittal", "oblique")
WEIGHTINGS = ("T1", "T2", "T2*", "PD", "FLAIR", "DWI")
SOURCES = ("dicom", "get", "stow", "import", "result", "recovered")

MAX_WILDCARDS = 10

ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
"""Operators of fields whose values have an order."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a selector.

    `several`: the field has any number of values; a comparison holds if it holds for one of them. `choices`: its only
    values; another one is refused. `sidecar`: the field of a sidecar, as BIDS names it, of which it is so many times
    the value.
    """

    group: Group
    type: Type
    meaning: str
    several: bool = False
    choices: tuple[str, ...] = ()
    sidecar: str = ""
    times: int = 1

    def of_sidecar(self, value: Any) -> Any:
        """Return the value of the field if its field of the sidecar has `value`; None if that is no number."""
        if self.type == "text":
            return value
        is_number = isinstance(value, int | float) and math.isfinite(value)
        return float(f"{value * self.times:.9g}") if is_number else None


FIELDS: dict[str, Field] = {
    "patient_id": Field("patient", "text", "Patient ID (0010,0020)"),
    "patient_name": Field("patient", "text", "Patient's Name (0010,0010)"),
    "patient_birth_date": Field("patient", "date", "Patient's Birth Date (0010,0030)"),
    "patient_sex": Field("patient", "text", "Patient's Sex (0010,0040)"),
    "patient_age": Field("patient", "number", "Patient's Age (0010,1010), in years"),
    "study_instance_uid": Field("study", "text", "Study Instance UID (0020,000D)"),
    "study_date": Field("study", "date", "Study Date (0008,0020)"),
    "study_description": Field("study", "text", "Study Description (0008,1030)"),
    "study_id": Field("study", "text", "Study ID (0020,0010)"),
    "accession_number": Field("study", "text", "Accession Number (0008,0050)"),
    "referring_physician_name": Field("study", "text", "Referring Physician's Name (0008,0090)"),
    "study_series": Field("study", "number", "number of series in the study"),
    "labels": Field("series", "text", "labels that people gave the series, or its study", several=True),
    "series_instance_uid": Field("series", "text", "Series Instance UID (0020,000E)"),
    "modality": Field("series", "text", "Modality (0008,0060)"),
    "series_number": Field("series", "number", "Series Number (0020,0011)"),
    "series_description": Field("series", "text", "Series Description (0008,103E)"),
    "series_date": Field("series", "date", "Series Date (0008,0021)"),
    "body_part": Field("series", "text", "Body Part Examined (0018,0015)"),
    "laterality": Field("series", "text", "Laterality (0020,0060)"),
    "protocol_name": Field("series", "text", "Protocol Name (0018,1030)"),
    "manufacturer": Field("series", "text", "Manufacturer (0008,0070)"),
    "manufacturer_model_name": Field("series", "text", "Manufacturer's Model Name (0008,1090)"),
    "station_name": Field("series", "text", "Station Name (0008,1010)"),
    "state": Field("series", "text", "state of the series, as in v_series", choices=STATES),
    "verdict": Field("series", "text", "whether the series is complete, once it was quiet", choices=VERDICTS),
    "certainty": Field("series", "text", "how certain that is, in the words of the pages", choices=CERTAINTIES),
    "expected_instances": Field("series", "number", "number of instances that are expected, if known"),
    "missing_instances": Field("series", "number", "number of missing instances, if known"),
    "revision": Field("series", "number", "number of the newest conversion; 0 before the first"),
    "failures": Field("series", "text", "reasons why the series, or a part of it, has no volume", several=True),
    "instances": Field("instances", "number", "number of stored instances"),
    "frames": Field("instances", "number", "number of frames in all instances"),
    "sop_class_uids": Field("instances", "text", "SOP Class UIDs (0008,0016)", several=True),
    "transfer_syntax_uids": Field("instances", "text", "Transfer Syntax UIDs (0002,0010)", several=True),
    "calling_ae_titles": Field("sender", "text", "AE titles of the senders", several=True),
    "called_ae_titles": Field("sender", "text", "AE titles that the senders called", several=True),
    "sources": Field("sender", "text", "how the instances came, as in v_images", several=True, choices=SOURCES),
    "volumes": Field("volume", "number", "number of volumes"),
    "columns": Field("volume", "number", "columns of the largest volume"),
    "rows": Field("volume", "number", "rows of the largest volume"),
    "slices": Field("volume", "number", "slices of the largest volume"),
    "times": Field("volume", "number", "times of the largest volume; 1 if it has no time axis"),
    "column_spacing_mm": Field("volume", "number", "between its columns, in mm"),
    "row_spacing_mm": Field("volume", "number", "between its rows, in mm"),
    "slice_spacing_mm": Field(
        "volume", "number", "between its slices, in mm, to five digits; missing for one slice, or without a geometry"
    ),
    "geometry": Field("volume", "text", "geometry of the largest volume, as in v_volumes", choices=GEOMETRIES),
    "orientation": Field("volume", "text", "orientation of its slices, as in v_volumes", choices=ORIENTATIONS),
    "slice_thickness_mm": Field("volume", "number", "Slice Thickness (0018,0050), in mm", sidecar="SliceThickness"),
    "weighting": Field("volume", "text", "of MR, as in v_catalog", choices=WEIGHTINGS),
    "sequence": Field(
        "volume",
        "text",
        'kind of sequence, such as `Gradient Echo EPI`; `"*EPI*"` fits all of a kind',
        sidecar="PulseSequenceType",
    ),
    "repetition_time_ms": Field(
        "volume",
        "number",
        "repetition time in ms; of several volumes, the time from one to the next",
        sidecar="RepetitionTime",
        times=1000,
    ),
    "echo_time_ms": Field("volume", "number", "echo time in ms", sidecar="EchoTime", times=1000),
    "inversion_time_ms": Field("volume", "number", "inversion time in ms", sidecar="InversionTime", times=1000),
    "flip_angle_degrees": Field("volume", "number", "flip angle in degrees", sidecar="FlipAngle"),
    "magnetic_field_strength_t": Field("volume", "number", "field strength in T", sidecar="MagneticFieldStrength"),
    "contrast_agent": Field("volume", "text", "contrast agent, as in v_catalog"),
    "convolution_kernel": Field("volume", "text", "Convolution Kernel (0018,1210)", sidecar="ConvolutionKernel"),
    "warnings": Field("volume", "text", "names of the warnings about all volumes", several=True),
    "last_received_at": Field("time", "moment", "when the newest instance was received"),
    "days_since_received": Field("time", "number", "days since the newest instance was received"),
    "days_since_study": Field("time", "number", "days since the Study Date"),
}
"""What series and volumes are found by: selectors, rules of data sets and ``v_catalog`` have these names."""

KNOWN_LATER = frozenset(
    {"verdict", "certainty", "failures", "revision", "expected_instances", "missing_instances"}
).union(name for name, field in FIELDS.items() if field.group == "volume")
"""What the conversion of a series tells, and may be missing before it."""

NOT_CONVERTED = "not converted yet"
"""What stands for a value that is known later."""


AXES = ("columns", "rows", "slices", "times")
SPACINGS = ("column_spacing_mm", "row_spacing_mm", "slice_spacing_mm")

POSITION_DIGITS = 5
"""Significant digits of the distance of slices: it comes of positions, which say 4.00000165 where 4 is meant."""


def grid_fields(shape: Sequence[int], spacing_mm: Sequence[float], geometry: str) -> dict[str, float | None]:
    """Return the fields of the grid of a volume, from `shape`, `spacing_mm` and `geometry` of its file.

    One slice has no distance to another, and slices without a geometry none that is known: what a file has there is
    assumed.
    `node.index.rows.view_rows.grid_of` says the same in SQL.
    """
    fields: dict[str, float | None] = dict(zip(AXES, (*shape, 1), strict=False))
    fields |= dict(zip(SPACINGS, spacing_mm, strict=False))
    is_known = len(shape) > 2 and shape[2] > 1 and geometry != "none" and len(spacing_mm) > 2
    return fields | {"slice_spacing_mm": float(f"{spacing_mm[2]:.{POSITION_DIGITS}g}") if is_known else None}


def test_of(name: str, field: Field, operator_: str, value: Any) -> Callable[[Any], bool]:
    """Return the test of one value of a field.

    Raises ValueError if the value or the operator does not suit the field; the message gives the rule.
    """
    if value is None:
        if operator_ in ORDERS:
            raise ValueError(f"null has no order: write {name} == null or {name} != null")
        return lambda fact: fact is None
    if field.type == "text":
        if not isinstance(value, str):
            raise ValueError(f'{name} is a text: write its value in quotes, as "{value:g}"')
        if operator_ in ORDERS:
            raise ValueError(f"{name} is a text, which has no order: compare it by == or !=")
        return _text_test(name, field, value)
    wanted = _ordered(name, field, value)
    if field.type == "moment" and operator_ not in ORDERS:
        raise ValueError(f"{name} is a moment: compare it by <, <=, > or >=")
    compare: Callable[[Any, Any], bool] = ORDERS.get(operator_, operator.eq)
    return lambda fact: fact is not None and compare(fact, wanted)


def _text_test(name: str, field: Field, value: str) -> Callable[[Any], bool]:
    wanted = value.strip().casefold()
    pieces = re.sub(r"\*+", "*", wanted).split("*")
    if len(pieces) > MAX_WILDCARDS:
        raise ValueError(f"{value!r} has more than {MAX_WILDCARDS - 1} asterisks")
    is_choice = wanted in map(str.casefold, field.choices)  # such as T2*, which is no pattern then
    if is_choice or (len(pieces) == 1 and "?" not in wanted):
        if field.choices and not is_choice:
            raise ValueError(f'"{value[:64]}" is not a value of {name}{nearest(wanted[:64], field.choices)}')
        return lambda fact: fact is not None and fact.strip().casefold() == wanted
    return lambda fact: fact is not None and _fits(fact.strip().casefold(), pieces)


def _fits(text: str, pieces: Sequence[str]) -> bool:
    """Return whether a text fits a pattern, given as the pieces between its asterisks (PS3.4 C.2.2.2.4).

    The leftmost place of each piece leaves the most room for those that follow, so nothing is tried twice.
    """
    first, *middle = pieces
    if not _is_at(text, 0, first):
        return False
    if not middle:
        return len(text) == len(first)
    last, at = middle.pop(), len(first)
    for piece in middle:
        while not _is_at(text, at, piece):
            at += 1
            if at > len(text):
                return False
        at += len(piece)
    return len(text) - len(last) >= at and _is_at(text, len(text) - len(last), last)


def _is_at(text: str, at: int, piece: str) -> bool:
    """Return whether `piece`, in which a question mark is any character, is in `text` at a place."""
    part = text[at : at + len(piece)]
    return len(part) == len(piece) and all(wanted in ("?", found) for wanted, found in zip(piece, part, strict=True))


def _ordered(name: str, field: Field, value: Any) -> Any:
    if field.type == "number":
        if not isinstance(value, float) or not math.isfinite(value):
            raise ValueError(f"{name} is a number; {value!r} is not")
        return value
    try:
        if not isinstance(value, str):
            raise ValueError
        if field.type == "date":
            return dt.date.fromisoformat(value)
        moment = dt.datetime.fromisoformat(value)
        return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    except ValueError:
        example = f'"{_first_day(value)}"' if field.type == "date" else '"2026-01-31T08:00" (UTC)'
        raise ValueError(f"{name} is a {field.type}: write it as {example}") from None


def _first_day(value: Any) -> str:
    """Return the first day of a year or a month, which is no date; an example for everything else."""
    is_part = isinstance(value, str) and re.fullmatch(r"[0-9]{4}(-[0-9]{2})?", value)
    return f"{value}{'-01-01'[len(value) - 4 :]}" if is_part else "2026-01-31"
