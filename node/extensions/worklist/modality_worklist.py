"""The modality worklist: the files of [worklist] folder, what a query is answered, and the service that keeps both."""

import datetime as dt
import json
import os
import re
import secrets
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import structlog
from pydicom import dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from node.dicom.attributes import MAX_TEXT_BYTES, date_of, is_short, time_of
from node.dicom.encoding import IMPLICIT_LITTLE_ENDIAN, file_meta, found_syntax
from node.dicom.header import require_few_elements
from node.dicom.json_model import NAME_GROUPS, Json, entry_text, json_model, name_groups
from node.errors import UsageError
from node.extensions.worklist.queries import (
    MAX_DEPTH,
    STEP_SEQUENCE,
    WorklistQuery,
    answer,
    entry_in_progress,
    is_match,
)
from node.extensions.worklist.scheduled_rows import IN_PROGRESS, ScheduledStep, ScheduledStepRepository
from node.extensions.worklist.settings import WorklistSettings
from node.index.look.finder import QueryRefused, QueryStopped
from node.runtime.background import BackgroundService

if TYPE_CHECKING:  # it loads pynetdicom, which what serves HTTP needs not
    from node.extensions.worklist.performed_steps import PerformedStepRepository

log = structlog.get_logger()

MAX_FILES = 10_000
MAX_FILE_BYTES, MAX_FILE_ELEMENTS = 200_000, 10_000
SCAN_SECONDS = 1.0
"""Least time between two looks at the folder."""

ENDINGS = (".wl", ".json")


def refused_files(folder: Path) -> Iterator[str]:
    """Yield a line for each file of a folder that gives no entry, with the reason."""
    for name, _ in versions(folder):
        try:
            read_entry(folder / name)
        except InvalidEntry as error:
            yield f"[worklist] folder: {name} has no entry: {error}"


class WorklistFolder:
    """Keeps the worklist as the files of a folder say. Thread-safe.

    A file that breaks a rule has no entry. The log has the reason but not the name, which may be that of a patient;
    `voxelnode config check` has both.
    """

    def __init__(
        self,
        folder: Path,
        steps: ScheduledStepRepository,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._folder, self._steps, self._now = folder, steps, now
        self._lock = threading.Lock()
        self._scanned_at = -SCAN_SECONDS
        self._refused: dict[str, str] = {}  # name -> version
        self._failed = ""

    def refresh(self) -> None:
        """Look for files that are new, changed or gone, unless that was done a moment ago.

        If the folder cannot be read, the entries stay as they were, and the log has the reason.
        """
        with self._lock:
            if monotonic() - self._scanned_at < SCAN_SECONDS:
                return
            try:
                self._scan()
                self._failed = ""
            except OSError as error:
                reason = error.strerror or type(error).__name__
                if reason != self._failed:
                    detail = f"{reason}: create the folder of [worklist], mount it, or let this user read it"
                    log.error("worklist_folder_not_read", folder=str(self._folder), reason=detail)
                self._failed = reason
            self._scanned_at = monotonic()

    def _scan(self) -> None:
        known = self._steps.file_versions()
        there = dict(versions(self._folder))
        changed: dict[str, tuple[str, ScheduledStep | None]] = {}
        for name, version in there.items():
            if version in (known.get(name), self._refused.get(name)):
                continue
            try:
                changed[name] = version, read_entry(self._folder / name)
            except FileNotFoundError:
                continue
            except (InvalidEntry, OSError) as error:
                log.warning("worklist_file_refused", reason=str(getattr(error, "strerror", None) or error))
                changed[name] = version, None
        self._refused = {name: version for name, version in self._refused.items() if name in there}
        self._refused |= {name: version for name, (version, step) in changed.items() if step is None}
        gone = [name for name in known if name not in there]
        if changed or gone:
            self._steps.replace_files(changed, gone, self._now())


def versions(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the name of each file of a folder that has an entry, and a text that changes with the file.

    Raises OSError if the folder cannot be read, or has more than `MAX_FILES`.
    """
    count = 0
    with os.scandir(folder) as files:
        for file in files:
            if not file.name.lower().endswith(ENDINGS) or file.name.startswith(".") or not file.is_file():
                continue
            if (count := count + 1) > MAX_FILES:
                raise OSError(0, f"the folder has more than {MAX_FILES} files")
            status = file.stat()
            yield (
                os.fsencode(file.name).decode("utf-8", "backslashreplace")[:300],
                f"{status.st_mtime_ns}-{status.st_size}",
            )


def read_entry(path: Path) -> ScheduledStep:
    """Return the entry of a file; the message of InvalidEntry names the attribute and the rule."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise InvalidEntry(f"a file must not have more than {MAX_FILE_BYTES} bytes")
    return scheduled_step(checked(_of_json(data) if path.suffix.lower() == ".json" else _of_dicom(data)))


def _of_json(data: bytes) -> Json:
    try:
        model = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidEntry("the file is not JSON in UTF-8") from error
    if isinstance(model, list) and len(model) == 1:
        model = model[0]
    if not isinstance(model, dict):
        raise InvalidEntry("the file must have one data set in the DICOM JSON Model (PS3.18 F.2)")
    return model


def _of_dicom(data: bytes) -> Json:
    try:
        meta, offset = file_meta(data)
        syntax = found_syntax(data[offset : offset + 8], meta.get(0x0010, IMPLICIT_LITTLE_ENDIAN))
        require_few_elements(memoryview(data)[offset:], syntax, MAX_FILE_ELEMENTS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model_of(dcmread(BytesIO(data), force=True))
    except Exception as error:  # anything that pydicom raises for a damaged file
        raise InvalidEntry("the file cannot be read as DICOM (PS3.10 7)") from error


LOOK_SECONDS = 60.0
"""Time between two looks at the folder; a query looks as well."""

_COLUMNS = {
    "PatientID": "patient_id",
    "AccessionNumber": "accession_number",
    "StudyInstanceUID": "study_instance_uid",
    "Modality": "modality",
    "ScheduledProcedureStepStartDate": "start_date",
}
"""Keys by which the index finds entries, before all keys are compared."""


class Worklist(BackgroundService):
    """The scheduled procedure steps that are not over. Queries are thread-safe."""

    def __init__(
        self,
        steps: ScheduledStepRepository,
        performed_steps: "PerformedStepRepository",
        settings: WorklistSettings,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        super().__init__("worklist")
        self._steps, self._performed_steps, self._now = steps, performed_steps, now
        self._folder = WorklistFolder(settings.folder, steps, now) if settings.folder is not None else None
        self._kept = dt.timedelta(days=settings.keep_days)
        self._removed_before: dt.date | None = None

    def step(self) -> float:
        """Look at the folder; once a day, remove what is older than [worklist] keep_days."""
        if self._folder is not None:
            self._folder.refresh()
        old = self._steps.old_before(self._now(), self._kept)
        if old is not None and (before := old.date()) != self._removed_before:
            self._steps.remove_old(before)
            midnight = dt.datetime.combine(before, dt.time(), dt.UTC)
            self._performed_steps.remove_old(midnight)
            self._removed_before = before
        return LOOK_SECONDS

    def find(self, query: WorklistQuery, maximum: int, stop: Callable[[], bool]) -> Iterator[Dataset]:
        """Yield the answers to a query, by the day of their start.

        A query with more than `maximum` is refused. `stop` is polled between entries; True ends the query
        (QueryStopped).
        """
        if self._folder is not None:
            self._folder.refresh()
        wanted = {column: matches for keyword, column in _COLUMNS.items() if (matches := query.matches(keyword))}
        count = 0
        for state, stored in self._steps.candidates(wanted):
            if stop():
                raise QueryStopped
            entry = entry_in_progress(stored) if state == IN_PROGRESS else stored
            if not is_match(query.keys, entry):
                continue
            if (count := count + 1) > maximum:
                raise QueryRefused(f"more than {maximum} answers: narrow the query")
            yield answer(query.keys, entry)


MAX_ELEMENTS = 1000
"""Elements and items of an entry; real ones have fifty."""

_WIDTHS = {
    "AE": 16, "AS": 4, "DA": 8, "DS": 16, "DT": 26, "IS": 12, "LT": 10240, "SH": 16, "ST": 1024, "TM": 16, "UC": 65536,
    "UI": 64, "UR": 8192, "UT": 65536,
}  # fmt: skip
"""Most characters of a value, PS3.5 6.2."""

_INDEXED = frozenset(("CS", "LO", "PN"))
"""Texts that are compared with those of instances, and as long as theirs may be."""

_NUMBERS = frozenset(("FD", "FL", "SL", "SS", "UL", "US"))
_LINES = frozenset(("LT", "ST", "UT"))
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CONTROL_BUT_LINES = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_UID = re.compile(r"[0-9.]{1,64}")
_DROPPED = frozenset({0x00080005})
"""Specific Character Set (0008,0005): an entry is UTF-8, and an answer says how it is encoded."""

REQUIRED = ("PatientName", "PatientID")
REQUIRED_OF_STEP = ("Modality", "ScheduledStationAETitle", "ScheduledProcedureStepStartDate")
"""Attributes of type 1 in table K.6-1 that nobody but the sender of an entry can know."""


class InvalidEntry(UsageError):
    """A worklist entry breaks a rule; the message names the attribute and the rule, and has no patient data."""


class _TooMany(Exception):
    """A data set has too many elements."""


FIELDS: Mapping[str, str] = {
    "patient_id": "PatientID",
    "patient_name": "PatientName",
    "patient_birth_date": "PatientBirthDate",
    "patient_sex": "PatientSex",
    "accession_number": "AccessionNumber",
    "referring_physician_name": "ReferringPhysicianName",
    "study_instance_uid": "StudyInstanceUID",
    "requested_procedure_id": "RequestedProcedureID",
    "requested_procedure_description": "RequestedProcedureDescription",
}
"""Names of plain fields, and the attributes of an entry that they are."""

FIELDS_OF_STEP: Mapping[str, str] = {
    "scheduled_procedure_step_id": "ScheduledProcedureStepID",
    "modality": "Modality",
    "station_ae_title": "ScheduledStationAETitle",
    "station_name": "ScheduledStationName",
    "start_date": "ScheduledProcedureStepStartDate",
    "start_time": "ScheduledProcedureStepStartTime",
    "description": "ScheduledProcedureStepDescription",
}
"""The same, of the item of its Scheduled Procedure Step Sequence (0040,0100)."""


def step_of(
    fields: Mapping[str, str], attributes: Mapping[str, Any] | None = None, kept: Mapping[str, str] | None = None
) -> ScheduledStep:
    """Return the step that plain fields and attributes describe, with identifiers that it lacks.

    `fields` are values by the names of `FIELDS` and `FIELDS_OF_STEP`. They count more than `attributes`, a data set in
    the DICOM JSON Model; those of `kept` count if neither has a value. Raises InvalidEntry, as all functions here.
    """
    entry = _of_fields(kept or {})
    for part in (checked_data_set(attributes or {}), _of_fields(fields)):
        entry = _merged(entry, part)
    return scheduled_step(completed(checked(entry)))


def _of_fields(fields: Mapping[str, str]) -> Json:
    step = {
        _tag(FIELDS_OF_STEP[name]): element(FIELDS_OF_STEP[name], text)
        for name, text in fields.items()
        if name in FIELDS_OF_STEP
    }
    entry = {_tag(FIELDS[name]): element(FIELDS[name], text) for name, text in fields.items() if name in FIELDS}
    return {**entry, _tag(STEP_SEQUENCE): {"vr": "SQ", "Value": [step]}}


def _merged(entry: Json, other: Json) -> Json:
    """Return an entry with the elements of another that have values, in its step as well."""
    name = _tag(STEP_SEQUENCE)
    steps, others = entry[name]["Value"], other.get(name, {}).get("Value", [])
    if len(steps) > 1 or len(others) != 1:
        several = steps if len(steps) > 1 else others or steps
        return {**entry, **_filled(other), name: {"vr": "SQ", "Value": several}}
    one = [{**step, **_filled(others[0])} for step in steps or [{}]]
    return {**entry, **_filled(other), name: {"vr": "SQ", "Value": one}}


def checked(model: Mapping[str, Any]) -> Json:
    """Return an entry in the DICOM JSON Model, without what a worklist does not carry: private and binary elements."""
    entry = checked_data_set(model)
    steps = entry.get(_tag(STEP_SEQUENCE), {}).get("Value", [])
    if len(steps) != 1:
        raise InvalidEntry(f"{_named(STEP_SEQUENCE)} must have one item: an entry is one step (PS3.4 K.6.1.1)")
    return entry


def checked_data_set(model: object) -> Json:
    """Return a data set in the DICOM JSON Model, without private and binary elements and without invalid values."""
    try:
        return _checked(model, iter(range(MAX_ELEMENTS)), 0)
    except _TooMany:
        raise InvalidEntry(f"a data set must not have more than {MAX_ELEMENTS} elements and items") from None


def _checked(model: object, counter: Iterator[int], depth: int) -> Json:
    if not isinstance(model, Mapping):
        raise InvalidEntry("a data set must be a JSON object of elements by tag (PS3.18 F.2.2)")
    if depth > MAX_DEPTH:
        raise InvalidEntry(f"sequences must not be nested deeper than {MAX_DEPTH}")
    kept: Json = {}
    for name, element in model.items():
        if next(counter, None) is None:
            raise _TooMany
        if not isinstance(name, str) or not re.fullmatch(r"[0-9A-Fa-f]{8}", name) or not isinstance(element, Mapping):
            raise InvalidEntry("elements must be objects, with tags of eight hexadecimal digits (PS3.18 F.2.2)")
        values = element.get("Value", [])
        if not isinstance(values, list):
            raise InvalidEntry(f"{name}: Value must be an array (PS3.18 F.2.2)")
        vr = _carried(int(name, 16))
        if vr == "SQ":
            kept[name.upper()] = {"vr": vr, "Value": [_checked(item, counter, depth + 1) for item in values]}
        elif vr is not None:
            kept[name.upper()] = _element(int(name, 16), vr, values)
    return dict(sorted(kept.items()))


def _carried(tag: int) -> str | None:
    """Return the VR of an attribute that a worklist carries; None for another."""
    if tag in _DROPPED or not dictionary_has_tag(tag) or not tag & 0xFFFF or tag >> 16 in (0, 2):
        return None
    vr = dictionary_VR(tag)
    return vr if vr == "SQ" or vr in _WIDTHS or vr in _INDEXED or vr in _NUMBERS else None


def _element(tag: int, vr: str, values: list[Any]) -> Json:
    if vr in _NUMBERS:
        return {"vr": vr, "Value": [_number(tag, value) for value in values]}
    texts = [_value(tag, vr, value) for value in values]
    return {"vr": vr, "Value": texts} if any(texts) else {"vr": vr}


def _value(tag: int, vr: str, value: Any) -> Any:
    """Return a value of an element as text, a PN as an object of its component groups."""
    if vr == "PN":
        groups = value if isinstance(value, Mapping) else {"Alphabetic": value}
        known = {group: _text(tag, vr, groups[group]) for group in NAME_GROUPS if groups.get(group)}
        return known or None
    return _text(tag, vr, value) or None


def _number(tag: int, value: Any) -> int | float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not -(2**31) <= value < 2**32:
        raise InvalidEntry(f"{_named(tag)}: a value must be a number")
    return value


_RULES: Mapping[str, tuple[Callable[[str], object], str]] = {
    "DA": (date_of, "must be a date YYYYMMDD"),
    "TM": (time_of, "must be a time HHMMSS"),
    "UI": (_UID.fullmatch, "must be a UID of digits and dots (PS3.5 9.1)"),
    "IS": (re.compile(r"[+-]?\d{1,11}").fullmatch, "must be a whole number"),
    "DS": (re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?").fullmatch, "must be a number"),
}


def _text(tag: int, vr: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise InvalidEntry(f"{_named(tag)}: a value must be text or a number")
    text = str(value).strip(" ")
    forbidden = _CONTROL_BUT_LINES if vr in _LINES else _CONTROL
    if forbidden.search(text) or (vr not in _LINES and "\\" in text):
        raise InvalidEntry(f"{_named(tag)}: no control characters or backslashes are allowed (PS3.5 6.2)")
    if vr in _INDEXED and not is_short(text):
        raise InvalidEntry(f"{_named(tag)}: must not be longer than {MAX_TEXT_BYTES} bytes")
    if len(text) > _WIDTHS.get(vr, MAX_TEXT_BYTES):
        raise InvalidEntry(f"{_named(tag)}: must not be longer than {_WIDTHS[vr]} characters (PS3.5 6.2)")
    check, rule = _RULES.get(vr, (bool, ""))
    if text and not check(text):
        raise InvalidEntry(f"{_named(tag)}: {rule}")
    return text


def completed(entry: Json) -> Json:
    """Return an entry with what a modality needs: identifiers that its source left out are generated.

    Raises InvalidEntry if an attribute is missing that only the source can know (`REQUIRED`, `REQUIRED_OF_STEP`).
    """
    (step,) = entry[_tag(STEP_SEQUENCE)]["Value"]
    for keyword, where in [
        *((keyword, entry) for keyword in REQUIRED),
        *((keyword, step) for keyword in REQUIRED_OF_STEP),
    ]:
        if not entry_text(where, keyword):
            raise InvalidEntry(f"{_named(keyword)} is missing (PS3.4 table K.6-1)")
    number = f"S{secrets.token_hex(5).upper()}"
    step = {**_absent(step, ScheduledProcedureStepStartTime="000000", ScheduledProcedureStepID=number), **_filled(step)}
    of_procedure = entry_text(step, "ScheduledProcedureStepID") or number
    added = _absent(entry, StudyInstanceUID=str(generate_uid(None)), RequestedProcedureID=of_procedure)
    return dict(sorted({**added, **_filled(entry), _tag(STEP_SEQUENCE): {"vr": "SQ", "Value": [step]}}.items()))


def _filled(model: Json) -> Json:
    return {name: element for name, element in model.items() if element.get("Value")}


def _absent(model: Json, **texts: str) -> Json:
    """Return elements for the attributes that a data set lacks."""
    return {_tag(keyword): element(keyword, text) for keyword, text in texts.items() if not entry_text(model, keyword)}


def element(keyword: str, text: str) -> Json:
    """Return an element of the DICOM JSON Model with one value."""
    vr = dictionary_VR(tag_for_keyword(keyword) or 0)
    if not text:
        return {"vr": vr}
    if vr == "PN":
        return {"vr": vr, "Value": [name_groups(text)]}
    return {"vr": vr, "Value": [text]}


def model_of(ds: Dataset) -> Json:
    """Return a data set of a file in the DICOM JSON Model."""
    return json_model(ds, lambda path: None)


def scheduled_step(entry: Json) -> ScheduledStep:
    """Return an entry that was `checked`, with the attributes by which the index finds it."""
    (step,) = entry[_tag(STEP_SEQUENCE)]["Value"]
    texts = {name: entry_text(entry, keyword) for name, keyword in FIELDS.items()}
    texts |= {name: entry_text(step, keyword) for name, keyword in FIELDS_OF_STEP.items()}
    start = {"start_date": date_of(texts["start_date"] or ""), "start_time": time_of(texts["start_time"] or "")}
    found: dict[str, Any] = {name: texts[name] for name in ScheduledStep.__slots__ if name in texts}
    return ScheduledStep(**found | start, attributes=entry)


def _tag(keyword: str) -> str:
    return f"{tag_for_keyword(keyword) or 0:08X}"


def _named(attribute: str | int) -> str:
    tag = tag_for_keyword(attribute) or 0 if isinstance(attribute, str) else attribute
    return f"{keyword_for_tag(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"
