"""The composition root: the only place that puts concrete parts together.

association -> archive -> index -> quiet -> volume -> writers
"""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog

from node import __version__
from node.archive.filesystem import Archive
from node.audit import (
    APPLICATION,
    SOURCE,
    Action,
    Audit,
    AuditEvent,
    AuditFailed,
    Participant,
    Result,
    Transfers,
)
from node.config import Settings
from node.deletion import Order, delete, resume_deletions
from node.durable import make_folder, sync_folder
from node.errors import VoxelnodeError
from node.fsck import Finding, examine, mend
from node.index.database import Index, reading
from node.index.engine import FILE_NAME, IndexUnusable, set_aside
from node.index.records import Level, Refused, SeriesPlace
from node.ingest import Ingest, quiet_seconds_of
from node.metrics import Metrics, publish, withdraw
from node.recovery import Recovered, recover
from node.rejections import Rejections
from node.requests import RequestDesk, ask
from node.retention import Retention
from node.revisions import sweep
from node.scp.find import NotFound, find_instance_count
from node.scp.server import Listener
from node.web.application import application
from node.web.server import WebServer
from node.web.services import Services
from node.worker.confirm import Confirmer
from node.worker.loop import Worker

log = structlog.get_logger()


class RootInUse(VoxelnodeError):
    """Another voxelnode process works on this root."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a started node accepts associations."""

    host: str
    port: int
    ae_title: str
    web: str | None = None
    """The URL of the pages, if they are served."""


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
        return {
            "reconvert": self._reconvert,
            "delete": self._delete,
            "merge-patients": self._merge_patients,
        }

    def _reconvert(self, series: list[tuple[str, str]]) -> Mapping[str, Any]:
        places = [(study_instance_uid, series_instance_uid) for study_instance_uid, series_instance_uid in series]
        return {"owed": self.index.owe_conversions(places, dt.datetime.now(dt.UTC))}

    def _delete(self, level: Level, uid: str, study_instance_uid: str | None, who: str) -> Mapping[str, Any]:
        plan = self.index.plan_deletion(level, uid, study_instance_uid)
        delete(self.archive, self.index, self.audit, plan, Order(who, "by command"), dt.datetime.now(dt.UTC))
        return {"series": plan.series, "instances": plan.instances, "bytes": plan.bytes}

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
        See `node.requests.ask`.
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
    """Compare index, archive and volumes of a root; see `node.fsck`.

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


STRANGERS = frozenset({"calling AE title", "called AE title", "peer address", "TLS"})
"""Rules of refusals that say: this one may not talk to us."""


PUBLISH_SECONDS = 3.0
"""How old the counters that `voxelnode status` shows may be."""


class Node:
    """The whole node: listener and worker on one root."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = Store(settings)
        sweep(self._store.archive, self._store.index)
        self._rejections = Rejections(self._store.index, self._alert)
        self._listener = Listener(settings, self._store.ingest, self._store.metrics, self._rejections.record)
        self._retention = Retention(self._store.archive, self._store.index, self._store.audit, settings.retention)
        self._worker = Worker(self._store.archive, self._store.index, settings.convert, waits=settings.series)
        self._confirmer = _confirmer(settings, self._store.index)
        self._requests = RequestDesk(settings.storage.root, self._store.actions)
        self._web = _web_server(settings, self._store)

    def start(self) -> Address:
        """Accept associations and convert what is due; returns where."""
        host, port = self._listener.start()
        self._worker.start()
        self._confirmer.start()
        self._requests.start()
        self._retention.start()
        web = None
        if self._web is not None:
            web_host, web_port = self._web.start()
            web = f"http://{f'[{web_host}]' if ':' in web_host else web_host}:{web_port}/"
        address = Address(host, port, self._settings.dicom.ae_title, web)
        self._tell_activity("started")
        log.info("ready", host=host, port=port, ae_title=address.ae_title)
        return address

    def serve_until(self, stop: threading.Event) -> None:
        """Tell the counters every few seconds (see `voxelnode status`); return when `stop` is set."""
        publish(self._store.metrics, self._store.archive.root)
        while not stop.wait(PUBLISH_SECONDS):
            publish(self._store.metrics, self._store.archive.root)

    def stop(self, drain_seconds: float) -> None:
        """End in good order: no new associations, the instances and conversions under way finish or are handed back."""
        if self._web is not None:
            self._web.stop(drain_seconds)
        self._listener.drain(drain_seconds)
        self._requests.stop()
        self._retention.stop()
        self._confirmer.stop()
        self._worker.stop(drain_seconds)
        self._rejections.close()
        withdraw(self._store.archive.root)
        self._tell_activity("stopped")
        self._store.close()
        log.info("stopped")

    def _tell_activity(self, what: str) -> None:
        participants = [Participant(self._settings.dicom.ae_title, APPLICATION)]
        self._audited(AuditEvent.APPLICATION_ACTIVITY, Result.SUCCESS, participants, f"voxelnode {__version__} {what}")

    def _alert(self, refused: Refused) -> None:
        """Tell the audit log who was kept out (PS3.15 A.5.3.11)."""
        if refused.rule in STRANGERS:
            who = Participant(refused.calling_ae_title, SOURCE, refused.peer, is_requestor=True)
            self._audited(AuditEvent.SECURITY_ALERT, Result.MINOR_FAILURE, [who], f"{refused.rule}: {refused.reason}")

    def _audited(self, event: AuditEvent, result: Result, participants: Sequence[Participant], detail: str) -> None:
        try:
            self._store.audit.record(event, Action.EXECUTE, result, participants, detail=detail)
        except AuditFailed:
            log.exception("not_audited")  # nothing is destroyed by it; what destroys waits for the audit log


def _web_server(settings: Settings, store: Store) -> WebServer | None:
    if not settings.web.enabled:
        return None
    services = Services(settings, store.archive, store.index, store.ingest, store.metrics, store.audit, store.actions)
    return WebServer(settings.web, application(services))


CONFIRM_SECONDS = 10.0
"""Longest wait for an answer of a sender that is asked for its counts."""


def _confirmer(settings: Settings, index: Index) -> Confirmer:
    """What asks the senders that may be asked (``[peers.NAME] confirm_by_find``)."""
    peers = {peer.ae_title: peer for peer in settings.peers.values() if peer.confirm_by_find}

    def ask_sender(calling_ae_title: str, place: SeriesPlace) -> int | None:
        peer, ours = peers[calling_ae_title], settings.dicom.ae_title
        try:
            return find_instance_count(peer.host or "", peer.port, ours, peer.ae_title, *place, CONFIRM_SECONDS)
        except NotFound as error:
            log.warning("series_not_confirmed", series_instance_uid=place[1], reason=str(error))
            return None

    return Confirmer(index, peers.keys(), ask_sender)


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
