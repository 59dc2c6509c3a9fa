"""What stays in a release: all texts, numbers, dates and UIDs, attribute by attribute, for a person to read."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.multival import MultiValue

from node.children.messages import Garbled
from node.children.pseudonyms import MADE_UID
from node.dicom.json_model import BINARY
from node.dicom.values import CONVERSION_ERRORS, held_elements, text, texts
from node.errors import ConversionRefused
from node.extensions.deidentify.profile import Option
from node.files.reading import read_instance
from node.web.pages.filters import csv_line

COLUMNS = ("attribute", "tag", "vr", "value", "count")

MAX_VALUES = 1000
"""Values of one attribute that are listed; the others are counted together."""

NOT_READABLE = "(not readable)"
"""Stands for a value that contradicts its VR, and is still in the instance."""

MAX_CHARACTERS = 500

_Attribute = tuple[str, str, str]

Line = tuple[str, str, str, str, int]
"""Attribute, tag, VR, value, and number of occurrences."""


class Remaining:
    """Distinct values of each attribute, and how often they occur. Names begin with those of sequences."""

    def __init__(self) -> None:
        self._values: dict[_Attribute, Counter[str]] = {}

    def add(self, ds: Dataset) -> None:
        """Count the values of an instance, to any depth, without pixel data and other bytes."""
        self._add_items(ds, "", "")

    def merge(self, lines: Iterable[Line]) -> None:
        """Add what `lines` of another one yields."""
        for name, tag, vr, value, count in lines:
            self._count((name, tag, vr), value, count)

    def lines(self) -> Iterator[Line]:
        """Yield the lines by tag; of one attribute, the rarest last."""
        for attribute in sorted(self._values, key=lambda each: (each[1], each[0])):
            for value, count in self._values[attribute].most_common():
                yield (*attribute, value, count)

    def as_csv(self) -> bytes:
        """Return the lines as a file of CSV in UTF-8, which spreadsheets open without calculating anything."""
        return b"".join(map(csv_line, [COLUMNS, *self.lines()]))

    def _add_items(self, ds: Dataset, names: str, tags: str) -> None:
        for tag in list(held_elements(ds)):
            name = f"{names}{keyword_for_tag(tag) or 'private'}"
            number = f"{tags}({tag.group:04X},{tag.element:04X})"
            try:
                element = ds[tag]
                vr, value = str(element.VR), None if str(element.VR) in BINARY else element.value
            except CONVERSION_ERRORS:
                self._count((name, number, ""), NOT_READABLE, 1)
                continue
            if vr == "SQ":
                for item in value or ():
                    self._add_items(item, f"{name}/", f"{number}/")
            else:
                for text in _texts(value):
                    self._count((name, number, vr), MADE_UID if vr == "UI" and text.startswith(MADE_UID) else text, 1)

    def _count(self, attribute: _Attribute, value: str, count: int) -> None:
        values = self._values.setdefault(attribute, Counter())
        if value not in values and len(values) >= MAX_VALUES:
            value = "(other values)"
        values[value] += count


def compared(original: Path, copy: Path) -> bytes:
    """Return the lines of a copy and what it lost as JSON: for a child of `node.children.decoder`."""
    remaining = Remaining()
    remaining.add(read_instance(copy))
    return json.dumps([list(remaining.lines()), list(lost(read_instance(original), read_instance(copy)))]).encode()


class Loss(StrEnum):
    """What a volume is made with, in the words of messages. Without the first, there is no volume."""

    PLANES = "places of planes"
    B_VALUES = "b-values"
    DIRECTIONS = "gradient directions"
    SLICE_TIMES = "slice times"
    PHASE_ENCODING = "phase encoding direction"
    READOUT = "readout time"
    ECHO_TIMES = "echo times of a field map"


def comparison_of(answer: bytes) -> tuple[list[Line], frozenset[Loss]]:
    """Return the lines, and what was lost, that `compared` answers with.

    Raises Garbled: it is no answer of it.
    """
    try:
        lines, losses = json.loads(answer)
        found = [(str(name), str(tag), str(vr), str(value), int(n)) for name, tag, vr, value, n in lines]
        return found, frozenset(map(Loss, losses))
    except (ValueError, TypeError, RecursionError) as error:
        raise Garbled from error


def _texts(value: Any) -> Iterator[str]:
    values = value if isinstance(value, MultiValue | list | tuple) else [value]
    for each in values:
        text = "" if each is None else str(each)
        if text:
            yield text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"


_ANY_SLICES, _ANY_SECONDS = 60, 2.0
"""A volume whose slices GE's protocol times, if it times those of any."""


def load() -> None:
    """Load what `lost` imports."""
    import_module("node.volume.describe.sidecar_fields")
    import_module("node.volume.read.frames")


def lost(original: Dataset, copy: Dataset) -> frozenset[Loss]:
    """Return the facts that an image states and its copy lacks; nothing unless its modality is MR.

    Both data sets are read for this alone: an element that was read may be kept or encoded in another way.
    """
    stated = _stated(original)
    return stated - _stated(copy) if stated else stated


def in_words(losses: Collection[Loss]) -> str:
    """Return losses in the order of `Loss`; the first one makes the others pointless."""
    if Loss.PLANES in losses:
        return f"{Loss.PLANES}, without which there is no volume"
    return ", ".join(loss for loss in Loss if loss in losses)


def remedy(losses: Collection[Loss], options: Collection[Option]) -> str:
    """Return the remedy for losses; `options`: those of the de-identification."""
    is_kept_by_option = Option.SAFE_PRIVATE not in options and not {Loss.B_VALUES, Loss.DIRECTIONS}.isdisjoint(losses)
    kept = "; safe-private keeps b-values and directions of some vendors" if is_kept_by_option else ""
    ways = "`voxelnode bids`, or by `voxelnode convert --anonymous`, which keeps UIDs and times"
    return f"for volumes, convert the originals by {ways}{kept}"


def _stated(ds: Dataset) -> frozenset[Loss]:
    if text(ds, "Modality") != "MR":
        return frozenset()
    from node.volume import vendors  # here, because they load NumPy
    from node.volume.describe.sidecar_fields import describe
    from node.volume.read.diffusion import UNWEIGHTED_B_VALUE
    from node.volume.read.frames import frames_of

    try:
        frames = frames_of(ds)
        fields = describe(ds, frames)
        planned = vendors.has_slice_timer(ds) or vendors.planned_slice_timings(ds, _ANY_SLICES, _ANY_SECONDS)
    except (ConversionRefused, *CONVERSION_ERRORS):
        return frozenset()  # it becomes no volume
    known = {Loss.PLANES}
    for one in (frame.diffusion for frame in frames if frame.diffusion is not None):
        known |= {Loss.B_VALUES} if one.b_value > UNWEIGHTED_B_VALUE else set()
        known |= {Loss.DIRECTIONS} if one.direction_lps is not None else set()
    known |= {Loss.READOUT} if fields.keys() & {"TotalReadoutTime", "EstimatedTotalReadoutTime"} else set()
    known |= {Loss.ECHO_TIMES} if fields.keys() & {"EchoTime1", "EchoTime2"} else set()
    if "EP" in texts(ds, "ScanningSequence") or text(ds, "EchoPlanarPulseSequence") == "YES":
        known |= {Loss.SLICE_TIMES} if planned or len({frame.acquisition_time_s for frame in frames}) > 1 else set()
        known |= {Loss.PHASE_ENCODING} if "PhaseEncodingDirection" in fields else set()
    return frozenset(known)
