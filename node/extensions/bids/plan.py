"""The plan of one subject: the name, the sidecar and the files of every volume, and why others have none.

At the end: which field map is for which images (`IntendedFor`, `B0FieldIdentifier` and `B0FieldSource`).
"""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from node.extensions.bids.names import RECORDING, Named, parsed, stem
from node.extensions.bids.rules import Meaning, NotExported, Rules, volume_facts
from node.extensions.bids.sidecars import Content, NiftiCopy, json_text, missing_fields, sidecar_of
from node.extensions.bids.subjects import Pseudonyms, SubjectMap
from node.selector import Facts, Selector

WITHOUT_AFFINE = frozenset({"irregular", "none"})
"""Geometries whose affine does not give the position of every voxel."""

MAX_CLOCK_DIFFERENCE_S = 1.0
"""Or one volume: Acquisition Time may be rounded, or that of the middle of the first slice."""


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


@dataclass(frozen=True, slots=True)
class Read:
    """A volume as rules see it: its facts by `RULE_FIELDS`, its sidecar, and the tables beside it by extension."""

    facts: Facts
    sidecar: Mapping[str, Any]
    extra: dict[str, bytes]


def facts_of(series: SubjectSeries, volume: SeriesVolume) -> Read:
    """Read what rules compare of a volume that is no recording. Raises OSError."""
    beside = volume.file.with_name(volume.file.name.removesuffix(".gz").removesuffix(".nii"))
    sidecar = _read_json(Path(f"{beside}.json"), volume.local)
    extra = {suffix: _read_bytes(Path(f"{beside}{suffix}"), volume.local) for suffix in (".bval", ".bvec")}
    suffixes = [other.suffix for other in series.volumes]
    own = volume_facts(volume.suffix, suffixes, sidecar, _directions(extra[".bvec"]))
    return Read({**series.facts, **volume.geometry, **own}, sidecar, extra)


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
    session: str

    @property
    def intended_for(self) -> tuple[str, ...]:
        return self.meaning.intended_for

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


@dataclass(frozen=True, slots=True)
class Planner:
    """Makes the plans of subjects by the rules of a data set.

    `where`: the series that may enter the data set; those that are in it stay and are updated in any case.
    """

    rules: Rules
    subject_map: SubjectMap | None
    pseudonyms: Pseudonyms
    where: Selector | None = None

    def plan(
        self, subject: str, all_series: Sequence[SubjectSeries], states: Mapping[str, SessionState]
    ) -> SubjectPlan:
        """Return the plan of a subject.

        `all_series`: every series of its patients; `states`: what the data set has of it, by session.
        """
        plan = SubjectPlan(subject)
        present = {entry.series for state in states.values() for entry in state.volumes.values()}
        chosen = [
            series for series in all_series if self.selects(series) or self.pseudonyms.mark(series.key) in present
        ]
        plan.not_selected = len(all_series) - len(chosen)
        found = [
            planned
            for series in sorted(chosen, key=_order)
            for planned in self._volumes_of(series, subject, plan.skipped)
        ]
        sessions = self._sessions({volume.series.study_instance_uid: volume.series for volume in found}, states)
        for volume in found:
            study = volume.series.study_instance_uid
            volume.session = sessions[study]
            plan.sessions.setdefault(volume.session, SessionPlan(())).volumes.append(volume)
        if self.rules.sessions.labels == "number":
            plan.late = _late(plan.sessions, states)
        for label, session in plan.sessions.items():
            studies = {self.pseudonyms.mark(volume.series.study_instance_uid) for volume in session.volumes}
            state = states.get(label, SessionState())
            session.studies = tuple(sorted(studies.union(state.studies)))
            self._finish(session, label, state, plan.skipped)
        return plan

    def selects(self, series: SubjectSeries) -> bool:
        """Return whether a series may enter the data set, now or when it is converted."""
        return self.where is None or self.where.may_match(series.facts)

    def _volumes_of(self, series: SubjectSeries, subject: str, skipped: list[Skipped]) -> Iterable[PlannedVolume]:
        problem = series.problem
        if problem is None and series.facts["verdict"] not in self.rules.dataset.verdicts:
            verdict = series.facts["verdict"] or "of unknown completeness"
            problem = f"it is {verdict}: {series.verdict_reason or 'no reason is known'}"
        if problem is not None:
            skipped.append(series.skipped(problem))
            return
        for volume in series.volumes:
            try:
                yield (self._recording if volume.is_recording else self._volume)(series, volume, subject)
            except NotExported as reason:
                skipped.append(series.skipped(str(reason), volume.suffix))

    def _volume(self, series: SubjectSeries, volume: SeriesVolume, subject: str) -> PlannedVolume:
        if "several-patients" in volume.geometry["warnings"]:
            raise NotExported("its images are of several patients")
        if volume.geometry["geometry"] in WITHOUT_AFFINE:
            raise NotExported(
                f"its geometry is {volume.geometry['geometry']}: no affine gives the place of every voxel"
            )
        read = facts_of(series, volume)
        facts, sidecar, extra = read.facts, read.sidecar, read.extra
        meaning = self.rules.meaning_of(facts)
        settings = self.rules.dataset
        fields = sidecar_of(
            sidecar, facts, meaning.named, anonymous=settings.anonymous, times_of_day=settings.dates != "omitted"
        )
        suffix = meaning.named.kind.suffix
        if suffix == "bold" and volume.geometry["times"] == 1:
            raise NotExported("a bold series has several times, and this volume has one")
        if suffix == "dwi" and not (extra[".bval"] and extra[".bvec"]):
            raise NotExported("a dwi series has a gradient table, and this one states no directions")
        is_table = suffix in ("dwi", "epi") and extra[".bval"] and extra[".bvec"]
        files = {name: content for name, content in extra.items() if content and is_table}
        planned = PlannedVolume(
            series,
            self.pseudonyms.mark(series.key),
            volume,
            meaning,
            meaning.named,
            _started(series, sidecar),
            sidecar,
            fields | dict(meaning.fields),
            files,
            subject,
            "",
        )
        if suffix == "asl":
            _add_context(planned, int(volume.geometry["times"]))
        return planned

    def _recording(self, series: SubjectSeries, volume: SeriesVolume, subject: str) -> PlannedVolume:
        """Return a recording, whose name follows when that of its time series is known (`_placed`)."""
        named = Named(RECORDING, {})
        sidecar = _read_json(Path(str(volume.file).removesuffix(".tsv.gz") + ".json"), volume.local)
        columns = {name: sidecar[name] for name in sidecar.get("Columns", ()) if name in sidecar}
        fields = sidecar_of(sidecar, series.facts, named, anonymous=self.rules.dataset.anonymous, times_of_day=False)
        return PlannedVolume(
            series,
            self.pseudonyms.mark(series.key),
            volume,
            Meaning(named, "recordings"),
            named,
            series.started,
            sidecar,
            fields | columns,
            {".tsv.gz": _read_bytes(volume.file, volume.local)},
            subject,
            "",
        )

    def _sessions(self, studies: Mapping[str, SubjectSeries], states: Mapping[str, SessionState]) -> dict[str, str]:
        """Return the label of the session of each study; numbers go on after those that the data set has."""
        known = {mark: label for label, state in states.items() for mark in state.studies}
        labels, numbered = {}, []
        for uid, series in sorted(studies.items(), key=lambda item: _order(item[1])):
            named = self.subject_map.session(series.facts) if self.subject_map else None
            mark = self.pseudonyms.mark(uid)
            if named is not None:
                labels[uid] = named
            elif self.rules.sessions.labels == "none":
                labels[uid] = ""
            elif self.rules.sessions.labels == "pseudonym":
                labels[uid] = self.pseudonyms.session(uid)
            elif known.get(mark, "").isdigit():
                labels[uid] = known[mark]
            else:
                numbered.append(uid)
        number = 0
        taken = {*labels.values(), *states}
        for uid in numbered:
            while f"{(number := number + 1):02}" in taken:
                pass
            labels[uid] = f"{number:02}"
        return labels

    def _finish(self, session: SessionPlan, label: str, state: SessionState, skipped: list[Skipped]) -> None:
        """Connect the volumes of a session, number runs, and take out those that lack a required field."""
        recordings = [volume for volume in session.volumes if volume.volume.is_recording]
        session.volumes = [volume for volume in session.volumes if not volume.volume.is_recording]
        complete_echo_times(session.volumes)
        _set_calibration(session.volumes)
        remaining = []
        suffixes = {volume.named.kind.suffix for volume in session.volumes}
        for volume in session.volumes:
            reason = _lacking(volume, suffixes)
            if reason is None:
                remaining.append(volume)
            else:
                skipped.append(volume.series.skipped(reason, volume.volume.suffix))
        _number_runs(remaining, state)
        connect(remaining, label)
        session.volumes = [*remaining, *_placed(recordings, remaining, skipped)]


def _placed(
    recordings: Iterable[PlannedVolume], volumes: Sequence[PlannedVolume], skipped: list[Skipped]
) -> Iterator[PlannedVolume]:
    """Yield the recordings with the names of their time series; the others are skipped with the reason."""
    taken: set[str] = set()
    for recording in recordings:
        names = {
            tuple((entity, value) for entity, value in volume.named.entities.items() if entity in RECORDING.entities)
            for volume in volumes
            if volume.named.kind.suffix == "bold" and _is_recorded_with(recording, volume)
        }
        if len(names) != 1:
            found = "several time series" if names else "no time series"
            reason = f"{found} of its study began when the recording says, with as many volumes"
            skipped.append(recording.series.skipped(reason, recording.volume.suffix))
            continue
        recording.named = Named(RECORDING, dict(names.pop()))
        if recording.stem in taken:
            skipped.append(recording.series.skipped("its time series has another recording", recording.volume.suffix))
            continue
        taken.add(recording.stem)
        yield recording


def _is_recorded_with(recording: PlannedVolume, volume: PlannedVolume) -> bool:
    """Return whether a recording is of a time series: by study, number of volumes, and the time of the first one."""
    if recording.series.study_instance_uid != volume.series.study_instance_uid:
        return False
    if recording.sidecar.get("volumes") != volume.volume.geometry["times"]:
        return False
    try:
        began = dt.time.fromisoformat(volume.sidecar["AcquisitionTime"])
    except (KeyError, TypeError, ValueError):
        return False
    began_s = began.hour * 3600 + began.minute * 60 + began.second + began.microsecond / 1e6
    step_s = volume.sidecar.get("RepetitionTime") or 0.0
    return bool(abs(recording.sidecar["first_volume_s"] - began_s) <= max(MAX_CLOCK_DIFFERENCE_S, step_s))


def _order(series: SubjectSeries) -> tuple[Any, ...]:
    number = series.facts["series_number"]
    return (
        series.study_started or dt.datetime.max,
        series.study_instance_uid,
        series.started or dt.datetime.max,
        float("inf") if number is None else number,
        series.series_instance_uid,
    )


def _read_json(file: Path, local: Callable[[Path], Path]) -> dict[str, Any]:
    try:
        content = json.loads(local(file).read_bytes())
    except FileNotFoundError:
        raise NotExported("its files were replaced or removed meanwhile: the next run has the new ones") from None
    if not isinstance(content, dict):
        raise NotExported(f"{file.name} is not a sidecar of a node")
    return content


def _read_bytes(file: Path, local: Callable[[Path], Path]) -> bytes:
    try:
        return local(file).read_bytes()
    except FileNotFoundError:
        return b""


def _directions(table: bytes) -> int:
    """Return the number of columns of a gradient table that are not zero."""
    rows = [[float(word) for word in line.split()] for line in table.splitlines() if line.strip()]
    return sum(any(column) for column in zip(*rows, strict=False))


def _started(series: SubjectSeries, sidecar: Mapping[str, Any]) -> dt.datetime | None:
    """Return when the volume was made: the date of its series with the Acquisition Time, if it states one."""
    try:
        time = dt.time.fromisoformat(sidecar["AcquisitionTime"])
    except (KeyError, TypeError, ValueError):
        return series.started
    return series.started and dt.datetime.combine(series.started.date(), time)


def _add_context(planned: PlannedVolume, times: int) -> None:
    """Add the table of a labelled series that tells its volumes apart, and what follows from it."""
    context = planned.meaning.aslcontext
    if context is None:
        raise NotExported(
            "BIDS requires the kind of each volume of perf/asl: state it by `aslcontext` of a rule for this series"
        )
    kinds = context.of(times)
    if kinds is None:
        raise NotExported(f'the aslcontext of rule "{planned.meaning.rule}" does not divide {times} volumes')
    planned.extra["context.tsv"] = (
        "\n".join(("volume_type", *kinds)) + "\n"
    ).encode()  # of NAME_asl: NAME_aslcontext.tsv
    pairs = min(kinds.count("control"), kinds.count("label"))
    if pairs:
        planned.fields.setdefault("TotalAcquiredPairs", pairs)
    if "m0scan" in kinds:
        planned.fields.setdefault("M0Type", "Included")


def _lacking(volume: PlannedVolume, suffixes: set[str]) -> str | None:
    """Return what BIDS requires of a volume and is not there, or None; `suffixes` are those of the session."""
    where = f"{volume.named.kind.datatype}/{volume.named.kind.suffix}"
    if where == "fmap/fieldmap" and not suffixes & {"magnitude", "magnitude1"}:
        return f"BIDS requires a magnitude image beside {where}, and the session has none"
    missing = missing_fields(volume.named, volume.fields)
    if not missing:
        return None
    remedy = f'state them by `fields` of a rule for this series, which now fits "{volume.meaning.rule}"'
    return f"BIDS requires {', '.join(missing)} of {where}, which the images do not state: {remedy}"


def _set_calibration(volumes: Iterable[PlannedVolume]) -> None:
    """State of labelled series without calibration images of their own whether the session has one."""
    volumes = list(volumes)
    has_scan = any(volume.named.kind.suffix == "m0scan" and volume.named.kind.datatype == "perf" for volume in volumes)
    for volume in volumes:
        if volume.named.kind.suffix == "asl":
            volume.fields.setdefault("M0Type", "Separate" if has_scan else "Absent")


def _number_runs(volumes: Sequence[PlannedVolume], state: SessionState) -> None:
    """Give a run to volumes whose names would be the same.

    A volume keeps the run that it has in the data set. New ones get the next numbers, in the order of their times. The
    only name that ever changes is that of a volume without a run, once it is no longer the only one.
    """
    earlier = {(entry.series, entry.stack): name for name, entry in state.volumes.items()}
    alike: dict[str, list[PlannedVolume]] = defaultdict(list)
    for volume in volumes:
        alike[volume.stem].append(volume)
    others = defaultdict(set)  # runs of volumes that stay without being planned
    planned = {(volume.mark, volume.volume.stack) for volume in volumes}
    for key, name in earlier.items():
        if key not in planned:
            others[_without_run(name)].add(_run_of(name))
    for name, group in alike.items():
        runs = {id(volume): _earlier_run(volume, name, earlier) for volume in group}
        if len(group) == 1 and not others[name]:
            fresh = [volume for volume in group if runs[id(volume)] == 0]
            runs |= {id(volume): None for volume in fresh}
        else:
            taken = {run or 1 for run in others[name]}.union(run for run in runs.values() if run)
            fresh = [volume for volume in group if not runs[id(volume)]]
            fresh.sort(key=lambda volume: (runs[id(volume)] == 0, volume.started or dt.datetime.max))
            number = 0
            for volume in fresh:
                while (number := number + 1) in taken:
                    pass
                runs[id(volume)] = number
        for volume in group:
            run = runs[id(volume)]
            if run:
                volume.named = replace(volume.named, entities={**volume.named.entities, "run": str(run)})


def _earlier_run(volume: PlannedVolume, name: str, earlier: Mapping[tuple[str, int], str]) -> int | None:
    """Return the run that a volume has in the data set, None if it has none; 0 if the volume is new there."""
    before = earlier.get((volume.mark, volume.volume.stack))
    return 0 if before is None or _without_run(before) != name else _run_of(before)


def _run_of(name: str) -> int | None:
    run = parsed(name.rpartition("/")[2])[0].get("run", "")
    return int(run) if run.isdigit() else None


def _without_run(name: str) -> str:
    folder, _, base = name.rpartition("/")
    entities, suffix = parsed(base)
    return f"{folder}/{stem({entity: value for entity, value in entities.items() if entity != 'run'}, suffix)}"


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
        return image.named.kind.datatype in self.files[0].intended_for and all(
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


def _late(sessions: Mapping[str, SessionPlan], states: Mapping[str, SessionState]) -> dict[str, str]:
    """Return the new sessions that began before one with a lower number, each with the first such one."""
    began = {
        label: min(moments)
        for label, session in sessions.items()
        if label.isdecimal()
        and (moments := [volume.series.study_started for volume in session.volumes if volume.series.study_started])
    }
    late = {}
    for label in began.keys() - states.keys():
        lower = [other for other in began.keys() & states.keys() if int(other) < int(label)]
        if later := [other for other in lower if began[label] < began[other]]:
            late[label] = min(later, key=int)
    return late


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
