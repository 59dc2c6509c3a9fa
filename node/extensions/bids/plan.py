"""The plan of one subject: the name, the sidecar and the files of every volume, and why others have none.

At the end: which field map is for which images (`IntendedFor`, `B0FieldIdentifier` and `B0FieldSource`).
"""

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from node.extensions.bids.names import RECORDING, Named, parsed, stem
from node.extensions.bids.planned import (
    WITHOUT_AFFINE,
    PlannedVolume,
    SeriesVolume,
    SessionPlan,
    SessionState,
    Skipped,
    SubjectPlan,
    SubjectSeries,
    complete_echo_times,
    connect,
)
from node.extensions.bids.rules import Meaning, NotExported, Rules, volume_facts
from node.extensions.bids.sidecars import missing_fields, sidecar_of
from node.extensions.bids.subjects import Pseudonyms, SubjectMap
from node.selector import Facts, Selector

MAX_CLOCK_DIFFERENCE_S = 1.0
"""Or one volume: Acquisition Time may be rounded, or that of the middle of the first slice."""


class Read(NamedTuple):
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
        facts, sidecar, extra = facts_of(series, volume)
        meaning = self.rules.meaning_of(facts)
        named, settings = meaning.named, self.rules.dataset
        timed = settings.dates != "omitted"
        fields = sidecar_of(sidecar, facts, named, anonymous=settings.anonymous, times_of_day=timed)
        suffix = named.kind.suffix
        if suffix == "bold" and volume.geometry["times"] == 1:
            raise NotExported("a bold series has several times, and this volume has one")
        if suffix == "dwi" and not (extra[".bval"] and extra[".bvec"]):
            raise NotExported("a dwi series has a gradient table, and this one states no directions")
        is_table = suffix in ("dwi", "epi") and extra[".bval"] and extra[".bvec"]
        files = {name: content for name, content in extra.items() if content and is_table}
        fields |= meaning.fields
        mark, started = self.pseudonyms.mark(series.key), _started(series, sidecar)
        planned = PlannedVolume(series, mark, volume, meaning, named, started, sidecar, fields, files, subject)
        if suffix == "asl":
            _add_context(planned, int(volume.geometry["times"]))
        return planned

    def _recording(self, series: SubjectSeries, volume: SeriesVolume, subject: str) -> PlannedVolume:
        """Return a recording, whose name follows when that of its time series is known (`_placed`)."""
        named = Named(RECORDING, {})
        sidecar = _read_json(Path(str(volume.file).removesuffix(".tsv.gz") + ".json"), volume.local)
        columns = {name: sidecar[name] for name in sidecar.get("Columns", ()) if name in sidecar}
        fields = sidecar_of(sidecar, series.facts, named, anonymous=self.rules.dataset.anonymous, times_of_day=False)
        fields |= columns
        mark, meaning = self.pseudonyms.mark(series.key), Meaning(named, "recordings")
        files = {".tsv.gz": _read_bytes(volume.file, volume.local)}
        return PlannedVolume(series, mark, volume, meaning, named, series.started, sidecar, fields, files, subject)

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
    table = "\n".join(("volume_type", *kinds, ""))
    planned.extra["context.tsv"] = table.encode()  # of NAME_asl: NAME_aslcontext.tsv
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
