"""Orders as HL7 v2 messages: ORM^O01 and OMI^O23 become worklist entries (HL7 v2.5.1 chapters 2 and 4, IHE RAD-4).

Only what an order needs is parsed: segments, fields, repetitions, components and escapes of the vertical bar encoding.
"""

import datetime as dt
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from encodings.aliases import aliases
from functools import partial
from typing import Literal

from pydicom.datadict import tag_for_keyword

from node.dicom.attributes import MAX_TEXT_BYTES, is_short
from node.dicom.character_sets import decoded, plain_term
from node.errors import VoxelnodeError
from node.extensions.worklist.modality_worklist import InvalidEntry, element, step_of
from node.extensions.worklist.scheduled_rows import ENDED, HELD, IN_PROGRESS, SCHEDULED, OrderedStep, ScheduledStep

MAX_SEGMENTS = 500
MAX_STEPS = 50
"""Steps of one order."""

_CODECS = {
    **{plain_term(alias): codec for alias, codec in aliases.items()},
    **{plain_term(codec): codec for codec in aliases.values()},
    "UNICODE": "utf-8", "ISOIR14": "shift_jis", "ISOIR87": "ascii", "ISOIR159": "ascii", "ISOIR13": "shift_jis",
    "ISOIR192": "utf-8", "ISOIR203": "iso8859_15", "BIG5": "cp950", "KSX1001": "cp949", "ISOIR149": "cp949",
}  # fmt: skip
"""Python's codecs by the names of HL7 table 0211, of (0008,0005) and of IANA. The Japanese sets follow escapes."""

BEGUN, ON_STATUS, NOTHING = "begun", "on status", "nothing"
"""Effects of an order control code: the order status decides, without which a new order is scheduled and another one
stays as it is; the node can do nothing for it, and says so."""

ORDER_CONTROL: Mapping[str, str] = {
    code: effect
    for effect, codes in {
        # new, replacement order, child order
        BEGUN: "NW RO CH",
        # change request, changed unsolicited, changed as requested, parent order, status changed, send order number,
        # number assigned
        ON_STATUS: "XO XX XR PA SC SN NA",
        # release previous hold, order released, released as requested
        SCHEDULED: "RL OE OR",
        # hold request, order held, on hold as requested
        HELD: "HD OH HR",
        # cancel request, order canceled, canceled as requested; replace request, replaced unsolicited, replaced as
        # requested, all three of the order that is replaced (RO has the new one)
        "canceled": "CA OC CR RP RU RQ",
        # discontinue request, order discontinued, discontinued as requested
        "discontinued": "DC OD DR",
        # refills: approval, denied, unsolicited, as requested, request; dispenses: order, replacement; results:
        # combined, previous, to follow; answers: data errors, accepted, request received, notification received, to a
        # status request, unable to accept, to cancel, discontinue, refill, hold, replace, release, change; link and
        # unlink a problem, charge, status request, cancel a process step; recommendation accepted, changed, declined;
        # supplemented as requested, supplement
        NOTHING: "AF DF FU OF RF OP PY CN PR RE DE OK RR NR SR UA UC UD UF UH UM UR UX LI UN MC SS CP RA RC RD SQ SU",
    }.items()
    for code in codes.split()
}
"""HL7 table 0119: the effect of each code, a state of the step or one of the above."""

ORDER_STATUS: Mapping[str, str | None] = {
    "": None, "SC": SCHEDULED, "IP": IN_PROGRESS, "A": IN_PROGRESS, "HD": HELD, "CA": "canceled", "RP": "canceled",
    "DC": "discontinued", "CM": "completed",
}  # fmt: skip
"""HL7 table 0038: scheduled, in process, some results available, on hold, canceled, replaced, discontinued, completed.
ER, order not found, is refused."""

RESULT_STATUS = {**dict.fromkeys(("", *"OISAPR")), "X": "canceled", "F": "completed", "C": "completed"}
"""HL7 table 0123: order canceled, final results, correction. Those before leave it to the order, as OBR-25 without a
value does; Y and Z, no order or no patient on record, are refused."""

PATIENT_TYPES = ("MR", "PI", "PT", "", "U", "MRT")
"""HL7 table 0203: medical record number, internal and external identifiers of patients, without a type, unspecified,
temporary medical record number."""

_SEXES = {"": "", "F": "F", "M": "M", "O": "O", "A": "O", "N": "", "U": ""}
"""HL7 table 0001: female, male, other, ambiguous, not applicable, unknown."""

_NAMESPACE = uuid.UUID("5f0b7a52-3d0e-4a4c-8a43-60f6b7c8a5f1")

Verdict = Literal["AA", "AE", "AR"]
"""Acknowledgment code (HL7 table 0008): accepted, an error in the order, rejected as a message."""


ERRORS = {
    100: "segment sequence error", 101: "required field missing", 102: "data type error", 103: "table value not found",
    200: "unsupported message type", 204: "unknown key identifier", 205: "duplicate key identifier",
    207: "application internal error",
}  # fmt: skip
"""HL7 table 0357."""


class MessageRefused(VoxelnodeError):
    """A message is not taken; `code` is AE or AR, `error` of `ERRORS`. The message of the error has no patient data."""

    def __init__(self, code: Verdict, reason: str, error: int = 102) -> None:
        super().__init__(reason)
        self.code, self.error = code, error


@dataclass(frozen=True, slots=True)
class Hl7Message:
    """A parsed message: its delimiters and segments; a segment is a list of fields that begins with its name."""

    component: str
    repetition: str
    escape: str
    subcomponent: str
    segments: tuple[tuple[str, ...], ...]

    def named(self, name: str) -> tuple[str, ...]:
        """Return the first segment of a name, or an empty one."""
        return next((segment for segment in self.segments if segment[0] == name), (name,))

    def only(self, name: str) -> tuple[str, ...]:
        """Return the segment of a name, or an empty one; raise MessageRefused if there are several."""
        if sum(segment[0] == name for segment in self.segments) > 1:
            raise MessageRefused("AE", f"the message has several {name} segments: send one message for each", 100)
        return self.named(name)

    def repeated(self, segment: tuple[str, ...], field: int) -> list[tuple[str, ...]]:
        """Return a segment once for each repetition of a field that has a value, or as it is."""
        texts = segment[field].split(self.repetition) if len(segment) > field else []
        return [(*segment[:field], text, *segment[field + 1 :]) for text in texts if text] or [segment]

    def of_patient(self, segment: tuple[str, ...], field: int) -> list[tuple[str, ...]]:
        """Return a segment once for each identifier of a patient in a field (CX), those of medical records first.

        Numbers of another type (CX-5), such as an account, a visit or a social security number, name the patient only
        if no other does.
        """
        given = [(self.value(one, field, 5).upper(), one) for one in self.repeated(segment, field)]
        given = [(kind, one) for kind, one in given if self.value(one, field)]
        own = [one for known in PATIENT_TYPES for kind, one in given if kind == known]
        return own or [one for _, one in given] or [segment]

    def authority(self, segment: tuple[str, ...], field: int) -> str:
        """Return the assigning authority of an identifier (CX-4, HD): its namespace, else its universal ID."""
        return self.value(segment, field, 4) or self.value(segment, field, 4, 2)

    def identifier(self, segment: tuple[str, ...], field: int) -> str:
        """Return an entity identifier with its namespace (EI); empty if it has no number."""
        parts = [self.value(segment, field, part) for part in range(1, 5)]
        return "^".join(parts).rstrip("^") if parts[0] else ""

    def value(self, segment: tuple[str, ...], field: int, component: int = 1, part: int = 1) -> str:
        """Return a subcomponent of the first repetition of a field, without escapes; empty if there is none."""
        if len(segment) <= field:
            return ""
        parts = segment[field].split(self.repetition)[0].split(self.component)
        text = parts[component - 1] if len(parts) >= component else ""
        texts = text.split(self.subcomponent) if self.subcomponent else [text]
        return self._plain(texts[part - 1] if len(texts) >= part else "")

    def _plain(self, text: str) -> str:
        if text == '""':  # HL7's null: delete the value
            return ""
        if not self.escape or self.escape not in text:
            return text.strip()
        known = {"F": "|", "S": self.component, "T": self.subcomponent, "R": self.repetition, "E": self.escape}
        mark = re.escape(self.escape)
        return re.sub(f"{mark}([^{mark}]*){mark}", lambda found: known.get(found[1], " "), text).strip()


def parse(data: bytes) -> Hl7Message:
    """Return the segments of a message; MessageRefused if it is no HL7 v2 message in the vertical bar encoding."""
    head = heading(data).named("MSH")
    return _parsed(_decoded(data, head[17] if len(head) > 17 else ""))


def heading(data: bytes) -> Hl7Message:
    """Return the MSH segment of a message, by which it is answered; raise MessageRefused as `parse`."""
    if not data.startswith(b"MSH|") or len(data) < 9:
        raise MessageRefused("AR", "the message does not begin with an MSH segment and the delimiter |", 100)
    return _parsed(re.split(b"[\r\n]", data, maxsplit=1)[0].decode("latin-1"))


def _parsed(text: str) -> Hl7Message:
    lines = [line for line in re.split("[\r\n]+", text) if line]
    if len(lines) > MAX_SEGMENTS:
        raise MessageRefused("AR", f"the message has more than {MAX_SEGMENTS} segments")
    component, repetition, escape, subcomponent = (*lines[0].split("|")[1][:4], *" " * 4)[:4]
    if len({component, repetition, "|"} - {" "}) < 3:
        raise MessageRefused("AR", "MSH-2 must name the delimiters, such as ^~\\&", 101)
    segments = tuple(tuple(line.split("|")) for line in lines)
    return Hl7Message(component, repetition, escape.strip(), subcomponent.strip(), segments)


def _decoded(data: bytes, character_set: str) -> str:
    """Return the text of a message by MSH-18: its first character set, others by escape sequences or if it fails."""
    names = [plain_term(name) or "ASCII" for name in character_set.split("~")] if character_set else ["UTF8", "LATIN1"]
    codecs = [_CODECS.get(name.removeprefix("UNICODE") or name) or _CODECS.get(f"ISO{name}", "") for name in names]
    if "" in codecs:
        raise MessageRefused("AE", "MSH-18 must name character sets of HL7 table 0211, but not CNS 11643-1992", 103)
    for codec in codecs:
        try:
            text = decoded(data, [codec], "UT") if b"\x1b" in data and "ascii" in codecs else data.decode(codec)
        except (UnicodeDecodeError, LookupError):  # no codec of text
            continue
        if text.startswith("MSH|") and "\ufffd" not in text:
            return text
    raise MessageRefused("AE", "the message is not in the character set of MSH-18")


def orders_of(message: Hl7Message, stations: Mapping[str, str]) -> list[OrderedStep]:
    """Return the steps that an order message schedules, changes or cancels, or raise MessageRefused.

    `stations` has the AE title of the station for a modality, if an order names none.
    """
    if type_of(message) not in ("ORM^O01", "OMI^O23"):
        raise MessageRefused("AR", "only ORM^O01, OMI^O23 and ADT^A08, A31, A37, A40, A47 are accepted", 200)
    for name in ("MSH", "PID"):
        message.only(name)
    found = [order for group in _groups(message) for order in _orders(message, group, stations)]
    if not found:
        raise MessageRefused("AE", "the message has no ORC and OBR segments", 100)
    if len(found) > MAX_STEPS:
        raise MessageRefused("AE", f"the message has more than {MAX_STEPS} steps")
    return found


_Group = dict[str, list[tuple[str, ...]]]


def _groups(message: Hl7Message) -> Iterator[_Group]:
    """Yield the segments of each order by name: those from one ORC to the next."""
    group: _Group = {}
    for segment in message.segments:
        if segment[0] == "ORC":
            if "ORC" in group:
                yield group
            group = {}
        group.setdefault(segment[0], []).append(segment)
    if "ORC" in group:
        yield group


def _orders(message: Hl7Message, group: _Group, stations: Mapping[str, str]) -> Iterator[OrderedStep]:
    value, [order, *_] = message.value, group["ORC"]
    placer, filler = (message.identifier(order, field) for field in (2, 3))
    if not placer and not filler:
        raise MessageRefused("AE", "ORC-2 or ORC-3 must have the number of the order", 101)
    patient = message.of_patient(message.named("PID"), 3)[0]
    whose = value(patient, 3), message.authority(patient, 3)
    steps = _steps(group)
    for position, (request, step) in enumerate(steps):
        state = state_of(value(order, 1), value(order, 5), value(request, 25))
        step_id = value(step, 4) or value(request, 20)
        if not all(map(is_short, (placer, filler, step_id))):
            raise MessageRefused("AE", f"the number of the order is longer than {MAX_TEXT_BYTES} bytes")
        entry, lacks = None, "the order has no OBR segment"
        make = partial(_step, message, group, request, step, placer or filler, stations)
        if "OBR" in group:
            try:
                entry = make({})
            except InvalidEntry as error:
                lacks = str(error)
                if state not in ENDED:
                    raise MessageRefused("AE", lacks) from error
        is_whole = not step_id and len(steps) == 1
        yield OrderedStep(placer, filler, step_id, position, is_whole, state, entry, lacks, make, *whose)


def state_of(control: str, status: str, result: str = "") -> str | None:
    """Return the state of a step by ORC-1, ORC-5 and OBR-25, or raise MessageRefused; None: it stays as it is."""
    control, status, result = control.upper(), status.upper(), result.upper()
    effect = ORDER_CONTROL.get(control, NOTHING)
    if effect == NOTHING:
        taken = ", ".join(sorted(code for code, effect in ORDER_CONTROL.items() if effect != NOTHING))
        raise MessageRefused("AE", f"ORC-1 must be one of {taken}: the node does nothing for others", 103)
    for field, code, table in (("ORC-5", status, ORDER_STATUS), ("OBR-25", result, RESULT_STATUS)):
        if code not in table:
            taken = ", ".join(filter(None, sorted(table)))
            raise MessageRefused("AE", f"{field} must be empty or one of {taken}", 103)
    if effect not in (BEGUN, ON_STATUS):
        return effect
    state = ORDER_STATUS[status] or (SCHEDULED if effect == BEGUN else None)
    if state == IN_PROGRESS and control != "SC":
        state = SCHEDULED  # in process for the department; that a modality has begun is a change of status
    return state if state in ENDED else RESULT_STATUS[result] or state


def _steps(group: _Group) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return OBR and IPC of each step of an order; several IPC may share one OBR."""
    requests, steps = group.get("OBR", [("OBR",)]), group.get("IPC", [])
    if not steps:
        return [(request, ("IPC",)) for request in requests]
    return [(requests[min(number, len(requests) - 1)], step) for number, step in enumerate(steps)]


def _step(
    message: Hl7Message,
    group: _Group,
    request: tuple[str, ...],
    step: tuple[str, ...],
    number: str,
    stations: Mapping[str, str],
    kept: Mapping[str, str],
) -> ScheduledStep:
    """Return the entry of a step; what IHE puts into IPC counts more than the older places in OBR.

    Identifiers that the message lacks are those that are `kept`, else made up.
    """
    value, patient = message.value, message.of_patient(message.named("PID"), 3)[0]
    date, time = _start(message, group, request)
    modality = value(step, 5) or value(request, 24)
    made_up = f"2.25.{uuid.uuid5(_NAMESPACE, number).int}"  # the same for each message about an order (PS3.5 B.2)
    short = number if len(number) <= 16 else f"S{uuid.uuid5(_NAMESPACE, number).hex[:15].upper()}"
    fields = {
        "patient_id": value(patient, 3),
        "patient_name": patient_name_of(message, patient),
        "patient_birth_date": birth_date_of(message, patient),
        "patient_sex": sex_of(message, patient),
        "accession_number": value(step, 1) or value(request, 18),
        "referring_physician_name": name_of(message, message.named("PV1"), 8, first=2),
        "study_instance_uid": value(step, 3) or value(next(iter(group.get("ZDS", [])), message.named("ZDS")), 1),
        "requested_procedure_id": value(step, 2) or value(request, 19),
        "requested_procedure_description": value(request, 4, 2),
        "scheduled_procedure_step_id": value(step, 4) or value(request, 20),
        "modality": modality,
        "station_ae_title": value(step, 9) or value(request, 21) or stations.get(modality, ""),
        "station_name": value(step, 7),
        "start_date": date,
        "start_time": time,
        "description": value(step, 6, 2) or value(request, 4, 2),
    }
    further = {
        "IssuerOfPatientID": message.authority(patient, 3),
        "PlacerOrderNumberImagingServiceRequest": value(group["ORC"][0], 2),
        "FillerOrderNumberImagingServiceRequest": value(group["ORC"][0], 3),
    }
    attributes = {f"{tag_for_keyword(keyword):08X}": element(keyword, text) for keyword, text in further.items()}
    made = {"study_instance_uid": made_up, "requested_procedure_id": short, "scheduled_procedure_step_id": short}
    return step_of({name: text for name, text in fields.items() if text}, attributes, {**made, **kept})


def _start(message: Hl7Message, group: _Group, request: tuple[str, ...]) -> tuple[str, str]:
    """Return date and time of the start: TQ1-7, ORC-7.4, OBR-27.4 or OBR-36, the first of them that has one."""
    value = message.value
    timing = next(iter(group.get("TQ1", [])), ("TQ1",))
    places = (value(timing, 7), value(group["ORC"][0], 7, 4), value(request, 27, 4), value(request, 36))
    moment = re.match(r"(\d{8})(\d{2}|\d{4}|\d{6})?(?!\d)", next((text for text in places if text), ""))
    return (moment[1], moment[2] or "") if moment else ("", "")


def sex_of(message: Hl7Message, segment: tuple[str, ...]) -> str:
    """Return PID-8 as Patient's Sex (0010,0040), empty if it is not known; raise MessageRefused if it has no code."""
    code = message.value(segment, 8).upper()
    if code not in _SEXES:
        raise MessageRefused("AE", f"PID-8 must be empty or one of {', '.join(filter(None, _SEXES))}", 103)
    return _SEXES[code]


def birth_date_of(message: Hl7Message, segment: tuple[str, ...]) -> str:
    """Return the date of PID-7; empty if it is only a year, or a year and a month, which a DA cannot say."""
    date = message.value(segment, 7)[:8]
    return "" if re.fullmatch(r"\d{4}(\d\d)?", date) else date


def patient_name_of(message: Hl7Message, segment: tuple[str, ...]) -> str:
    """Return PID-5 as a PN of three groups: alphabetic, ideographic, phonetic (XPN-8); of several, the legal name."""
    named, groups = message.repeated(segment, 5), []
    for codes in ("A", ""), ("I",), ("P",):
        its = [one for one in named if message.value(one, 5, 8).upper() in codes]
        best = min(its, key=lambda one: {"L": 0, "D": 1, "": 1}.get(message.value(one, 5, 7).upper(), 2), default=None)
        groups.append("" if best is None else name_of(message, best, 5, first=1))
    return "=".join(groups).rstrip("=") or name_of(message, segment, 5, first=1)


def name_of(message: Hl7Message, segment: tuple[str, ...], field: int, *, first: int) -> str:
    """Return a name as a PN: family, given, middle, prefix, suffix (PS3.5 6.2.1); XPN and XCN have the suffix first."""
    family, given, middle, suffix, prefix = (message.value(segment, field, first + part) for part in range(5))
    return "^".join(
        part.replace("^", " ").replace("=", " ") for part in (family, given, middle, prefix, suffix)
    ).rstrip("^")


def type_of(message: Hl7Message | None) -> str:
    """Return the type of a message, such as ORM^O01; empty if MSH-9 has something else."""
    found = "^".join(message.value(message.named("MSH"), 8, part) for part in (1, 2)) if message else ""  # MSH-1 is |
    return found if re.fullmatch(r"[A-Z]{3}\^[A-Z]\d\d", found) else ""


def acknowledgment(
    message: Hl7Message | None, verdict: Verdict, reason: str, ae_title: str, now: dt.datetime, error: int = 0
) -> bytes:
    """Return the acknowledgment of a message (HL7 v2.5.1 2.9.2): of its content, it repeats only the control ID."""
    control_id, sender, facility, trigger, version = "", "", "", "", "2.5.1"
    if message is not None:
        header = message.named("MSH")
        control_id, sender, facility = (_echoed(message.value(header, field), 199) for field in (9, 2, 3))
        trigger = _echoed(message.value(header, 8, 2), 3)
        version = _echoed(message.value(header, 11), 8) or version
    lines = (
        f"MSH|^~\\&|{_echoed(ae_title, 16)}||{sender}|{facility}|{now:%Y%m%d%H%M%S}||ACK^{trigger}^ACK|"
        f"{uuid.uuid4().hex[:20]}|P|{version}",
        f"MSA|{verdict}|{control_id}|{_echoed(reason, 80)}",
        *([f"ERR|||{error}^{ERRORS[error].capitalize()}^HL70357|E||||{_echoed(reason, 250)}"] if error else []),
    )
    return "".join(f"{line}\r" for line in lines).encode("ascii", "replace")


def _echoed(text: str, length: int) -> str:
    """Return a text that cannot be taken for delimiters or segments."""
    return re.sub(r"[^ -~]|[|^~\\&]", " ", text)[:length].strip()
