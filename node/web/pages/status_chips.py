"""Status chips (word and colour) of series and studies, and remedies for failures and conflicts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from node.completeness import CERTAINTIES, NO_MORE, Certainty
from node.index.engine.view_rows import remedy_of
from node.index.nouns.studies import ListedStudy
from node.quiet import is_due
from node.web.pages.filters import grouped, listed

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
    if state == "refused":
        return StatusChip("bad", "refused")
    if state == "failed":
        return StatusChip("bad", "failed")
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
    if event["kind"] == "series-refused" and (event["detail"] or "").startswith("not-an-image"):
        return StatusChip("plain", "no image")
    if event["kind"] == "series-converted" and event["certainty"] not in (None, "no gap seen"):
        chip = certainty_chip(event["certainty"])
        return chip if chip.tone == "warning" else replace(chip, label="converted")
    return _OUTCOMES[event["kind"]]


def study_chip(study: ListedStudy) -> StatusChip:
    """Return the chip of a study: that of its worst series, or of a series that is still open."""
    failed = study.states.get("failed", 0) + study.states.get("refused", 0)
    opened = study.states.get("receiving", 0) + study.states.get("converting", 0)
    if failed:
        return StatusChip("bad", "no volume" if study.series == 1 else f"{failed} of {study.series} no volume")
    if opened:
        state = "receiving" if study.states.get("receiving") else "converting"
        if state == "receiving" and is_due(study.due_at, dt.datetime.now(dt.UTC)):
            state = "waiting"
        return StatusChip("busy", state if study.series == 1 else f"{opened} of {study.series} {state}")
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
    is_conflict = series["verdict_rule"] in ("versions", "conflict") and NO_MORE not in (series["verdict_reason"] or "")
    return Remedy(remedy_of(series), CONFLICTS_PAGE if is_conflict else "")


CONFLICT_REMEDIES: Mapping[str, str] = {
    "instance-bytes": "Compare the versions. Accept makes the later one current, also if it is in another study.",
    "instance-versions": "Compare the versions; accept makes the later one current. New content needs a new UID.",
    "instance-replaced": "No action needed if the second version is correct. The first one is in quarantine.",
    "instance-damaged": "Send the instance again if its file is still missing. The damaged one is kept.",
    "instance-quarantined": "Compare it with the current version, and accept the correct one.",
    "digest-corrected": "Compare the instance with its sender's. If it is sent again, the sent file takes its place.",
    "study-of-two-patients": "Find out to which patient the study belongs, and have the sender correct it.",
    "series-in-two-studies": "Both series are stored. Delete the wrong one.",
    "no-patient-id": "Have the sender fill in Patient ID (0010,0020). Until then, the study has a patient of its own.",
    "other-patient-than-ordered": "Find out whose images these are; correct the order, or have the study sent again.",
    "shared-patient-id": "Find out whether both are the same person: compare them, then merge them or keep them apart.",
}
"""Remedies by kind of conflict (docs/custody.md)."""


WORK_CHIPS: Mapping[str, StatusChip] = {
    "waiting": StatusChip("plain", "waiting"),
    "running": StatusChip("busy", "running"),
    "succeeded": StatusChip("good", "succeeded"),
    "incomplete": StatusChip("warning", "incomplete"),
    "failed": StatusChip("bad", "failed"),
    "cancelled": StatusChip("plain", "cancelled"),
    "expired": StatusChip("bad", "expired"),
    "dropped": StatusChip("plain", "dropped"),
    "skipped": StatusChip("warning", "skipped"),
}

"""Of the states and outcomes of work."""
