"""The worker of a route to a BIDS data set.

A message makes the data set agree with the subject of its study, as `voxelnode bids` does. That can be repeated: a run
without changes in the node changes nothing, and the data set changes by renames alone. If the process dies between a
change and the record of it, the next start repeats the message.

Series that the data set leaves out are rows of the ledger in the state ``skipped``, as they are after the last message
of their study.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import structlog

from node.archive.base import StoreAway
from node.archive.space import reason_of
from node.audit.audit_log import DESTINATION, SOURCE, AuditAction, AuditEvent, AuditMessage, Participant, Result
from node.children.pseudonyms import PseudonymKey, made_key, read_keys
from node.errors import UsageError, VoxelnodeError, counted
from node.extensions.bids.dataset import DatasetUnusable
from node.extensions.bids.export import Exporter, ExportReport
from node.extensions.bids.rules import Rules, read_rules
from node.extensions.bids.settings import DatasetSettings
from node.extensions.bids.sources import STILL_OPEN, IndexSource, PatientSource
from node.extensions.bids.subjects import KEY_FILE, Pseudonyms, read_map
from node.index.rows.states import Outcome
from node.index.rules.work.ledger import REASON_LENGTH, Ended
from node.index.rules.work.messages import Attempt, LedgerEvent, PendingEvent
from node.index.work_loop import FOLLOW_SECONDS, Interrupted
from node.routing.held import HeldWorker, RouteParts
from node.runtime.failpoints import reached
from node.settings.core import DestinationSettings, Route

log = structlog.get_logger()

STAYS = "its volumes in the data set stay until `voxelnode bids --prune`"

_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class DescribedDataset:
    """A data set as the configuration describes it: its folder, what is what, and the key of its pseudonyms."""

    folder: Path
    rules: Rules
    key: PseudonymKey


def described(destination: DatasetSettings, root: Path) -> DescribedDataset:
    """Read the files of a data set; make the key in the root if it is missing.

    Raises UsageError: see `check_dataset`.
    """
    rules = check_dataset(destination)
    key = read_keys(destination.key)[0] if destination.key is not None else made_key(root / KEY_FILE)
    return DescribedDataset(destination.bids.absolute(), rules, key)


def check_dataset(destination: DatasetSettings) -> Rules:
    """Return the rules of a data set.

    Raises UsageError: the rules, the table of subjects or the key cannot be used; the message names the file.
    """
    rules = read_rules(destination.rules)
    if rules.subjects.map is not None:
        read_map(rules.subjects.map)
    if destination.key is not None:
        read_keys(destination.key)
    return rules


class DatasetWorker(HeldWorker):
    """Keep one data set up to date."""

    def __init__(self, parts: RouteParts, dataset: DescribedDataset) -> None:
        super().__init__(parts, events_of(parts.route), FOLLOW_SECONDS)
        self._dataset, self._pseudonyms = dataset, Pseudonyms(dataset.key)
        self._local, self._audit, self._ae_title = parts.archive.local, parts.audit, parts.settings.dicom.ae_title
        self._reports: dict[str, ExportReport] = {}  # of this step, by study: one export serves all of its messages

    def work(self) -> bool:
        """Attempt the due messages."""
        try:
            return super().work()
        finally:
            self._reports = {}

    # Messages

    def _attempt(self, pending: PendingEvent) -> Attempt:
        study = pending.study_instance_uid
        if self._stopping.is_set():
            raise Interrupted
        if pending.event == "verdict-changed" and self._route.when == "study-quiet" and not self._is_quiet(study):
            return Attempt(pending, Ended("succeeded"), pending.attempts + 1)
        try:
            if study not in self._reports:
                self._reports[study] = self._exported(study)
        except UsageError as error:
            return self._failed(pending, pending.attempts, _nameless(str(error)), is_final=True)
        except (VoxelnodeError, Interrupted):
            raise
        except Exception as error:  # a bug must not block all other messages
            log.exception("route_failed", service=self.name)
            return self._failed(
                pending, pending.attempts, f"{type(error).__name__} while the data set was changed", is_final=False
            )
        report = self._reports[study]
        for problems, is_final in ((report.change.failed, False), (report.change.conflicts, True)):
            if problems:
                path, reason = problems[0]
                more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
                return self._failed(pending, pending.attempts, f"{_nameless(path)}: {reason}{more}", is_final=is_final)
        series = pending.series_instance_uid
        left_out = _reasons(report).get(series) if pending.event != "changed" else None
        if left_out is not None:
            outcome: Outcome = "dropped" if pending.event_id is not None else "skipped"
            return Attempt(pending, Ended(outcome, left_out), pending.attempts + 1)
        return Attempt(pending, Ended("succeeded"), pending.attempts + 1)

    def _is_quiet(self, study_instance_uid: str) -> bool:
        with self._index.reading(wait=False) as index:
            study = index.studies.row(study_instance_uid)
        return study is not None and study["quiet_at"] is not None

    def _exported(self, study_instance_uid: str) -> ExportReport:
        """Bring the subject of a study up to date, and record what the data set leaves out.

        Raises Interrupted: the data set cannot be changed now; the trouble is recorded. Raises UsageError: something
        about this subject is damaged.
        """
        folder = self._dataset.folder
        try:
            if not folder.is_dir():
                raise DatasetUnusable(f"{folder} is not a folder: create it, or mount what belongs there")
            with self._index.reading(wait=False) as index:
                exporter = self._exporter(IndexSource(index, self._local))
                report = exporter.export(folder, study_instance_uid)
        except DatasetUnusable as error:
            self._hold(str(error))
            raise Interrupted from error
        except StoreAway as error:
            self._hold(f"object store: {error.strerror}")
            raise Interrupted from error
        except OSError as error:
            self._hold(f"{folder} cannot be changed: {reason_of(error, folder)}")
            raise Interrupted from error
        reached("study-exported")
        if self._trouble:
            self._note_reached()
        now = self._now()
        self._index.routes.note_skipped(self.lane, study_instance_uid, _reasons(report), now)
        self._note_change(study_instance_uid, report)
        return report

    def _exporter(self, source: PatientSource) -> Exporter:
        """Return an exporter, which reads the table of subjects anew: people add rows as their study goes on."""
        try:
            return Exporter(source, self._dataset.rules, self._pseudonyms, self._selector)
        except UsageError as error:
            raise DatasetUnusable(str(error)) from error

    def _failed(self, pending: PendingEvent, before: int, reason: str, *, is_final: bool) -> Attempt:
        attempt = super()._failed(pending, before, reason, is_final=is_final)
        self._count("given-up" if attempt.outcome == "failed" else "failed", 1)
        return attempt

    # Records

    def _note_change(self, study_instance_uid: str, report: ExportReport) -> None:
        """Count the volumes that were written, and record in the audit log what became of them (PS3.15 A.5.3.4)."""
        change = report.change
        written = len(change.added) + len(change.replaced)
        if not (written or change.removed):
            return
        self._count("sent", written)
        with self._index.reading(wait=False) as index:
            patient_id = index.studies.patient_id(study_instance_uid) or ""
        participants = [
            Participant(self._ae_title, SOURCE, is_requestor=True),
            Participant(self.lane.destination, DESTINATION),
        ]
        objects = [{"study_instance_uid": study_instance_uid, "patient_id": patient_id}]
        detail = f"route {self.lane.name}: {counted(written, 'volume')} written, {len(change.removed)} removed"
        self._audit.note(
            AuditMessage(AuditEvent.EXPORT, AuditAction.READ, Result.SUCCESS, participants, objects, detail)
        )


def events_of(route: Route) -> tuple[LedgerEvent, ...]:
    """Return the events that a data set follows: of its route, of verdicts, failures, deletions, merges of patients."""
    if route.when == "study-quiet":
        return ("study-quiet", "verdict-changed", "changed")
    return ("volume-written", "verdict-changed", "series-failed", "changed")


def _reasons(report: ExportReport) -> dict[str | None, str]:
    """Return why series of a study are not in the data set, by their UIDs; None: what stays of series that are gone."""
    stays = {left.series_instance_uid for left in report.left}
    found: dict[str | None, str] = {}
    for skipped in report.skipped:
        if skipped.reason != STILL_OPEN:  # it has an event of its own once that ends
            reason = f"{skipped.volume}: {skipped.reason}" if skipped.volume else skipped.reason
            found.setdefault(skipped.series_instance_uid, reason[:REASON_LENGTH])
    found = {series: f"{reason}; {STAYS}" if series in stays else reason for series, reason in found.items()}
    gone = [left.reason for left in report.left if left.series_instance_uid is None]
    if gone:
        found[None] = f"{counted(len(gone), 'volume')}: {gone[0]}; {STAYS}"
    return found


def _nameless(path: str) -> str:
    """Return a text about a path in the data set without the label of its subject, which may be a Patient ID."""
    return _SUBJECT.sub("sub-*", path)


class _Datasets:
    """See `node.routing.held.DestinationKind`."""

    def check(self, destination: DestinationSettings) -> None:
        assert isinstance(destination, DatasetSettings)
        check_dataset(destination)

    def events(self, route: Route) -> Collection[LedgerEvent]:
        return events_of(route)

    def worker(self, parts: RouteParts) -> DatasetWorker:
        destination = parts.settings.destinations[parts.destination]
        assert isinstance(destination, DatasetSettings)
        return DatasetWorker(parts, described(destination, parts.archive.root))


DATASETS = _Datasets()
