"""An ORU^R01 message of one stored result (HL7 v2.5.1, 7.3.1).

A structured report becomes one OBX for each number, code and text of its content tree, whose OBX-4 is the place in the
tree. Any other result becomes a reference: the UIDs by which it can be retrieved.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from pydicom.dataset import Dataset

from node.dicom.values import items, text, value
from node.errors import VoxelnodeError

MAX_OBSERVATIONS = 5000
MAX_DEPTH = 64
MAX_TEXT = 65_536
"""Observations of one message, levels of a content tree, and characters of one text (the limit of TX)."""

MAX_NUMBER = 16
"""Characters of NM."""

REPORTS = "1.2.840.10008.5.1.4.1.1.88."
RESULTS = (
    "1.2.840.10008.5.1.4.1.1.88",  # structured reports
    "1.2.840.10008.5.1.4.1.1.104",  # encapsulated documents and models
    "1.2.840.10008.5.1.4.1.1.66",  # raw data, registrations, fiducials, segmentations, measurements on surfaces
    "1.2.840.10008.5.1.4.1.1.11",  # presentation states
    "1.2.840.10008.5.1.4.1.1.30",  # parametric maps
    "1.2.840.10008.5.1.4.1.1.7",  # secondary captures
    "1.2.840.10008.5.1.4.1.1.481.3",  # structure sets
    "1.2.840.10008.5.1.4.1.1.91.1",  # bulk annotations
)
"""SOP classes of results, each with those below it; instances of the others are originals."""

IMAGE_LIBRARY = ("111028", "DCM")

_ESCAPES = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}


class NoResult(VoxelnodeError):
    """An instance of which no message can be made; the message gives the reason, without patient data."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a message says beside the result.

    `sender`, `receiver`: ``APPLICATION^FACILITY`` of MSH-3 to 6. `control_id`: MSH-10, the same at each attempt.
    """

    sender: str
    receiver: str
    control_id: str
    sent_at: dt.datetime


def is_result(sop_class_uid: str) -> bool:
    """Return whether instances of a SOP class are results rather than originals."""
    return any(f"{sop_class_uid}.".startswith(f"{root}.") for root in RESULTS)


def oru_of(ds: Dataset, envelope: Envelope) -> bytes:
    """Return the message of a result.

    Raises NoResult: the report has more content than a message may have.
    """
    status = status_of(ds)
    observations = [*_references(ds), *(_content(ds) if text(ds, "SOPClassUID").startswith(REPORTS) else ())]
    if len(observations) > MAX_OBSERVATIONS:
        raise NoResult(f"the report has more than {MAX_OBSERVATIONS} observations")
    segments = [_header(envelope), _patient(ds), _request(ds, status)]
    for number, one in enumerate(observations, 1):
        result = "X" if one.is_missing else status
        segments.append(f"OBX|{number}|{one.kind}|{one.concept}|{one.place}|{one.value}|{one.unit}|||||{result}")
    return "".join(f"{segment}\r" for segment in segments).encode("utf-8", "replace")


def status_of(ds: Dataset) -> str:
    """Return the status of a result (HL7 tables 0085 and 0123): F verified, R not yet, P preliminary."""
    if text(ds, "CompletionFlag") == "PARTIAL" or text(ds, "PreliminaryFlag") == "PRELIMINARY":
        return "P"
    return "F" if text(ds, "VerificationFlag") == "VERIFIED" else "R"


@dataclass(frozen=True, slots=True)
class _Observation:
    """OBX-2 to OBX-6, escaped."""

    kind: str
    concept: str
    value: str
    place: str = ""
    unit: str = ""

    @property
    def is_missing(self) -> bool:
        """Whether it was not possible to obtain the value."""
        return not self.value


def _header(envelope: Envelope) -> str:
    sender, receiver = (
        "|".join(escaped(part) for part in [*names.split("^"), ""][:2])
        for names in (envelope.sender, envelope.receiver)
    )
    sent_at = f"{envelope.sent_at:%Y%m%d%H%M%S}+0000"
    return f"MSH|^~\\&|{sender}|{receiver}|{sent_at}||ORU^R01^ORU_R01|{envelope.control_id}|P|2.5.1||||||UNICODE UTF-8"


def _patient(ds: Dataset) -> str:
    issuer = escaped(text(ds, "IssuerOfPatientID"))
    number = f"{escaped(text(ds, 'PatientID'))}^^^{issuer}".rstrip("^")
    name = str(value(ds, "PatientName") or "").split("=")[0]
    family, given, middle, prefix, suffix = [*name.split("^"), *[""] * 5][:5]
    name = "^".join(escaped(part) for part in (family, given, middle, suffix, prefix)).rstrip("^")
    sex = text(ds, "PatientSex")
    return f"PID|1||{number}||{name}||{_moment(text(ds, 'PatientBirthDate'))}|{sex if sex in ('F', 'M', 'O') else ''}"


def _request(ds: Dataset, status: str) -> str:
    """Return OBR: the order as the report knows it (Referenced Request Sequence), else as the study does."""
    request = next(iter(items(ds, "ReferencedRequestSequence")), Dataset())
    accession = text(request, "AccessionNumber") or text(ds, "AccessionNumber")
    placer = text(request, "PlacerOrderNumberImagingServiceRequest")
    filler = text(request, "FillerOrderNumberImagingServiceRequest") or accession
    procedure = (
        _code(request, "RequestedProcedureCodeSequence")
        or _code(ds, "ProcedureCodeSequence")
        or _free(text(request, "RequestedProcedureDescription") or text(ds, "StudyDescription"))
        or _code(ds, "ConceptNameCodeSequence")
        or "^Imaging study"
    )
    fields = [""] * 26
    fields[:5] = ["OBR", "1", escaped(placer), escaped(filler), procedure]
    fields[7] = _moment(text(ds, "StudyDate"), text(ds, "StudyTime"))
    fields[18], fields[19] = escaped(accession), escaped(text(request, "RequestedProcedureID"))
    fields[22] = _moment(text(ds, "ContentDate") or text(ds, "SeriesDate"), text(ds, "ContentTime"))
    fields[25] = status
    return "|".join(fields)


def _references(ds: Dataset) -> Iterator[_Observation]:
    """Yield where the result is: UIDs of its study and series, its class, and a pointer to the instance."""
    for concept, keyword in (
        ("110180^Study Instance UID^DCM", "StudyInstanceUID"),
        ("112002^Series Instance UID^DCM", "SeriesInstanceUID"),
        ("110181^SOP Class UID^DCM", "SOPClassUID"),
    ):
        yield _Observation("ST", concept, escaped(text(ds, keyword)))
    title = _code(ds, "ConceptNameCodeSequence") or _free(text(ds, "DocumentTitle") or text(ds, "SeriesDescription"))
    yield _Observation("RP", title or "^Result", f"{escaped(text(ds, 'SOPInstanceUID'))}^^AP^dicom")


def _content(ds: Dataset) -> Iterator[_Observation]:
    """Yield the numbers, codes and texts of a content tree in their order (PS3.3 C.17.3)."""
    waiting = [(item, str(place)) for place, item in enumerate(items(ds, "ContentSequence"), 1)][::-1]
    seen = 0
    while waiting:
        item, place = waiting.pop()
        seen += 1
        if seen > MAX_OBSERVATIONS * 4 or place.count(".") >= MAX_DEPTH:
            raise NoResult("the report has too many content items, or too many levels")
        if _concept(item) == IMAGE_LIBRARY:
            continue
        if (one := _observation(item, place)) is not None:
            yield one
        below = [(child, f"{place}.{n}") for n, child in enumerate(items(item, "ContentSequence"), 1)]
        waiting += below[::-1]


def _observation(item: Dataset, place: str) -> _Observation | None:
    """Return what an item says; None if it is a container, or refers to something else."""
    concept, kind = _code(item, "ConceptNameCodeSequence") or "^Observation", text(item, "ValueType")
    if kind == "NUM":
        measured = next(iter(items(item, "MeasuredValueSequence")), Dataset())
        found = str(value(measured, "NumericValue"))
        return _Observation(*_number(found, concept), place, _code(measured, "MeasurementUnitsCodeSequence"))
    if kind == "CODE":
        return _Observation("CWE", concept, _code(item, "ConceptCodeSequence"), place)
    if kind == "TEXT":
        lines = re.split(r"\r\n?|\n|\f", _long_text(item).strip())
        return _Observation("FT" if lines[1:] else "TX", concept, "\\.br\\".join(map(escaped, lines)), place)
    if kind == "UIDREF":
        return _Observation("ST", concept, escaped(text(item, "UID")), place)
    if kind == "DATE":
        return _Observation("DT", concept, _moment(text(item, "Date")), place)
    if kind == "DATETIME":
        return _Observation("TS", concept, re.sub(r"[^0-9.+-]", "", text(item, "DateTime"))[:26], place)
    return None


def _number(found: str, concept: str) -> tuple[str, str, str]:
    """Return OBX-2, 3 and 5 of a value of DS; NM has no exponent (HL7 v2.5.1 2.A.47), and a number too long is ST."""
    if not re.fullmatch(r"[+-]?([0-9]+\.?|\.[0-9])[0-9]*([eE][+-]?[0-9]{1,9})?", found):
        return "NM", concept, ""
    number = Decimal(found)
    if abs(number.adjusted()) <= MAX_NUMBER and len(plain := format(number, "f")) <= max(MAX_NUMBER, len(found)):
        return "NM", concept, plain
    return "ST", concept, found


def _long_text(item: Dataset) -> str:
    found = item.get("TextValue")
    return str(found)[:MAX_TEXT] if found is not None else ""


def _concept(item: Dataset) -> tuple[str, str]:
    concept = next(iter(items(item, "ConceptNameCodeSequence")), Dataset())
    return text(concept, "CodeValue"), text(concept, "CodingSchemeDesignator")


def _code(ds: Dataset, keyword: str) -> str:
    """Return a code as CWE, with its scheme by the name of DICOM (HL7 table 0396); empty if there is none."""
    for item in items(ds, keyword)[:1]:
        code = text(item, "CodeValue") or text(item, "LongCodeValue") or text(item, "URNCodeValue")
        parts = (code, text(item, "CodeMeaning"), text(item, "CodingSchemeDesignator"))
        return "^".join(escaped(part) for part in parts).rstrip("^")
    return ""


def _free(words: str) -> str:
    return f"^{escaped(words)}" if words else ""


def _moment(date: str, time: str = "") -> str:
    """Return a time stamp from values of DA and TM; empty if the date is none."""
    if not re.fullmatch(r"[0-9]{8}", date):
        return ""
    hours = re.match(r"[0-9]{6}|[0-9]{4}", time)
    return date + (hours[0] if hours else "")


def escaped(words: str) -> str:
    """Return a text that cannot be taken for delimiters or segments (HL7 v2.5.1 2.7), in one line."""
    plain = words.replace("\r\n", "\n")
    return "".join(_ESCAPES.get(letter, letter if letter.isprintable() else " ") for letter in plain)
