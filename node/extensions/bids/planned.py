"""Planned volumes of a session, and the field maps among them."""

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node.extensions.bids.names import Named, stem
from node.extensions.bids.rules import Meaning
from node.extensions.bids.sidecars import Content, NiftiCopy, json_text
from node.selector import Facts

WITHOUT_AFFINE = frozenset({"irregular", "none"})
"""Geometries whose affine does not give the position of every voxel."""


@dataclass(frozen=True, slots=True)
class SeriesVolume:
    """A volume of a series, as a node wrote it; `geometry` has the facts of the volume by the names of selectors.

    `local` gives the place from which a file of the node can be read now, and raises an OSError.
    """

    stack: int
    suffix: str
    file: Path
    sha256: str
    geometry: Mapping[str, Any]
    local: Callable[[Path], Path] = Path

    @property
    def is_recording(self) -> bool:
        """Whether it is a physiological recording, a table."""
        return self.file.name.endswith(".tsv.gz")


@dataclass(frozen=True, slots=True)
class Skipped:
    """A series, or a volume of it, that is not exported, with the reason: its kind, and what follows a colon."""

    study_instance_uid: str
    series_instance_uid: str
    patient_id: str
    study_date: str
    description: str
    volume: str
    reason: str


@dataclass(frozen=True, slots=True)
class SubjectSeries:
    """A series of the subject.

    `patient`: `id` of its patient; `facts`: by the fields of selectors; `study_started, started`: dates and times as
    stated, without a time zone; `problem`: why it has nothing that may be exported.
    """

    patient: int
    study_instance_uid: str
    series_instance_uid: str
    facts: Facts
    study_started: dt.datetime | None
    started: dt.datetime | None
    problem: str | None
    verdict_reason: str | None
    volumes: tuple[SeriesVolume, ...]

    @property
    def key(self) -> str:
        """Both UIDs: a series of the same UID in another study is another one."""
        return series_key(self.study_instance_uid, self.series_instance_uid)

    def skipped(self, reason: str, volume: str = "") -> Skipped:
        """Return the record of this series, or of a volume by its suffix, with the reason why it is not exported."""
        words = (self.facts["modality"], self.facts["series_number"], self.facts["series_description"])
        description = " ".join(str(word) for word in words if word is not None)
        person, date = (str(self.facts[name] or "") for name in ("patient_id", "study_date"))
        return Skipped(self.study_instance_uid, self.series_instance_uid, person, date, description, volume, reason)


@dataclass(frozen=True, slots=True)
class WrittenVolume:
    """A volume that is in the data set: its files by their extensions, with the digests of what was written."""

    series: str
    stack: int
    source: str
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SessionState:
    """What a session of the data set has: the marks of its studies, and its volumes by ``datatype/stem``."""

    studies: tuple[str, ...] = ()
    volumes: Mapping[str, WrittenVolume] = field(default_factory=dict)


@dataclass(slots=True)
class PlannedVolume:
    """A volume with its place in the data set; `folder` is that of its session."""

    series: SubjectSeries
    mark: str
    volume: SeriesVolume
    meaning: Meaning
    named: Named
    started: dt.datetime | None
    sidecar: Mapping[str, Any]
    fields: dict[str, Any]
    extra: dict[str, bytes]
    subject: str
    session: str = ""

    @property
    def stem(self) -> str:
        """``datatype/name`` in the folder of the session, without an extension."""
        entities = {"sub": self.subject, **({"ses": self.session} if self.session else {}), **self.named.entities}
        return f"{self.named.kind.datatype}/{stem(entities, self.named.kind.suffix)}"

    @property
    def path(self) -> str:
        return f"{session_folder(self.subject, self.session)}/{self.stem}.nii.gz"

    def files(self, *, anonymous: bool) -> dict[str, Content]:
        """Return the content of each file by its extension."""
        if self.volume.is_recording:
            return {".tsv.gz": self.extra[".tsv.gz"], ".json": json_text(self.fields)}
        # The header extension of NIfTI-MRS has no text that people type, and belongs to its voxels.
        without_extension = anonymous and self.named.kind.datatype != "mrs"
        image = NiftiCopy(self.volume.file, self.volume.sha256, without_extension, self.volume.local)
        return {".nii.gz": image, ".json": json_text(self.fields), **self.extra}


@dataclass(slots=True)
class SessionPlan:
    """The volumes of a session, and the marks of its studies."""

    studies: tuple[str, ...]
    volumes: list[PlannedVolume] = field(default_factory=list)


@dataclass(slots=True)
class SubjectPlan:
    """The sessions of a subject by label (an empty one without sessions), and what has no place in them.

    `not_selected`: number of series that may not enter the data set. `late`: for new sessions
    that are older than one with a lower number, the label of that one.
    """

    subject: str
    sessions: dict[str, SessionPlan] = field(default_factory=dict)
    late: dict[str, str] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    not_selected: int = 0


def series_key(study_instance_uid: str, series_instance_uid: str) -> str:
    """Return what identifies a series."""
    return f"{study_instance_uid}\\{series_instance_uid}"


def session_folder(subject: str, session: str) -> str:
    """Return the folder of a session in the data set."""
    return f"sub-{subject}/ses-{session}" if session else f"sub-{subject}"


GRADIENT_ECHO = frozenset({"phasediff", "phase1", "phase2", "fieldmap", "magnitude", "magnitude1", "magnitude2"})


MAGNITUDES = frozenset({"magnitude", "magnitude1", "magnitude2"})


@dataclass(frozen=True, slots=True)
class _FieldMap:
    """The files that are one estimate of the field."""

    identifier: str
    kind: str
    files: tuple[PlannedVolume, ...]

    @property
    def started(self) -> dt.datetime | None:
        return min((file.started for file in self.files if file.started), default=None)

    def may_serve(self, image: PlannedVolume) -> bool:
        """Return whether it is meant for images of this kind, made with the same shim and in the same frame."""
        return image.named.kind.datatype in self.files[0].meaning.intended_for and all(
            _agrees(file, image, name) for file in self.files for name in ("ShimSetting", "FrameOfReferenceUID")
        )


def connect(images: Sequence[PlannedVolume], session: str) -> None:
    """Set the fields that connect the field maps of a session with its other images.

    The identifiers of field maps begin with `session`, because they are unique among all sessions of a subject.

    An image is corrected by the field map of each kind (of gradient echoes, or of opposed phase encoding) that is
    nearest in time, among those with the same shim settings and the same frame of reference as far as these are known.
    A magnitude image alone is no field map.
    """
    maps = _field_maps(images, session)
    served: dict[str, list[PlannedVolume]] = defaultdict(list)
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


def complete_echo_times(images: Iterable[PlannedVolume]) -> None:
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


def _field_maps(images: Sequence[PlannedVolume], session: str) -> list[_FieldMap]:
    groups: dict[tuple[str, str, str], list[PlannedVolume]] = defaultdict(list)
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


def _nearest(maps: Sequence[_FieldMap], image: PlannedVolume) -> _FieldMap | None:
    able = [each for each in maps if each.may_serve(image)]
    return min(able, key=lambda each: _distance(each.started, image.started), default=None)


def _distance(map_started: dt.datetime | None, started: dt.datetime | None) -> tuple[float, bool]:
    """Return the seconds between a map and an image; of two as near, the map before the image is first."""
    if map_started is None or started is None:
        return float("inf"), False
    seconds = (started - map_started).total_seconds()
    return abs(seconds), seconds < 0


def _agrees(file: PlannedVolume, image: PlannedVolume, name: str) -> bool:
    one, other = file.sidecar.get(name), image.sidecar.get(name)
    return one is None or other is None or bool(one == other)
