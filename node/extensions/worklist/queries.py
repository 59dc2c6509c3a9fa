"""The Modality Worklist Information Model: queries, and the entries that they match (PS3.4 K.6.1).

An entry is a data set in the DICOM JSON Model (PS3.18 Annex F) with the attributes of one Scheduled Procedure Step, its
Requested Procedure, Imaging Service Request, visit and patient. Every attribute of PS3.6 is a key, in sequences too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydicom import config
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from node.dicom import status
from node.dicom.attributes import date_of, time_of
from node.dicom.json_model import Json, entry_text, value_text
from node.dicom.key_values import (
    Between,
    Match,
    Moments,
    combined_moments,
    compared,
    matches_any,
    matches_of,
    require_order,
)
from node.dicom.keys import InvalidQuery, Key, Level
from node.dicom.matching import MAX_MATCHES, key_item, texts_of
from node.dicom.status import StatementTable, status_table, table
from node.dicom.values import CONVERSION_ERRORS, standard_tag
from node.extensions.worklist.settings import WorklistSettings
from node.settings.model import Settings

STEP_SEQUENCE = "ScheduledProcedureStepSequence"
START_DATE, START_TIME = "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime"

MAX_DEPTH = 8
"""Most sequences within each other, in keys and in entries; the information model has four."""

MATCHED_VRS = frozenset(("AE", "AS", "CS", "DA", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UT"))
"""Value representations that are matched; others are only returned."""

_NO_KEYS = frozenset(("SpecificCharacterSet", "QueryRetrieveLevel", "TimezoneOffsetFromUTC"))
"""Elements of an identifier that say how it is meant."""


@dataclass(frozen=True, slots=True)
class WorklistKey:
    """A key with its matches; of a sequence, the keys in its item instead, none for all attributes."""

    tag: BaseTag
    keyword: str
    vr: str
    matches: tuple[Match, ...] = ()
    inner: tuple[WorklistKey, ...] = ()


@dataclass(frozen=True, slots=True)
class WorklistQuery:
    """A parsed query; `unsupported` are the keys that are not matched, as keyword or tag."""

    keys: tuple[WorklistKey, ...]
    unsupported: tuple[str, ...]

    def matches(self, keyword: str) -> tuple[Match, ...]:
        """Return the matches of a key of the entry or of its Scheduled Procedure Step, wherever the model has it."""
        steps = (key.inner for key in self.keys if key.keyword == STEP_SEQUENCE)
        of_step = (key for inner in steps for key in inner)
        return next((key.matches for key in (*self.keys, *of_step) if key.keyword == keyword and key.matches), ())


def read_worklist_query(identifier: Dataset) -> WorklistQuery:
    """Return the query of an identifier.

    Raises InvalidQuery: the value of a key violates its value representation or the matching rules (PS3.4 C.2.2.2,
        K.4.1.1).
    """
    unsupported: list[str] = []
    keys = _keys(identifier, unsupported, 0)
    if sum(map(_count, keys)) > MAX_MATCHES:
        raise InvalidQuery(
            standard_tag(STEP_SEQUENCE), f"a query must not have more than {MAX_MATCHES} values and wildcards"
        )
    return WorklistQuery(keys, tuple(unsupported))


def _count(key: WorklistKey) -> int:
    return compared(key.matches) + sum(map(_count, key.inner))


def _keys(identifier: Dataset, unsupported: list[str], depth: int) -> tuple[WorklistKey, ...]:
    keys = _with_period(tuple(_each_key(identifier, unsupported, depth)))
    for key in keys:
        for match in key.matches:
            require_order(Key(key.keyword, key.vr, Level.STUDY), match)
    return keys


def _with_period(keys: tuple[WorklistKey, ...]) -> tuple[WorklistKey, ...]:
    """Return keys with a range of start dates and one of start times as one period, without negotiation (PS3.4 K.6-1).

    The date is still matched by itself, which the index does; the time is matched with it.
    """
    dates, times = (next((key.matches for key in keys if key.keyword == each), ()) for each in (START_DATE, START_TIME))
    match dates, times:
        case (Between() as date,), (Between() as time,):
            moments = combined_moments(date, Key(START_TIME, "TM", Level.STUDY), time)
            if moments is not None:
                return tuple(replace(key, matches=(moments,)) if key.keyword == START_TIME else key for key in keys)
    return keys


def _each_key(identifier: Dataset, unsupported: list[str], depth: int) -> Iterator[WorklistKey]:
    for tag in map(BaseTag, identifier.keys()):  # iterating over a Dataset converts its elements
        keyword = keyword_for_tag(tag)
        if keyword in _NO_KEYS or tag.element == 0:
            continue
        if not keyword or not dictionary_has_tag(tag):
            unsupported.append(str(tag))
            continue
        vr = dictionary_VR(tag)
        if vr == "SQ":
            if depth == MAX_DEPTH:
                raise InvalidQuery(tag, f"keys must not be nested deeper than {MAX_DEPTH} sequences")
            yield WorklistKey(tag, keyword, vr, inner=_keys(key_item(identifier, tag), unsupported, depth + 1))
        elif vr in MATCHED_VRS:
            key = Key(keyword, vr, Level.STUDY)
            yield WorklistKey(tag, keyword, vr, matches_of(key, texts_of(identifier, tag), fuzzy=False))
        else:
            if _has_value(identifier, tag):
                unsupported.append(keyword)
            yield WorklistKey(tag, keyword, vr)


def _has_value(identifier: Dataset, tag: BaseTag) -> bool:
    try:
        return identifier[tag].value not in (None, "", b"")
    except CONVERSION_ERRORS:
        return True


def is_match(keys: Sequence[WorklistKey], entry: Json) -> bool:
    """Return whether an entry, or the item of a sequence in it, satisfies all keys (PS3.4 C.2.2.2, K.4.1.1.1)."""
    return all(_has_match(key, entry) for key in keys)


def _has_match(key: WorklistKey, entry: Json) -> bool:
    values = _values(key, entry)
    match key.matches:
        case (Moments() as period,):
            return _is_within(period, entry)
    if not key.inner:
        return matches_any(key.matches, [value_text(value) for value in values])
    return not any(map(_count, key.inner)) or any(is_match(key.inner, item) for item in values)


def _is_within(period: Moments, step: Json) -> bool:
    start_date, start_time = entry_text(step, START_DATE), entry_text(step, START_TIME)
    date, time = date_of(start_date or ""), time_of(start_time or "")
    if date is None or time is None:
        return False
    start = date, time
    return not ((period.first and start < period.first) or (period.last and start > period.last))


def _values(key: WorklistKey, entry: Json) -> list[Any]:
    values: list[Any] = entry.get(f"{key.tag:08X}", {}).get("Value", [])
    return values


def with_character_set(ds: Dataset) -> Dataset:
    """Give a data set its *Specific Character Set* (0008,0005), if it has other characters than ASCII."""
    if not all(str(element.value).isascii() for element in ds.iterall() if element.VR != "SQ"):
        ds.SpecificCharacterSet = "ISO_IR 192"
    return ds


def answer(keys: Sequence[WorklistKey], entry: Json) -> Dataset:
    """Return the requested attributes of an entry, or of the item of a sequence in it, empty where it has none.

    Of a sequence with keys, the items that match are returned.
    """
    ds = Dataset()
    for key in keys:
        if key.vr != "SQ":
            ds.add(_element(key.tag, key.vr, _values(key, entry)))
        elif key.inner:
            found = [answer(key.inner, item) for item in _values(key, entry) if is_match(key.inner, item)]
            ds.add(DataElement(key.tag, "SQ", found))
        else:
            ds.add(DataElement(key.tag, "SQ", [data_set_of(item) for item in _values(key, entry)]))
    return ds


def data_set_of(model: Json) -> Dataset:
    """Return all elements of an entry, or of an item of one."""
    ds = Dataset()
    for name, element in model.items():
        values = element.get("Value", [])
        if element["vr"] == "SQ":
            ds.add(DataElement(BaseTag(int(name, 16)), "SQ", [data_set_of(item) for item in values]))
        else:
            ds.add(_element(BaseTag(int(name, 16)), element["vr"], values))
    return ds


def _element(tag: BaseTag, vr: str, values: Sequence[Any]) -> DataElement:
    several = [value if isinstance(value, int | float) else value_text(value) for value in values]
    value = None if not several else several[0] if len(several) == 1 else several
    return DataElement(tag, vr[:2], value, validation_mode=config.IGNORE)


def entry_in_progress(entry: Json) -> Json:
    """Return an entry whose *Scheduled Procedure Step Status* (0040,0020) says that a modality works on it."""
    name = f"{standard_tag(STEP_SEQUENCE):08X}"
    started = {f"{standard_tag('ScheduledProcedureStepStatus'):08X}": {"vr": "CS", "Value": ["STARTED"]}}
    steps = [{**step, **started} for step in entry.get(name, {}).get("Value", [])]
    return {**entry, name: {"vr": "SQ", "Value": steps}}


BASIC_WORKLIST = f"""\
##### SCP of the Modality Worklist Information Model

Entries are received by REST and by HL7 v2 orders, and read from files ([worklist.md](worklist.md)).

- Every attribute of PS3.6 is returned if requested, in sequences to a depth of eight, and empty if the entry lacks it.
- Attributes of these value representations are matched as in section 5.2.7.2, the others only returned (0xFF01 if a
  value is requested): {", ".join(sorted(MATCHED_VRS))}.
- A range of Scheduled Procedure Step Start Dates and one of Start Times of the same form are one period, from the first
  date and time to the last (PS3.4 table K.6-1). Other dates and times are matched separately. Extended negotiation is
  not supported.
"""

PERFORMED_STEPS = """\
##### SCP of the Modality Performed Procedure Step SOP Class

- A step is durable before success is returned.
- N-CREATE requires the attributes of type 1 of PS3.4 table F.7.2-1 and the status IN PROGRESS.
- N-SET replaces attributes as a whole; it must not change those that the table does not allow.
- A final state requires the end date and time, COMPLETED also the Performed Series Sequence. A step in a final state is
  never changed.
- The instances that an ended step lists decide when a series is converted ([lifecycle.md](lifecycle.md)).

##### SCP of the Modality Performed Procedure Step Retrieve SOP Class

N-GET returns a step with all attributes that it has, or those of the Attribute Identifier List. Every step can be read,
whoever created it.
"""

_STEP = "N-CREATE, N-SET"


def tables_of(settings: Settings) -> Mapping[str, StatementTable]:
    """Return the rows of the statement."""
    port = settings.table(WorklistSettings).hl7_port
    row = (port or "unset", "HL7 v2 by MLLP, with or without TLS", "`[worklist] hl7_port`")
    return {"statuses": _STATUSES, "ports": table(("Port", "Service", "Parameter"), [row])}


_STATUSES = status_table(
    (_STEP, status.SUCCESS, "the step is durable"),
    (_STEP, status.INVALID_ATTRIBUTE_VALUE, "the status, or an attribute that must not change, has another value"),
    ("N-CREATE", status.MISSING_ATTRIBUTE, "an attribute of type 1 is missing; Attribute Identifier List names it"),
    (_STEP, status.MISSING_ATTRIBUTE_VALUE, "an attribute of type 1 has no value, or the final state lacks one"),
    ("N-CREATE", status.DUPLICATE_INSTANCE, "there is a step with this UID"),
    ("N-SET", status.NO_SUCH_INSTANCE, "there is no step with this UID"),
    (
        _STEP,
        status.PROCESSING_FAILURE,
        "the step is in a final state (Error ID 0xA710); undecodable data set; internal error",
    ),
    ("N-GET", status.SUCCESS, "the step, or the attributes of it that were asked for"),
    ("N-GET", status.NO_SUCH_INSTANCE, "there is no step with this UID"),
    ("N-GET", status.PROCESSING_FAILURE, "internal error of the node; see its log"),
)
