"""Which field map is for which images: `IntendedFor`, `B0FieldIdentifier` and `B0FieldSource`."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from node.extensions.bids.names import Named

GRADIENT_ECHO = frozenset({"phasediff", "phase1", "phase2", "fieldmap", "magnitude", "magnitude1", "magnitude2"})
MAGNITUDES = frozenset({"magnitude", "magnitude1", "magnitude2"})


class Image(Protocol):
    """What this module reads of a planned file, and the fields that it sets."""

    @property
    def named(self) -> Named: ...
    @property
    def started(self) -> dt.datetime | None: ...
    @property
    def intended_for(self) -> tuple[str, ...]: ...
    @property
    def sidecar(self) -> Mapping[str, Any]:
        """The sidecar as the node wrote it."""

    @property
    def fields(self) -> dict[str, Any]:
        """The sidecar of the data set."""

    @property
    def path(self) -> str:
        """The path of the file in the data set."""


@dataclass(frozen=True, slots=True)
class _FieldMap:
    """The files that are one estimate of the field."""

    identifier: str
    kind: str
    files: tuple[Image, ...]

    @property
    def started(self) -> dt.datetime | None:
        return min((file.started for file in self.files if file.started), default=None)

    def may_serve(self, image: Image) -> bool:
        """Return whether it is meant for images of this kind, made with the same shim and in the same frame."""
        return image.named.kind.datatype in self.files[0].intended_for and all(
            _agrees(file, image, name) for file in self.files for name in ("ShimSetting", "FrameOfReferenceUID")
        )


def connect(images: Sequence[Image], session: str) -> None:
    """Set the fields that connect the field maps of a session with its other images.

    The identifiers of field maps begin with `session`, because they are unique among all sessions of a subject.

    An image is corrected by the field map of each kind (of gradient echoes, or of opposed phase encoding) that is
    nearest in time, among those with the same shim settings and the same frame of reference as far as these are known.
    A magnitude image alone is no field map.
    """
    maps = _field_maps(images, session)
    served: dict[str, list[Image]] = defaultdict(list)
    for image in (image for image in images if image.named.kind.datatype != "fmap"):
        nearest = [_nearest([each for each in maps if each.kind == kind], image) for kind in ("phase", "epi")]
        sources = [found.identifier for found in nearest if found is not None]
        if sources:
            image.fields["B0FieldSource"] = sources[0] if len(sources) == 1 else sources
        for identifier in sources:
            served[identifier].append(image)
    for each in maps:
        for file in each.files:
            file.fields["B0FieldIdentifier"] = each.identifier
            if served[each.identifier] and file.named.kind.suffix not in MAGNITUDES:
                file.fields["IntendedFor"] = sorted(f"bids::{image.path}" for image in served[each.identifier])
    scans = sorted(f"bids::{image.path}" for image in images if image.named.kind.suffix == "asl")
    for image in images:
        if image.named.kind.suffix == "m0scan" and scans:
            image.fields["IntendedFor"] = scans


def complete_echo_times(images: Iterable[Image]) -> None:
    """Set the echo times of phase differences that do not state them, from the magnitudes of the same field map."""
    images = list(images)
    times: dict[tuple[str | None, str], Any] = {}
    for image in images:
        if image.named.kind.suffix in ("magnitude1", "magnitude2") and "EchoTime" in image.fields:
            # Runs of one field map have the same protocol.
            times.setdefault((image.named.entities.get("acq"), image.named.kind.suffix), image.fields["EchoTime"])
    for image in images:
        for number in (1, 2) if image.named.kind.suffix == "phasediff" else ():
            time = times.get((image.named.entities.get("acq"), f"magnitude{number}"))
            if time is not None:
                image.fields.setdefault(f"EchoTime{number}", time)


def _field_maps(images: Sequence[Image], session: str) -> list[_FieldMap]:
    groups: dict[tuple[str, str, str], list[Image]] = defaultdict(list)
    for image in images:
        suffix = image.named.kind.suffix
        if image.named.kind.datatype == "fmap" and (suffix in GRADIENT_ECHO or suffix == "epi"):
            kind = "epi" if suffix == "epi" else "phase"
            groups[kind, image.named.entities.get("acq", ""), image.named.entities.get("run", "")].append(image)
    maps = []
    for (kind, acquisition, run), files in sorted(groups.items()):
        suffixes = {file.named.kind.suffix for file in files}
        if kind == "epi" or suffixes & {"phasediff", "fieldmap"} or {"phase1", "phase2"} <= suffixes:
            words = (
                session and f"ses{session}",
                "pepolar" if kind == "epi" else "gre",
                acquisition and f"acq{acquisition}",
                run and f"run{run}",
            )
            maps.append(_FieldMap("_".join(filter(None, words)), kind, tuple(files)))
    return maps


def _nearest(maps: Sequence[_FieldMap], image: Image) -> _FieldMap | None:
    able = [each for each in maps if each.may_serve(image)]
    return min(able, key=lambda each: _distance(each.started, image.started), default=None)


def _distance(map_started: dt.datetime | None, started: dt.datetime | None) -> tuple[float, bool]:
    """Return the seconds between a map and an image; of two as near, the map before the image is first."""
    if map_started is None or started is None:
        return float("inf"), False
    seconds = (started - map_started).total_seconds()
    return abs(seconds), seconds < 0


def _agrees(file: Image, image: Image, name: str) -> bool:
    one, other = file.sidecar.get(name), image.sidecar.get(name)
    return one is None or other is None or bool(one == other)
