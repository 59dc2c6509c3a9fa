"""Make a data set agree with the volumes of a source."""

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from node.extensions.bids.dataset import Dataset, opened, require_dataset
from node.extensions.bids.plan import Planner
from node.extensions.bids.planned import (
    PlannedVolume,
    SessionPlan,
    SessionState,
    Skipped,
    SubjectPlan,
    SubjectSeries,
    series_key,
    session_folder,
)
from node.extensions.bids.rules import NotExported, Rules
from node.extensions.bids.sources import STILL_OPEN, PatientSource
from node.extensions.bids.state import SessionChange, WantedVolume
from node.extensions.bids.subjects import (
    OF_STUDIES,
    Pseudonyms,
    SubjectMap,
    SubjectPatient,
    ambiguous_labels,
    read_map,
    subject_label,
)
from node.selector import Facts, Selector

MAX_STATED_AGE = 89
"""Higher ages identify people; BIDS writes them as 89+."""


@dataclass(frozen=True, slots=True)
class Left:
    """A volume in the data set that the rules no longer give it, with the reason.

    There is no `series_instance_uid` if the subject has its series no longer.
    """

    path: str
    reason: str
    series_instance_uid: str | None = None


@dataclass(slots=True)
class ExportReport:
    """What a run did, or would do.

    `not_selected`: number of series that do not fit and are not in the data set; `kept`: fields of the description of
    the data set that stay as they are, although the rules state others; `late`: by folders, the sessions that were
    added with a higher number than a later one has.
    """

    change: SessionChange = field(default_factory=SessionChange)
    skipped: list[Skipped] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    subjects: int = 0
    volumes: int = 0
    not_selected: int = 0
    kept: list[str] = field(default_factory=list)
    late: dict[str, str] = field(default_factory=dict)

    @property
    def is_up_to_date(self) -> bool:
        """Whether nothing stands between the data set and what it is to be."""
        return not (self.change.conflicts or self.change.failed)


class Exporter:
    """Writes the volumes of one source into one data set.

    `where`: the series that may enter the data set; those that are in it stay, and are updated; `prune`: remove volumes
    whose series were deleted, are no longer complete, or fit no rule; `check`: called before each subject, and ends the
    export if it raises.
    """

    def __init__(
        self,
        source: PatientSource,
        rules: Rules,
        pseudonyms: Pseudonyms,
        where: Selector | None = None,
        *,
        prune: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._source, self._rules, self._pseudonyms = source, rules, pseudonyms
        self._subject_map = read_map(rules.subjects.map) if rules.subjects.map is not None else None
        self._planner = Planner(rules, self._subject_map, pseudonyms, where)
        self._prune, self._check = prune, check
        self._refused: dict[str, Skipped] = {}  # series of patients without a label, by their marks

    def export(
        self, out: Path, study_instance_uid: str | None = None, *, dry_run: bool = False, link: bool = False
    ) -> ExportReport:
        """Bring a data set up to date; one without volumes is not begun, and has no files.

        `study_instance_uid`: bring only the subject of this study up to date, after series of it were converted or
        deleted. The report is then about the session that has the study. If the study has another patient than before,
        both subjects are brought up to date.

        `dry_run`: write nothing; `link`: make hard links of volumes, which must not be changed in the data set then.

        Raises DatasetUnusable: the folder is not a data set, or another process changes it. Raises UsageError: what
        this program wrote about a session is damaged.
        """
        report = ExportReport(not_selected=self._source.not_selected)
        with read_only(out) if dry_run else opened(out, link=link) as dataset:
            if not dry_run:
                dataset.require_key(self._pseudonyms.mark(OF_DATASET))
            report.kept = dataset.kept(self._rules.dataset)
            if study_instance_uid is None:
                by_subject, refused = self._by_subject(self._source.patients())
                subjects, mark = sorted({*by_subject, *dataset.subjects()}), None
            else:
                patient, mark = self._source.patient_of(study_instance_uid), self._pseudonyms.mark(study_instance_uid)
                by_subject, refused = self._by_subject(self._namesakes(patient))
                subjects = _subjects_of(dataset, by_subject, patient, mark)
                if not by_subject.keys() >= set(subjects):  # it had another patient before
                    by_subject, refused = self._by_subject(self._source.patients())
                refused = {patient: refused[patient]} if patient in refused else {}
            for series in self._source.series_of(list(refused)) if refused else ():
                one = series.skipped(refused[series.patient])
                self._refused[self._pseudonyms.mark(series.key)] = one
                if self._planner.selects(series):
                    report.skipped.append(one)
                else:
                    report.not_selected += 1
            for subject in subjects:
                self._check()
                self._export_subject(dataset, subject, by_subject[subject], mark, report, dry_run=dry_run)
        if study_instance_uid is not None:
            report.skipped = [one for one in report.skipped if one.study_instance_uid == study_instance_uid]
        return report

    @cached_property
    def _marks(self) -> set[str] | None:
        """The marks of all series of the source; None if others may exist elsewhere."""
        keys = self._source.series_keys()
        return None if keys is None else {self._pseudonyms.mark(series_key(*key)) for key in keys}

    def _namesakes(self, patient: int | None) -> Mapping[int, SubjectPatient]:
        """Return the patients that may have the label of one of them: a pseudonym is of one issuer and Patient ID."""
        if self._subject_map is None and self._rules.subjects.labels == "pseudonym":
            return {} if patient is None else self._source.patients(patient)
        return self._source.patients()

    def _by_subject(self, patients: Mapping[int, SubjectPatient]) -> tuple[dict[str, list[int]], dict[int, str]]:
        """Return the patients of each subject, and why other patients have none."""
        labels, refused = (
            self._labels(patients) if self._subject_map is None else self._mapped(self._subject_map, patients)
        )
        by_subject: dict[str, list[int]] = defaultdict(list)
        for number, label in labels.items():
            by_subject[label].append(number)
        return by_subject, refused

    def _labels(self, patients: Mapping[int, SubjectPatient]) -> tuple[dict[int, str], dict[int, str]]:
        """Return the labels of patients without a table, and why others have none."""
        labels: dict[int, str] = {}
        refused: dict[int, str] = {}
        for number, patient in patients.items():
            try:
                labels[number] = subject_label(patient, self._rules.subjects, self._pseudonyms)
            except NotExported as reason:
                refused[number] = str(reason)
        for number in ambiguous_labels(labels):
            del labels[number]
            refused[number] = f"several patients have one label: name each in a table of subjects, by {OF_STUDIES}"
        return labels, refused

    def _mapped(
        self, subject_map: SubjectMap, patients: Mapping[int, SubjectPatient]
    ) -> tuple[dict[int, str], dict[int, str]]:
        """Return the labels that the table gives to patients, and why others have none."""
        labels: dict[int, str] = {}
        refused: dict[int, str] = {}
        by_id: dict[str | None, list[int]] = defaultdict(list)
        for number, patient in patients.items():
            by_id[patient.patient_id].append(number)
        for patient_id, numbers in by_id.items():
            label = subject_map.subject(patient_id) if len(numbers) == 1 else None
            if label is not None:
                labels[numbers[0]] = label
            elif not subject_map.has(patient_id):
                refused |= dict.fromkeys(numbers, "the table of subjects has no row for this Patient ID")
            else:
                studies: dict[int, list[Facts]] = defaultdict(list)
                for series in self._source.series_of(numbers):
                    studies[series.patient].append(series.facts)
                found = subject_map.subjects(patient_id, studies)
                why = "several patients have this Patient ID" if len(numbers) > 1 else "the rows name several subjects"
                reason = f"{why}: the table of subjects needs a row of this one alone, by {OF_STUDIES}"
                refused |= {number: reason for number in numbers if number not in found}
                labels |= found
        return labels, refused

    def _export_subject(
        self,
        dataset: Dataset,
        subject: str,
        patients: Sequence[int],
        study: str | None,
        report: ExportReport,
        *,
        dry_run: bool,
    ) -> None:
        """Bring a subject up to date; report only the session with `study`, by its mark, unless that is None."""
        states = dataset.states(subject)
        all_series = list(self._source.series_of(patients)) if patients else []
        plan = self._planner.plan(subject, all_series, states)
        report.skipped += plan.skipped
        report.not_selected += plan.not_selected
        leave: dict[str, set[str]] = defaultdict(set)
        for session, stem, reason, series_instance_uid in self._left(plan, states):
            if reason is None or not self._prune:
                leave[session].add(stem)
            if reason is not None and not self._prune and study in (None, *states[session].studies):
                path = f"{session_folder(subject, session)}/{stem}"
                report.left.append(Left(path, reason, series_instance_uid))
        count = sum(len(session.volumes) for session in plan.sessions.values()) + sum(map(len, leave.values()))
        if count:
            report.subjects += 1
            report.volumes += count
            if not dry_run:
                dataset.begin(self._pseudonyms.mark(OF_DATASET), self._rules.dataset)
                dataset.add_participants({f"sub-{subject}": self._participant(all_series)})
        for session in sorted({*plan.sessions, *states}, key=lambda label: (label not in plan.sessions, label)):
            planned = plan.sessions.get(session, SessionPlan(states.get(session, SessionState()).studies))
            wanted = {volume.stem: self._wanted(volume) for volume in planned.volumes}
            change = dataset.change_session(
                subject, session, wanted, planned.studies, frozenset(leave[session]), dry_run=dry_run
            )
            if study in (None, *planned.studies):
                report.change.extend(change)
                if session in plan.late:
                    report.late[session_folder(subject, session)] = session_folder(subject, plan.late[session])
        if not dry_run and states:
            dataset.remove_participants([subject])

    def _left(
        self, plan: SubjectPlan, states: Mapping[str, SessionState]
    ) -> list[tuple[str, str, str | None, str | None]]:
        """Return (session, stem, reason, series) of the volumes in the data set whose series has none in the plan.

        There is no reason if the series may be elsewhere or is still open, and no series if the subject has it no more.
        """
        planned = {volume.mark for session in plan.sessions.values() for volume in session.volumes}
        skipped = {
            self._pseudonyms.mark(series_key(one.study_instance_uid, one.series_instance_uid)): one
            for one in plan.skipped
        }
        return [
            (session, stem, None if one.reason == STILL_OPEN else one.reason, one.series_instance_uid)
            if (one := skipped.get(entry.series) or self._refused.get(entry.series)) is not None
            else (session, stem, self._fate(entry.series), None)
            for session, state in sorted(states.items())
            for stem, entry in sorted(state.volumes.items())
            if entry.series not in planned
        ]

    def _fate(self, mark: str) -> str | None:
        """Return what became of a series that is not among those of its subject."""
        if self._marks is None:
            return None
        return OF_ANOTHER if mark in self._marks else DELETED

    def _wanted(self, volume: PlannedVolume) -> WantedVolume:
        settings = self._rules.dataset
        acq_time = None
        if settings.dates != "omitted":
            moment = volume.started
            if moment is not None and settings.dates == "shifted":
                moment -= dt.timedelta(days=self._pseudonyms.shift_days(volume.subject))
            acq_time = "n/a" if moment is None else moment.isoformat()
        return WantedVolume(volume.mark, volume.volume.stack, volume.files(anonymous=settings.anonymous), acq_time)

    def _participant(self, all_series: Sequence[SubjectSeries]) -> dict[str, str]:
        """Return the columns of a subject, from its first study that states them."""
        row: dict[str, str] = {}
        ordered = sorted(all_series, key=lambda series: series.study_started or dt.datetime.max)
        for column, read in (("age", _age), ("sex", _sex)):
            if column in self._rules.dataset.participants:
                row[column] = next(filter(None, (read(series.facts) for series in ordered)), "n/a")
        return row


OF_DATASET = "data set"
"""What the mark of a key is made of; it is not a UID."""

OF_ANOTHER = "its series is of another subject now"
DELETED = "its series was deleted from the node"


@contextmanager
def read_only(out: Path) -> Iterator[Dataset]:
    """Open a data set for reading; a folder that is missing is an empty one."""
    if out.exists():
        require_dataset(out)
    yield Dataset(out, out, link=False)


def _subjects_of(
    dataset: Dataset, by_subject: Mapping[str, Sequence[int]], patient: int | None, study: str
) -> list[str]:
    """Return the subjects that have a study, by its mark, or had it before its deletion or a merge of patients.

    One that had it between a correction and its end still has the volumes of it.
    """
    found = [name for name, patients in by_subject.items() if patient in patients]
    return found + [name for name in dataset.subjects() if name not in found and _has_study(dataset, name, study)]


def _has_study(dataset: Dataset, subject: str, study: str) -> bool:
    return any(study in state.studies for state in dataset.states(subject).values())


def _age(facts: Facts) -> str | None:
    """Return the age in years, as stated or by the birth date; whole years from the second one on."""
    years = facts["patient_age"]
    if years is None and facts["patient_birth_date"] and facts["study_date"]:
        years = (facts["study_date"] - facts["patient_birth_date"]).days / 365.2425
    if years is None or years < 0:
        return None
    if years > MAX_STATED_AGE:
        return f"{MAX_STATED_AGE}+"
    return f"{int(years)}" if years >= 2 else f"{years:.2g}"


def _sex(facts: Facts) -> str | None:
    sex = (facts["patient_sex"] or "").strip().upper()
    return sex if sex in ("F", "M", "O") else None
