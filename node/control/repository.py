"""A root, opened and held by one process: its archive, its index, and what may be done on it."""

from __future__ import annotations

import datetime as dt
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from node.archive.filesystem import Archive
from node.association.addresses import address_of
from node.association.client.get import RetrieveTarget, get
from node.audit import APPLICATION, Action, Audit, AuditEvent, Participant, Result, Transfers
from node.control.accounts import Enrolment
from node.control.control_socket import ask
from node.durable import make_folder, sync_folder
from node.errors import VoxelnodeError
from node.index.database import Index, reading
from node.index.engine import FILE_NAME, IndexUnusable, set_aside
from node.index.records import Level
from node.lifecycle.deletion import Order, delete, resume_deletions
from node.lifecycle.fsck import Finding, examine, mend
from node.metrics import Metrics
from node.receive.ingest import Ingest, quiet_seconds_of
from node.receive.recovery import Recovered, recover
from node.settings.model import Settings


class RootInUse(VoxelnodeError):
    """Another voxelnode process works on this root."""


class Store:
    """Archive, index and ingest of one root, held by one process; what `import` needs of a node.

    Raises
    ------
    RootInUse
        Another process holds the root.
    IndexUnusable
        The index is damaged, or gone while there are instances; `new_index` makes a new one of them then.
    """

    def __init__(self, settings: Settings, *, new_index: bool = False) -> None:
        self._settings = settings
        root = settings.storage.root.absolute()
        make_folder(root)
        self._lock = _locked(root)
        try:
            if not new_index:
                require_index(root)
            self._open(root, settings)
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self, root: Path, settings: Settings) -> None:
        self.metrics = Metrics()
        self.audit = Audit(root, settings.dicom.ae_title, settings.audit.syslog)
        self._transfers = Transfers(self.audit)
        self.archive = Archive(root, settings.storage.reserve_bytes, settings.storage.low_bytes)
        self.metrics.intake_open.set_function(lambda: float(self.archive.intake.has_room()))
        self.index = Index(root, self.archive.sync_folder, self.metrics, self.archive.intake.stop)
        quiet_seconds = quiet_seconds_of(
            settings.series.quiet_seconds, settings.series.quiet_seconds_by_calling_ae_title
        )
        self.ingest = Ingest(
            self.archive,
            self.index,
            self.metrics,
            quiet_seconds,
            settings.dicom.maximum_instance_bytes,
            overwrite_policy=settings.storage.overwrite_policy,
            aborted_grace_seconds=settings.series.aborted_grace_seconds,
            transfers=self._transfers,
        )
        resume_deletions(self.archive, self.index, dt.datetime.now(dt.UTC))
        self.recovered = recover(self.archive, self.index, quiet_seconds, dt.datetime.now(dt.UTC))

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the instances under way finish, commit, and let go of the root."""
        self.ingest.close()
        self._transfers.close()
        self.index.close()
        self.audit.close()
        os.close(self._lock)

    @property
    def actions(self) -> dict[str, Callable[..., Mapping[str, Any]]]:
        """What a command may have done on this root, by whichever process holds it (see `perform`)."""
        enrolment = Enrolment(self.index.accounts, self.audit)
        return {
            "reconvert": self._reconvert,
            "delete": self._delete,
            "merge-patients": self._merge_patients,
            "get": self._get,
            "retry-deliveries": self._retry_deliveries,
            "set-account": enrolment.set_account,
            "set-role": enrolment.set_role,
            "remove-account": enrolment.remove_account,
            "add-token": enrolment.add_token,
            "remove-token": enrolment.remove_token,
        }

    def _reconvert(self, series: list[tuple[str, str]]) -> Mapping[str, Any]:
        places = [(study_instance_uid, series_instance_uid) for study_instance_uid, series_instance_uid in series]
        return {"owed": self.index.owe_conversions(places, dt.datetime.now(dt.UTC))}

    def _retry_deliveries(self, hook: str, message_id: str | None) -> Mapping[str, Any]:
        return {"waiting": self.index.retry_deliveries(hook, message_id, dt.datetime.now(dt.UTC))}

    def _delete(
        self, level: Level, uid: str, study_instance_uid: str | None, who: str, reason: str = "by command"
    ) -> Mapping[str, Any]:
        plan = self.index.plan_deletion(level, uid, study_instance_uid)
        delete(self.archive, self.index, self.audit, plan, Order(who, reason), dt.datetime.now(dt.UTC))
        return {"series": plan.series, "instances": plan.instances, "bytes": plan.bytes}

    def _get(self, study: str, series: str, source: str) -> Mapping[str, Any]:
        peer = address_of(source, self._settings)
        return asdict(get(RetrieveTarget(study, series), peer, self._settings.dicom, self.ingest))

    def _merge_patients(self, source: int, target: int, who: str) -> Mapping[str, Any]:
        def tell(result: Result, detail: str, patients: Sequence[str] = (), studies: Sequence[str] = ()) -> None:
            objects = [{"patient_id": one} for one in patients] + [{"study_instance_uid": one} for one in studies]
            participants = [Participant(who, APPLICATION, is_requestor=True)]
            self.audit.record(
                AuditEvent.PATIENT_RECORD, Action.UPDATE, result, participants, objects, detail, durable=True
            )

        tell(Result.SUCCESS, f"ordered: merge patient #{source} into #{target}")
        try:
            merged = self.index.merge_patients(source, target, dt.datetime.now(dt.UTC))
        except VoxelnodeError:
            tell(Result.SERIOUS_FAILURE, "not done: the index did not change")
            raise
        tell(Result.SUCCESS, "done", (merged.source_patient_id, merged.target_patient_id), merged.studies)
        return {"studies": list(merged.studies)}


REQUEST_SECONDS = 20.0
"""How long a command waits until the node that holds the root takes up what it asks."""


def perform(settings: Settings, action: str, **arguments: Any) -> dict[str, Any]:
    """Perform one of `Store.actions` for a command: here when no process holds the root, else by the node that does.

    Parameters
    ----------
    action : str
    arguments
        Of the action; values are JSON.

    Raises
    ------
    IndexUnusable
        There is nothing at the root.
    NotPerformed
        See `node.control.control_socket.ask`.
    VoxelnodeError
        The action refuses.
    """
    root = settings.storage.root.absolute()
    if not (root / FILE_NAME).exists():
        raise IndexUnusable(f"no index at {root / FILE_NAME}: is the root right?")
    try:
        store = Store(settings)
    except RootInUse:
        return ask(root, action, arguments, REQUEST_SECONDS)
    with store:
        return dict(store.actions[action](**arguments))


@contextmanager
def importer(settings: Settings) -> Iterator[Ingest]:
    """Open a root for taking instances in without a listener.

    Raises
    ------
    RootInUse
        A node or another import holds the root.
    """
    with Store(settings) as store:
        store.ingest.quiet_seconds = lambda calling_ae_title: 0.0  # nothing more comes: due as soon as a node serves
        yield store.ingest


def fsck(settings: Settings, *, digests: bool, repair: bool) -> list[Finding]:
    """Compare index, archive and volumes of a root; see `node.lifecycle.fsck`.

    Raises
    ------
    RootInUse
        To repair, the root must be free.
    IndexUnusable
        There is no index, or it cannot be read.
    """
    root = settings.storage.root.absolute()
    held = _is_held(root)
    with reading(root) as index:
        findings = list(examine(root, index, digests=digests, serving=held))
    if not repair:
        return findings
    with Store(settings) as store:
        return mend(findings, store.archive, store.index, store.ingest.quiet_seconds, dt.datetime.now(dt.UTC))


def rebuild_index(settings: Settings) -> tuple[Path | None, Recovered]:
    """Make the index anew from the files of the archive alone.

    Returns
    -------
    Path or None
        Where the index that was there is kept, if there was one.
    Recovered
        What was found.

    Raises
    ------
    RootInUse
        A node or an import holds the root.
    """
    root = settings.storage.root.absolute()
    make_folder(root)
    lock = _locked(root)
    try:
        kept = set_aside(root, dt.datetime.now(dt.UTC))
        sync_folder(root)
    finally:
        os.close(lock)
    with Store(settings, new_index=True) as store:
        return kept, store.recovered


def require_index(root: Path) -> None:
    """Return unless instances are there without an index: a new one would be made of them, and their volumes removed.

    Raises
    ------
    IndexUnusable
        They are.
    """
    if not (root / FILE_NAME).exists() and next((root / "objects").glob("*/*.dcm"), None) is not None:
        raise IndexUnusable(
            f"{root / FILE_NAME} is gone, but there are instances: bring it back from a backup, or let "
            "`voxelnode db rebuild` make it anew from them"
        )


def _is_held(root: Path) -> bool:
    try:
        os.close(_locked(root))
    except RootInUse:
        return True
    return False


def _locked(root: Path) -> int:
    """Hold the root for this process; the lock goes with the process, however that ends."""
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RootInUse(f"{root} is in use by another voxelnode process: stop it, or choose another root") from None
    return descriptor
