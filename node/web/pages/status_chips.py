"""How far a series or a study has come, in one word and one colour; and what helps where it went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from node.index.read.studies import ListedStudy

Tone = Literal["good", "warning", "bad", "busy", "plain"]


@dataclass(frozen=True, slots=True)
class StatusChip:
    """What a chip shows."""

    tone: Tone
    label: str


def series_chip(series: Mapping[str, Any]) -> StatusChip:
    """Of a row of ``v_series``."""
    state = series["state"]
    if state == "receiving":
        return StatusChip("warning", "will be tried again") if series["attempts"] else StatusChip("busy", "receiving")
    if state == "converting":
        return StatusChip("busy", "converting")
    if state == "refused":
        return StatusChip("bad", "refused")
    if state == "failed":
        return StatusChip("bad", "failed")
    if state == "not-an-image":
        return StatusChip("plain", "no image")
    return StatusChip("warning", "incomplete") if series["verdict"] == "incomplete" else StatusChip("good", "complete")


_OUTCOMES: Mapping[str, StatusChip] = {
    "series-converted": StatusChip("good", "converted"),
    "series-unchanged": StatusChip("plain", "unchanged"),
    "series-refused": StatusChip("bad", "refused"),
    "series-failed": StatusChip("bad", "failed"),
}


def event_chip(event: Mapping[str, Any]) -> StatusChip:
    """Of a row of ``v_events`` that tells what came of a conversion."""
    if event["kind"] == "series-refused" and (event["detail"] or "").startswith("not-an-image"):
        return StatusChip("plain", "no image")
    return _OUTCOMES[event["kind"]]


def study_chip(study: ListedStudy) -> StatusChip:
    """The worst that a series of it has come to, else that something is still under way."""
    failed = study.states.get("failed", 0) + study.states.get("refused", 0)
    opened = study.states.get("receiving", 0) + study.states.get("converting", 0)
    if failed:
        return StatusChip("bad", "no volume" if study.series == 1 else f"{failed} of {study.series} no volume")
    if opened:
        what = "receiving" if study.states.get("receiving") else "converting"
        return StatusChip("busy", what if study.series == 1 else f"{opened} of {study.series} {what}")
    if study.incomplete:
        return StatusChip("warning", "incomplete" if study.series == 1 else f"{study.incomplete} incomplete")
    if study.states.get("converted"):
        return StatusChip("good", "complete")
    return StatusChip("plain", "no image" if study.series else "empty")


REMEDIES: Mapping[str, str] = {
    "undecodable": "Run voxelnode doctor: a codec may be missing. If none is, the image is damaged: send it again.",
    "contradictory": "The sender wrote attributes that cannot all be true: compare its header with the detail here.",
    "bad-geometry": "Orientation or spacing in the header is impossible: the scanner or an anonymiser spoilt it.",
    "unproven-layout": "Export the series as single images or as Enhanced MR, which tell the place of each slice.",
    "tiled-slide": "Whole-slide microscopy is kept and served as DICOM; there is no volume of it.",
    "same-position-twice": "Send the parts as series of their own, or with attributes that tell them apart.",
    "incomplete": "Send the missing parts: the series is then converted again by itself.",
    "duplicate-slice": "Nothing is lost: one of the copies counts.",
    "too-large": "Raise [convert] memory_bytes if this machine has the room, then convert again.",
    "unreadable": "The file is damaged: send the instance again.",
    "failed": "The converter crashed or ran out of time or memory: raise [convert] limits, then convert again; "
    "the log of the node tells more.",
}
"""By the reason of a failure, see docs/conversion.md."""

CONFLICT_REMEDIES: Mapping[str, str] = {
    "instance-bytes": "Nothing, if the first is right. Else delete the instance and send the right one again.",
    "instance-versions": "Both are kept. Tell the sender that it changes instances under one SOP Instance UID.",
    "instance-replaced": "Nothing, if the second is right; the first is in quarantine.",
    "study-of-two-patients": "Find out whose study it is, and have the sender correct it.",
    "series-in-two-studies": "There are two series now. Delete the one that is wrong.",
    "no-patient-id": "Have the sender fill in Patient ID (0010,0020); the study stays by itself until then.",
    "shared-patient-id": "Find out whether it is one person. If two are one: voxelnode patient merge FROM INTO.",
}
"""By the kind of a conflict, see docs/custody.md."""
