"""Chips, shortfalls and remedies: what the pages of studies, series, conversions and problems say of each in a word.

Their templates have these functions and texts beside those of all pages.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Response

from node.completeness import CERTAINTIES, Certainty
from node.index.look.studies import ListedStudy
from node.index.rows.view_rows import remedy_of
from node.quiet import is_due
from node.volume.reasons import REMEDIES
from node.web.access import Call
from node.web.pages import rendering
from node.web.pages.filters import StatusChip, Tone, grouped, listed

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


def event_chip(event: Mapping[str, Any]) -> StatusChip:
    """Return the chip of a row of ``v_events`` that ends a conversion."""
    if event["why"] == "not-an-image" and event["kind"] == "series-refused":
        return StatusChip("plain", "no image")
    if event["kind"] == "series-converted" and event["certainty"] not in (None, "no gap seen"):
        chip = certainty_chip(event["certainty"])
        return chip if chip.tone == "warning" else replace(chip, label="converted")
    outcome = event["kind"].removeprefix("series-")
    return StatusChip("bad" if outcome in ("refused", "failed") else "plain", outcome)


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

_OF_TEMPLATES: Mapping[str, Any] = {
    **{one.__name__: one for one in (series_chip, shortfall, study_chip, event_chip, warning_chips, verdict_remedy)},
    "remedies": REMEDIES,
    "causes_in_words": CAUSES,
    "conflict_remedies": CONFLICT_REMEDIES,
}


def page(call: Call, template: str, **values: Any) -> Response:
    """Return a complete page; see `node.web.pages.rendering.page`."""
    return rendering.page(call, template, **_OF_TEMPLATES, **values)


def fragment(call: Call, template: str, **values: Any) -> Response:
    """Return a part of a page; see `node.web.pages.rendering.fragment`."""
    return rendering.fragment(call, template, **_OF_TEMPLATES, **values)
