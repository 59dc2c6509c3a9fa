"""Template filters: values of data sets and of the index in readable form.

Text from the network may contain anything. Templates escape it; deceptive characters, such as those that change the
writing direction, are shown as code points.
"""

import csv
import datetime as dt
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from io import StringIO
from typing import Any, Literal

from markupsafe import Markup

from node.completeness import CERTAINTIES, Certainty
from node.dicom.uids import registered_name
from node.index.look.studies import ListedStudy
from node.index.rows.view_rows import remedy_of
from node.quiet import is_due
from node.version import __version__

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_STANDARD_UID = re.compile(r"\b1\.2\.840\.10008(\.[0-9]+)+")
_WORDS = re.compile(r"[a-z]+(?: |$)")
_SEXES = {"M": "male", "F": "female", "O": "other"}


def shown(text: Any) -> str:
    """Return text with control and format characters made visible, such as ``[U+202E]``; None becomes empty."""
    return "" if text is None else "".join(_visible(character) for character in str(text))


def _visible(character: str) -> str:
    if unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp"):
        return f"[U+{ord(character):04X}]"
    return character


def person(name: str | None) -> str:
    """Return a person name as ``Family, Given Middle (other writing)``, PS3.5 6.2.1.1; None becomes empty."""
    if not name or not name.strip("^= "):
        return ""
    groups = [_person_of(group) for group in name.split("=")]
    first, others = groups[0], [group for group in groups[1:] if group]
    return f"{first} ({' · '.join(others)})" if first and others else first or " · ".join(others)


def _person_of(group: str) -> str:
    family, *rest = (shown(part.strip()) for part in group.split("^"))
    given = " ".join(part for part in rest if part)
    return ", ".join(part for part in (family, given) if part)


def sentence(text: str) -> str:
    """Return a message as a sentence: with a capital letter, unless it begins with a name, and a full stop."""
    begins = text[:1].upper() + text[1:] if _WORDS.match(text) else text
    return begins if begins[-1:] in ".!?:" else f"{begins}."


def sex(code: str | None) -> str:
    """Return Patient's Sex as a word, or unchanged if it is not a standard code."""
    return _SEXES.get(code or "", shown(code))


def sized(count: float | None) -> str:
    """Return a number of bytes with three digits and a unit."""
    number, power = float(count or 0), 0
    while number >= 999.5 and power < len(_UNITS) - 1:
        number, power = number / 1000, power + 1
    return f"{number:.0f} {_UNITS[power]}" if power == 0 or number >= 99.5 else f"{number:.3g} {_UNITS[power]}"


def counted(count: float | None, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun; by default, the plural is the singular with an s."""
    number = count or 0
    noun = singular if number == 1 else plural or f"{singular}s"
    return f"{int(number) if number == int(number) else number:,} {noun}".replace(",", "\u2009")


def grouped(count: float | None) -> str:
    """Return an integer with thin spaces between thousands."""
    return f"{count or 0:,.0f}".replace(",", "\u2009")


def moment(at: str | dt.datetime | None) -> str:
    """Return a UTC time as a ``time`` element, which the page shows in the local time of the browser."""
    if at is None:
        return ""
    at = _in_utc(at)
    return Markup('<time datetime="{}" data-moment>{} UTC</time>').format(
        at.isoformat(timespec="milliseconds"), f"{at:%Y-%m-%d %H:%M}"
    )


def countdown(at: str | dt.datetime | None) -> str:
    """Return a ``time`` element that the page shows as a countdown."""
    return "" if at is None else Markup('<time datetime="{}" data-countdown></time>').format(_in_utc(at).isoformat())


def _in_utc(at: str | dt.datetime) -> dt.datetime:
    """Return a time of a view, which has no offset and is in UTC, or another one with its offset."""
    time = dt.datetime.fromisoformat(at) if isinstance(at, str) else at
    return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)


def about(seconds: float) -> str:
    """Return a duration roughly, as people say it: ``20 s``, ``4 min``, ``3 h``."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"


def clock(time: str | dt.time | None) -> str:
    """Return hours and minutes."""
    return "" if time is None else str(time)[:5]


def listed(value: str | list[Any]) -> list[Any]:
    """Return a list that a view returns as JSON."""
    return list(json.loads(value)) if isinstance(value, str) else value


def shape(numbers: str | list[int]) -> str:
    """Return ``columns × rows × slices``."""
    return " × ".join(str(number) for number in listed(numbers))


def spacing(numbers: str | list[float]) -> str:
    """Return the spacing of columns, rows and slices in mm."""
    return " × ".join(f"{number:.3g}" for number in listed(numbers)) + " mm"


def uid_name(uid: str | None) -> str:
    """Return the name of a UID of the standard, or any other UID unchanged."""
    return (registered_name(uid) or uid) if uid else ""


def with_uid_names(text: str | None) -> str:
    """Return text that `shown` returns, with the names of the UIDs of the standard in it."""
    return _STANDARD_UID.sub(lambda found: uid_name(found[0]), shown(text))


def joined(values: Iterable[str]) -> str:
    """Return values separated by commas."""
    return ", ".join(values)


def breakable(uid: str | None) -> str:
    """Return a UID that wraps only at its dots."""
    return Markup("<wbr>").join(Markup("{}").format(part) for part in _parts(shown(uid)))


def wrappable(text: Any) -> str:
    """Return text that `shown` returns, which wraps after underscores as well, as names of sequences have them."""
    return Markup("_<wbr>").join(Markup("{}").format(part) for part in shown(text).split("_"))


def _parts(uid: str) -> list[str]:
    first, *others = uid.split(".")
    return [first, *(f".{part}" for part in others)]


FILTERS: Mapping[str, Any] = {
    function.__name__: function
    for function in (
        shown,
        person,
        sex,
        sized,
        counted,
        sentence,
        grouped,
        moment,
        countdown,
        about,
        clock,
        listed,
        shape,
        spacing,
        uid_name,
        with_uid_names,
        joined,
        breakable,
        wrappable,
    )
}
"""The filters by name."""


def static_url(name: str) -> str:
    """Return the URL of a stylesheet or script of the pages in this version."""
    return f"/static/{name}?v={__version__}"


_FORMULA = re.compile(r"(?![-+][0-9.]+(?:[eE][-+]?[0-9]+)?$)[=+@\t\r-]")
"""How a text begins that a spreadsheet would take for a formula; a number with a sign is none."""


def csv_line(cells: Iterable[object]) -> bytes:
    """Return a line in UTF-8; None is an empty cell.

    Text that a spreadsheet would take for a formula begins with an apostrophe: names come from the network.
    """
    line = StringIO()
    csv.writer(line).writerow(_harmless(cell) for cell in cells)
    return line.getvalue().encode("utf-8", "replace")


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


Tone = Literal["good", "warning", "bad", "busy", "plain", "silent"]
"""silent: no chip is shown, and the word stays in lists of words and in files."""


@dataclass(frozen=True, slots=True)
class StatusChip:
    """The colour and the word of a chip, and a sentence for those who point at it."""

    tone: Tone
    label: str
    title: str = ""


WAITING = StatusChip("busy", "waiting", "Nothing more has come for its quiet time: it is converted when its turn comes")


def series_chip(series: Mapping[str, Any]) -> StatusChip:
    """Return the chip of a row of ``v_series``."""
    state = series["state"]
    if state == "receiving":
        if series["attempts"]:
            return StatusChip("warning", "will be retried")
        return WAITING if is_due(series["due_at"], dt.datetime.now(dt.UTC)) else StatusChip("busy", "receiving")
    if state == "converting":
        return StatusChip("busy", "converting")
    if state in ("refused", "failed"):
        return StatusChip("bad", state)
    if state == "not-an-image":
        return StatusChip("silent" if series.get("documents") else "plain", "no image")
    return certainty_chip(series["certainty"])


def shortfall(series: Mapping[str, Any]) -> str:
    """Return how much of an incomplete or suspect series is here; if that is unknown, what speaks against it."""
    here, expected, missing = series["instances"], series["expected_instances"], series["missing_instances"]
    if expected and here < expected:
        return f"{grouped(here)} of {grouped(expected)} received"
    return f"{grouped(here)} received, {grouped(missing)} missing" if missing else CAUSES[series["verdict_rule"]]


_CERTAINTIES: Mapping[Certainty, StatusChip] = {
    "verified": StatusChip("good", "verified", "A count of instances was announced, and all of them are here."),
    "no gap seen": StatusChip(
        "silent",
        "no gap seen",
        "Nothing seems to be missing, but no count was announced: slices missing at an end would go unnoticed.",
    ),
    "suspect": StatusChip("warning", "suspect", "Something may be missing; the evidence is weak or contradictory."),
    "incomplete": StatusChip("warning", "incomplete", "Instances are missing."),
}


def certainty_chip(certainty: Certainty | None) -> StatusChip:
    """Return the chip of a converted series; None: its completeness was never determined."""
    return _CERTAINTIES[certainty] if certainty is not None else StatusChip("plain", "converted")


def here_chip(item: Mapping[str, Any]) -> StatusChip:
    """Return the chip that says how much of a study or a series at a peer is here."""
    here, there = item["stored"], item["instances"]
    if not here:
        return StatusChip("plain", "not here")
    if there is None:
        return StatusChip("good", f"{here} here", "The peer does not say how many instances there are.")
    if here < there:
        return StatusChip("warning", f"{here} of {there} here")
    return StatusChip("good", f"all {there} here" if here == there else f"{here} here", f"The peer has {there}.")


_SERIOUS_WARNINGS = frozenset(
    {
        "b-values-doubtful",
        "contours-without-slice",
        "gantry-tilt",
        "incomplete-volume",
        "irregular-spacing",
        "missing-slice",
        "missing-time",
        "no-geometry",
        "not-resampled",
        "positions-doubtful",
        "same-position-twice",
        "several-matrices",
        "several-patients",
        "several-positions",
        "slices-assumed",
        "spacing-assumed",
        "suv-unknown",
        "unequal-stacks",
        "values-doubtful",
    }
)
"""Warnings to know before a volume is measured or registered; the others tell how it was made."""


def warning_chips(
    series: Mapping[str, Any], volumes: Iterable[Mapping[str, Any]], told: Iterable[Mapping[str, str]] = ()
) -> list[StatusChip]:
    """Return the chips of the warnings about volumes of a series, rows of ``v_volumes``, the serious ones first.

    A series that is open again has none: more instances are there than its volumes were made of.

    `told`: of some of the volumes, the sentences of their warnings by name.
    """
    if series["state"] in ("receiving", "converting"):
        return []
    sentences: dict[str, dict[str, None]] = {}
    for name, sentence in (item for one in told for item in one.items()):
        of_name = sentences.setdefault(name, {})
        if not any(known.startswith(sentence) for known in of_name):  # as that of a resampled copy does
            of_name[sentence] = None
    names = {name for volume in volumes for name in listed(volume["warnings"])}
    ordered = sorted(names, key=lambda name: (name not in _SERIOUS_WARNINGS, name))
    return [
        StatusChip(
            "warning" if name in _SERIOUS_WARNINGS else "plain",
            name.replace("-", " "),
            "\n".join(sentences.get(name, ())),
        )
        for name in ordered
    ]


_OUTCOMES: Mapping[str, StatusChip] = {
    "series-converted": StatusChip("plain", "converted"),
    "series-unchanged": StatusChip("plain", "unchanged"),
    "series-refused": StatusChip("bad", "refused"),
    "series-failed": StatusChip("bad", "failed"),
}


def event_chip(event: Mapping[str, Any]) -> StatusChip:
    """Return the chip of a row of ``v_events`` that ends a conversion."""
    if event["why"] == "not-an-image" and event["kind"] == "series-refused":
        return StatusChip("plain", "no image")
    if event["kind"] == "series-converted" and event["certainty"] not in (None, "no gap seen"):
        chip = certainty_chip(event["certainty"])
        return chip if chip.tone == "warning" else replace(chip, label="converted")
    return _OUTCOMES[event["kind"]]


def study_chip(study: ListedStudy) -> StatusChip:
    """Return the chip of a study: that of its worst series, or of a series that is still open, with their number."""
    for state in ("failed", "refused", "receiving", "converting"):
        if count := study.states.get(state, 0):
            is_waiting = state == "receiving" and is_due(study.due_at, dt.datetime.now(dt.UTC))
            label = "waiting" if is_waiting else state  # the last one is due, and so are all
            tone: Tone = "bad" if state in ("failed", "refused") else "busy"
            return StatusChip(tone, label if study.series == 1 else f"{count} of {study.series} {label}")
    for certainty in CERTAINTIES:  # the least certain series speaks for the study
        if count := study.certainties.get(certainty, 0):
            chip = certainty_chip(certainty)
            is_counted = chip.tone == "warning" and study.series > 1
            return replace(chip, label=f"{count} {chip.label}") if is_counted else chip
    return StatusChip("plain", "no image" if study.series else "empty")


CAUSES: Mapping[str, str] = {
    "acknowledged": "Instances were acknowledged and are not here",
    "conflict": "Instances were set aside: other series have their UIDs",
    "versions": "Instances have other versions: nobody has decided which ones count",
    "mpps": "The performed procedure step lists more",
    "c-find": "The sender has more",
    "geometry": "Slices are missing in space, or times lack slices",
    "times": "Whole times are missing",
    "headers": "The headers announce more",
    "instance-numbers": "Instance Numbers are missing",
    "spacing": "Distances between slices are not those stated",
    "siblings": "Other series of the protocol say otherwise",
    "forced": "The longest wait ended",
    "association": "The sender ended the association by an abort",
    "quiet": "No more instances were received",
}
"""Causes of problems that are no reasons of failures: rules of verdicts (docs/lifecycle.md)."""

CONFLICTS_PAGE = "/problems/conflicts"


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to do about a problem, and the path of the page for it, if there is one."""

    text: str
    page: str = ""


def verdict_remedy(series: Mapping[str, Any]) -> Remedy:
    """Return what to do about an incomplete or suspect series."""
    is_conflict = series["verdict_rule"] in ("versions", "conflict") and not series["missing_at_sender"]
    return Remedy(remedy_of(series), CONFLICTS_PAGE if is_conflict else "")


CONFLICT_REMEDIES: Mapping[str, str] = {
    "instance-bytes": "Compare the versions. Accept makes the later one current, also if it is in another study.",
    "instance-versions": "Compare the versions; accept makes the later one current. New content needs a new UID.",
    "instance-replaced": "No action needed if the second version is correct. The first one is in quarantine.",
    "instance-damaged": "Send the instance again if its file is still missing. The damaged one is kept.",
    "instance-quarantined": "Compare it with the current version, and accept the correct one.",
    "digest-corrected": "Compare the instance with its sender's. If it is sent again, the sent file takes its place.",
    "study-of-two-patients": "Find out to which patient the study belongs, and have the sender correct it.",
    "attributes-differ": "No action needed if what most of the images state is correct.",
    "series-in-two-studies": "Both series are stored. Delete the wrong one.",
    "no-patient-id": "Have the sender fill in Patient ID (0010,0020). Until then, the study has a patient of its own.",
    "other-patient-than-ordered": "Find out whose images these are; correct the order, or have the study sent again.",
    "shared-patient-id": "Find out whether both are the same person: compare them, then merge them or keep them apart.",
}
"""Remedies by kind of conflict (docs/custody.md)."""
