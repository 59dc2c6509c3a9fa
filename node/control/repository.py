"""A root, opened and locked by one process: its archive, its index, and the actions for commands and pages."""

from __future__ import annotations

import datetime as dt
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Literal, TypeVar

import structlog

from node.archive.ballast import Ballast
from node.archive.base import StoreAway
from node.archive.filesystem import Archive
from node.archive.locks import lock_problem
from node.archive.objects import configured_store
from node.archive.permissions import keep_private, others_may
from node.archive.remote import Remote, marked
from node.association.addresses import address_of
from node.association.client.echo import verify
from node.association.client.get import RetrieveTarget, get
from node.association.client.search import Level as SearchLevel
from node.association.client.search import PeerSearches
from node.audit.audit_log import APPLICATION, Action, Audit, AuditEvent, AuditMessage, Participant, Result, Transfers
from node.control.accounts import AccountAdministration
from node.control.control_socket import REQUEST_SECONDS, NoControlSocket, NotPerformed, request_action
from node.control.no_results import NoResults
from node.dicom.worklist import entry_text
from node.durable import locked, make_folder, sync_folder, write_durably
from node.errors import UsageError, VoxelnodeError
from node.hookspecs import Results
from node.index.care import copying
from node.index.database.index import Index, reading
from node.index.database.reading import ReadIndex, checked
from node.index.engine.about import STORE, STORE_SPOOLED
from node.index.engine.aside import OldIndex, Salvaged
from node.index.engine.backend import backend_at
from node.index.engine.place import IndexUnusable, Place, exists, missing_index, place_of
from node.index.nouns.deletions import NotThere
from node.index.nouns.terms import Terms
from node.index.records import Level
from node.index.work.ledger import Work, WorkEnded
from node.index.work.routes import lane_to
from node.journal.inspect import inspect
from node.journal.journal import MARK_FILE, SEGMENT_BYTES, Journal, segment_files
from node.lifecycle.archive_copy import Copied, copy_to_folder, copy_to_store
from node.lifecycle.deletion import Order, delete, resume_deletions
from node.lifecycle.fsck import Finding, examine, mend, require_mounted
from node.lifecycle.journal import JOURNAL_FOLDER
from node.lifecycle.uploads import Uploads
from node.metrics import Metrics
from node.receive.apply import Applier, Replayed
from node.receive.conflicts import Conflicts
from node.receive.ingest import Ingest
from node.receive.quarantine import Quarantine, take_back
from node.receive.quiet_times import quiet_seconds_of
from node.receive.recovery import (
    Recovered,
    adopt_all_objects,
    mark_all_missing,
    record_quarantined,
    recover,
    remove_unknown_volumes,
)
from node.registry import results_kind
from node.routing.router import subscriptions
from node.settings.model import HookEvent, Settings, Storage

log = structlog.get_logger()

LOCK_FILE = "lock"

MIN_SEGMENTS = 4
"""A small journal has smaller segments instead of fewer: while one is synced elsewhere, the others take instances."""


ECHO_SECONDS = 5.0
"""Longest wait for a peer that a page tests."""

REBUILDING_FILE = "rebuilding.json"
"""In the root while a new index is built: the name of the index before it."""


class RootInUse(VoxelnodeError):
    """Another voxelnode process holds the lock of this root."""


class LocksUnusable(VoxelnodeError):
    """Locks do not work on the file system of this root."""


class StoreNeeded(VoxelnodeError):
    """Instances of this root are in an object store that the configuration does not name."""

    def __init__(self) -> None:
        super().__init__(
            "instances of this root are in an object store: set [storage] url again; to do without it, run "
            "`voxelnode archive copy --to folder` first"
        )


class Repository:
    """Archive, index and ingest of one root, locked by this process: a node without its services.

    Parameters
    ----------
    settings : Settings
    new_index : bool
        If there is no index, build one from the instances; by default, instances without an index are an error.
    previous : OldIndex or None
        The index before the new one: what the instances do not tell is taken over from it.

    Raises
    ------
    RootInUse
        Another process holds the lock of the root.
    LocksUnusable
        Locks do not work on its file system.
    IndexUnusable
        The index is damaged, or it is missing although there are instances.
    """

    def __init__(self, settings: Settings, *, new_index: bool = False, previous: OldIndex | None = None) -> None:
        self._settings = settings
        self._searches = PeerSearches(settings)
        root = settings.storage.root.absolute()
        keep_private()
        make_folder(root)
        if others_may(root):
            log.warning("root_open_to_others", path=str(root), detail="`voxelnode doctor --mend` closes it")
        if (problem := lock_problem(root)) is not None:
            raise LocksUnusable(
                f"{problem}: the index needs locks that exclude other processes and machines; use a local disk"
            )
        self._locks = locked_root(root)
        try:
            if not new_index:
                require_index(root, settings.index.url)
            with Ballast(root).dropped():  # a root on a full disk can be opened, to delete something
                self._open(root, settings, previous, new_index=new_index)
        except BaseException:
            self._locks.close()
            raise

    def _open(self, root: Path, settings: Settings, previous: OldIndex | None, *, new_index: bool) -> None:
        self.metrics = Metrics()
        self.audit = Audit(root, settings.dicom.ae_title, settings.audit)
        self._transfers = Transfers(self.audit)
        self.archive = Archive(root, settings.storage.reserve_bytes, settings.storage.low_bytes, host=settings.holder)
        self.metrics.intake_open.set_function(lambda: float(self.archive.intake.has_room()))
        self.index = Index(
            self.archive.root,
            self.metrics,
            self.archive.intake.stop,
            settings.index.url,
            settings.cluster.name,
            has_roots=bool(settings.holder),
        )
        self.archive.remote = self._remote(settings.storage, new_index=new_index)
        segment_bytes = min(SEGMENT_BYTES, settings.storage.journal_bytes // MIN_SEGMENTS)
        self.journal = Journal(root / JOURNAL_FOLDER, segment_bytes, settings.storage.journal_bytes)
        is_awaited = settings.acknowledge != "local"
        self.applier = Applier(self.journal, self.archive, self.index, self.metrics, self.audit, is_awaited=is_awaited)
        quiet_seconds = quiet_seconds_of(
            settings.series.quiet_seconds,
            settings.series.quiet_seconds_by_calling_ae_title,
            self.index.senders.quiet_seconds,
        )
        self.ingest = Ingest(
            self.archive,
            self.index,
            self.journal,
            self.applier,
            self.metrics,
            quiet_seconds,
            settings.dicom.maximum_instance_bytes,
            overwrite_policy=settings.storage.overwrite_policy,
            conflict_answer=settings.dicom.conflict_answer,
            aborted_grace_seconds=settings.series.aborted_grace_seconds,
            transfers=self._transfers,
            now=self.index.now,
            acknowledge=settings.acknowledge,
            acknowledge_seconds=settings.journal.acknowledge_seconds,
        )
        kind = results_kind(settings)
        self.results: Results = (
            kind.opened(self.index, self.ingest, self.metrics) if kind else NoResults(self.index.jobs, self.ingest.now)
        )
        if previous is not None:
            self.index.salvage.begin(previous)
        resume_deletions(self.archive, self.index, self.index.now())
        marked: Mapping[str, set[str]] = {}
        is_older = self._is_index_older()
        if is_older:
            marked = mark_all_missing(self.archive, self.index, self.index.now())
        self.replayed = self.applier.replay()
        self.recovered = recover(self.archive, self.index, quiet_seconds, self.index.now(), marked)
        self.taken_back: list[str] = []
        if new_index:
            self.taken_back = take_back(self.archive, self.index, quiet_seconds, self.index.now())
            adopt_all_objects(self.archive, self.index, quiet_seconds, self.index.now())
        if new_index or is_older:
            record_quarantined(self.archive, self.index, self.index.now())
        if previous is not None:
            self.index.salvage.finish(previous, lambda path: (self.archive.root / path).is_file(), self.index.now())
        if new_index:
            remove_unknown_volumes(self.archive, self.index, self.index.now())
        self.results.sweep()
        self.applier.checkpoint()
        self.applier.start()
        self.index.ahead = self.applier
        watched = {root, root / LOCK_FILE, *self.index.files, root / JOURNAL_FOLDER}
        self.archive.intake.watch(watched)

    def _remote(self, storage: Storage, *, new_index: bool) -> Remote | None:
        """Return the object store of the archive, of which nothing is asked unless the index is new.

        Raises
        ------
        StoreNeeded
            There is none in the configuration, and instances are in one.
        StoreAway
            A new index needs to know whose store it is.
        """
        identity = self.index.about.get(STORE)
        store = configured_store(storage)
        if store is None:
            if identity and self.index.about.get(STORE_SPOOLED) == "yes":
                raise StoreNeeded
            return None
        if not identity:
            identity = (marked(store) if new_index else None) or uuid.uuid4().hex
            identity = self.index.about.settle(STORE, identity)
        if self.index.turn.holder is not None:
            key = self.index.objects.of_no_host()
            if key is not None and self.archive.path(key).exists():
                self.index.objects.own_spool()
        host_of = self.index.objects.host_of
        return Remote(store, self.archive.root, self.archive.intake, storage.cache_bytes, identity, host_of)

    def _is_index_older(self) -> bool:
        """Return whether the journal has let go of records that the index lacks: a copy of the index was restored."""
        if self.index.turn.holder is not None and not self.journal.freed:  # a host that joins others
            return False
        applied = self.index.about.applied(self.journal.identity)
        return applied.journal != self.journal.identity or applied.sequence < self.journal.freed

    def __enter__(self) -> Repository:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Finish instances under way, apply the journal, commit, and unlock the root."""
        self.results.close()
        self.ingest.close()
        self._transfers.close()
        self.applier.finish()
        if self.archive.remote is not None:
            self.archive.remote.close()
        self.index.close()
        self.journal.close()
        self.audit.close()
        self._locks.close()

    @property
    def actions(self) -> dict[str, Callable[..., Mapping[str, Any]]]:
        """The actions on this root by name; commands call them through `perform_action`."""
        accounts = AccountAdministration(self.index.accounts, self.audit)
        quarantine = Quarantine(self.ingest, self.audit)
        conflicts = Conflicts(self.ingest, self.audit, quarantine)
        return {
            "accept-conflict": self._and_files(conflicts.accept),
            "keep-conflict": conflicts.keep,
            "release-quarantined": self._and_files(quarantine.release),
            "purge-quarantined": quarantine.purge,
            "reconvert": self._reconvert,
            "delete": self._delete,
            "merge-patients": self._merge_patients,
            "echo": self._echo,
            "search-peer": self._search_peer,
            "retrieve": self._retrieve,
            "cancel-work": self._cancel_work,
            "retry-work": self._retry_work,
            "retry-deliveries": self._retry_deliveries,
            "replay-deliveries": self._replay_deliveries,
            "pause-routes": self._pause_routes,
            "retry-routes": self._retry_routes,
            "replay-route": self._replay_route,
            "send": self._send,
            "cancel-job": self._cancel_job,
            "end-workitem": self._end_workitem,
            "note-export": self._note_export,
            "drain-host": self._drain_host,
            "forget-host": self._forget_host,
            "set-account": accounts.set_account,
            "set-role": accounts.set_role,
            "remove-account": accounts.remove_account,
            "add-token": accounts.add_token,
            "remove-token": accounts.remove_token,
        }

    def _and_files(self, action: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        """Return an action that also deletes the volumes of an instance that has left its series."""

        def act(**arguments: Any) -> dict[str, Any]:
            try:
                return action(**arguments)
            finally:
                resume_deletions(self.archive, self.index, self.ingest.now())

        return act

    def _reconvert(self, series: list[tuple[str, str]], terms: Terms | None = None) -> Mapping[str, Any]:
        self.applier.require_caught_up()
        series_keys = [(study_instance_uid, series_instance_uid) for study_instance_uid, series_instance_uid in series]
        return {"owed": self.index.series.reopen(series_keys, self.index.now(), terms)}

    def _retry_deliveries(self, hook: str, message_id: str | None) -> Mapping[str, Any]:
        return {"waiting": self.index.deliveries.retry(hook, message_id, self.index.now())}

    def _replay_deliveries(
        self, hook: str, events: list[HookEvent], series: list[tuple[str, str]], before: str | None
    ) -> Mapping[str, Any]:
        moment = dt.datetime.fromisoformat(before) if before is not None else None
        keys = [(study_instance_uid, series_instance_uid) for study_instance_uid, series_instance_uid in series]
        return asdict(self.index.deliveries.replay(hook, events, keys, moment, self.index.now()))

    def _pause_routes(self, destinations: list[tuple[str, str]], paused: bool) -> Mapping[str, Any]:
        return {"changed": self.index.routes.pause([lane_to(*one) for one in destinations], paused)}

    def _retry_routes(self, destinations: list[tuple[str, str]]) -> Mapping[str, Any]:
        return {"waiting": self.index.routes.retry([lane_to(*one) for one in destinations], self.index.now())}

    def _replay_route(
        self, route: str, destination: str, series: list[tuple[str, str]], again: bool
    ) -> Mapping[str, Any]:
        keys = [(study_instance_uid, series_instance_uid) for study_instance_uid, series_instance_uid in series]
        return asdict(self.index.routes.replay(lane_to(route, destination), keys, again, self.index.now()))

    def _send(self, to: str, study_instance_uid: str, series_instance_uid: str | None = None) -> Mapping[str, Any]:
        lane = lane_to("", to)
        return {"instances": self.index.routes.send(lane, study_instance_uid, series_instance_uid, self.index.now())}

    def delete_confirmed(self, route_name: str) -> None:
        """Delete the series that every destination of a route has confirmed."""
        lanes = [lane_to(route_name, to) for to in self._settings.routes[route_name].to]
        everybody = subscriptions(self._settings)

        def require_confirmed(index: ReadIndex) -> None:
            if key not in index.routes.deletable(lanes, everybody):
                raise NotThere("an instance came meanwhile, or somebody waits for the series again")

        for key in self.index.routes.deletable(lanes, everybody):
            reason = f"every destination of route {route_name} has confirmed it"
            with suppress(NotThere):
                self._delete("series", key[1], key[0], f"route {route_name}", reason, Terms(checked(require_confirmed)))

    def _cancel_job(self, job: str, who: str) -> Mapping[str, Any]:
        uids = [{"study_instance_uid": self.index.jobs.with_id(job).study_instance_uid}]
        self.results.end(job, "cancelled", f"cancelled by {who}")
        participants = [Participant(who, APPLICATION, is_requestor=True)]
        event, detail = AuditEvent.INSTANCES_ACCESSED, f"job {job}: cancelled"
        self.audit.note(AuditMessage(event, Action.EXECUTE, Result.SUCCESS, participants, uids, detail))
        return {"cancelled": job}

    def _end_workitem(self, workitem: str, who: str) -> Mapping[str, Any]:
        reason = f"ended by {who}: its performer has vanished"
        attributes = self.index.workitems.end(workitem, reason, self.index.now())
        participants = [Participant(who, APPLICATION, is_requestor=True)]
        objects = [{"patient_id": entry_text(attributes, "PatientID") or ""}]
        event, detail = AuditEvent.PROCEDURE_RECORD, f"workitem {workitem}: {reason}"
        self.audit.note(AuditMessage(event, Action.UPDATE, Result.SUCCESS, participants, objects, detail))
        return {"ended": workitem}

    def _drain_host(self, host: str, who: str) -> Mapping[str, Any]:
        if self.index.turn.host is None:
            raise UsageError("the index is a file, and has no hosts: stop the node with SIGTERM")
        self.index.hosts.ask_to_drain(host, self.index.now())
        log.info("drain_asked", host=host, detail=f"by {who}")
        return {"asked": host}

    def _forget_host(self, host: str, who: str) -> Mapping[str, Any]:
        self.index.hosts.require_gone(host, self.index.now())
        remote = self.archive.remote
        if remote is not None:
            self._record_uploaded(remote, host)
        self.index.series.reopen(self.index.objects.current_only_at(host), self.index.now())
        self.index.objects.give_up(host)
        forgotten = asdict(self.index.hosts.forget(host, self.index.now()))
        participants = [Participant(who, APPLICATION, is_requestor=True)]
        event, detail = AuditEvent.APPLICATION_ACTIVITY, f"host {host} of the index was forgotten"
        self.audit.note(AuditMessage(event, Action.DELETE, Result.SUCCESS, participants, detail=detail))
        return {"forgotten": host, **forgotten}

    def _record_uploaded(self, remote: Remote, host: str) -> None:
        """Note what a host has put into the store and did not live to record."""
        files = self.index.objects.only_at(host)
        try:
            problems = list(remote.threads.map(remote.object_problem, files))
        except StoreAway as error:
            raise UsageError(f"{error.strerror}: {host} can be forgotten when the store tells what it has") from error
        stored = [file.key for file, problem in zip(files, problems, strict=True) if problem is None]
        if stored:
            self.index.objects.record_stored(stored, self.index.now())

    def _note_export(self, detail: str, result: int, who: str) -> Mapping[str, Any]:
        self.audit.note(export_message(detail, Result(result), who))
        return {}

    def _delete(
        self,
        level: Level,
        uid: str,
        study_instance_uid: str | None,
        who: str,
        reason: str = "by command",
        terms: Terms | None = None,
    ) -> Mapping[str, Any]:
        self.archive.intake.require_sound()
        with self.archive.ballast.dropped():  # what waits for room is applied, too
            self.applier.require_caught_up()
            plan = self.index.deletions.plan(level, uid, study_instance_uid)
            delete(self.archive, self.index, self.audit, plan, Order(who, reason, terms), self.index.now())
        return {"series": plan.series, "instances": plan.instances, "bytes": plan.bytes}

    def get(self, study: str, series: str, source: str) -> Mapping[str, Any]:
        """Retrieve a study or a series, and return the counts; a serving node has a queue of retrievals instead."""
        peer = address_of(source, self._settings)
        return asdict(get(RetrieveTarget(study, series), peer, self._settings.dicom, self.ingest))

    def _echo(self, peer: str) -> Mapping[str, Any]:
        address = address_of(peer, self._settings)
        return {"seconds": verify(address, self._settings.dicom.ae_title, ECHO_SECONDS)}

    def _search_peer(self, peer: str, level: SearchLevel, keys: dict[str, str]) -> Mapping[str, Any]:
        return asdict(self._searches.find(peer, level, keys))

    def _retrieve(self, peer: str, wanted: list[tuple[str, str | None]], who: str) -> Mapping[str, Any]:
        address_of(peer, self._settings)
        if len(peer) > MAX_PEER:
            raise UsageError(f"{peer[:32]}... has more than {MAX_PEER} characters: give it a name in [peers]")
        pairs = [(study_instance_uid, series_instance_uid) for study_instance_uid, series_instance_uid in wanted]
        return {"retrievals": self.index.work.add_retrievals(peer, pairs, who, self.index.now())}

    def _cancel_work(self, work: int, who: str) -> Mapping[str, Any]:
        one = self.index.work.one(work)
        if one.lane.kind == "job":
            return self._cancel_job(one.key, who)
        self.index.work.cancel(work, who, self.index.now())
        self._note_work(one, who, "cancelled")
        return {"cancelled": work}

    def _retry_work(self, work: int, who: str) -> Mapping[str, Any]:
        one = self.index.work.one(work)
        match one.lane.kind:
            case "hook" | "route":
                self.index.deliveries.retry_one(work, self.index.now())
            case "retrieval":
                if not self.index.work.repeat(work, self.index.now()):
                    raise WorkEnded("the retrieval has not ended")
            case kind:
                raise WorkEnded(f"a {kind} is not repeated: its hook or its requestor begins another one")
        self._note_work(one, who, "tried again")
        return {"retried": work}

    def _note_work(self, work: Work, who: str, what: str) -> None:
        participants = [Participant(who, APPLICATION, is_requestor=True)]
        objects = [{"study_instance_uid": work.study_instance_uid}] if work.study_instance_uid is not None else []
        event, detail = AuditEvent.BEGIN_TRANSFERRING, f"{work.lane.kind} {work.key}: {what}"
        self.audit.note(AuditMessage(event, Action.EXECUTE, Result.SUCCESS, participants, objects, detail))

    def _merge_patients(self, source: int, target: int, who: str, terms: Terms | None = None) -> Mapping[str, Any]:
        def message(
            result: Result, detail: str, patients: Sequence[str] = (), studies: Sequence[str] = ()
        ) -> AuditMessage:
            objects = [
                *({"patient_id": patient_id} for patient_id in patients),
                *({"study_instance_uid": uid} for uid in studies),
            ]
            participants = [Participant(who, APPLICATION, is_requestor=True)]
            return AuditMessage(AuditEvent.PATIENT_RECORD, Action.UPDATE, result, participants, objects, detail)

        self.applier.require_caught_up()
        self.audit.require(message(Result.SUCCESS, f"ordered: merge patient #{source} into #{target}"))
        try:
            merged = self.index.patients.merge(source, target, self.index.now(), terms)
        except VoxelnodeError:
            self.audit.note(message(Result.SERIOUS_FAILURE, "not done: the index did not change"))
            raise
        patients = merged.source_patient_id, merged.target_patient_id
        self.audit.note(message(Result.SUCCESS, "done", patients, merged.studies))
        return {"studies": list(merged.studies)}


def export_message(detail: str, result: Result, who: str) -> AuditMessage:
    """Return the line about a command that takes patient data out of a root (PS3.15 A.5.3.5)."""
    return AuditMessage(
        AuditEvent.EXPORT, Action.READ, result, [Participant(who, APPLICATION, is_requestor=True)], detail=detail
    )


_Held = TypeVar("_Held")

MAX_PEER = 64
"""Characters of the name or address of a peer in the list of retrievals."""

RETRY_SECONDS = 0.2
"""Interval at which a command retries while the process that holds the root has no control socket."""


def perform_action(
    settings: Settings, action: str, *, may_create_index: bool = False, **arguments: Any
) -> dict[str, Any]:
    """Perform one of `Repository.actions`: in the process that holds the root or, if none does, in this process.

    If that process accepts no requests (an import, or a node that is still starting), wait for it.

    Parameters
    ----------
    action : str
    may_create_index : bool
        The action is useful on a root that is still empty: create the root and its index.
    arguments
        Keyword arguments of the action, as JSON values.

    Raises
    ------
    IndexUnusable
        There is no index at the root, or it is missing although there are instances.
    NotPerformed
        The node refused or failed, or no process was ready within `REQUEST_SECONDS`.
    VoxelnodeError
        The action was refused.
    """
    root = settings.storage.root.absolute()
    if not may_create_index:
        require_created(settings)
    held = hold_or_request(root, lambda: Repository(settings), action, arguments)
    if isinstance(held, Repository):
        with held as repository:
            return dict(repository.actions[action](**arguments))
    return held


def require_created(settings: Settings) -> None:
    """Refuse a root that has no index yet.

    Raises
    ------
    IndexUnusable
    """
    place = place_of(settings.storage.root.absolute(), settings.index.url)
    if not exists(place):
        raise IndexUnusable(missing_index(place))


def hold_or_request(
    root: Path, hold: Callable[[], _Held], action: str, arguments: Mapping[str, Any]
) -> _Held | dict[str, Any]:
    """Hold a root and return the result of `hold`, or return the answer of the process that holds the root already.

    Raises
    ------
    NotPerformed
        The node refused or failed, or no process was ready within `REQUEST_SECONDS`.
    """
    deadline = monotonic() + REQUEST_SECONDS
    while True:
        try:
            return hold()
        except RootInUse:
            try:
                return request_action(root, action, arguments)
            except NoControlSocket:
                if monotonic() > deadline:
                    raise NotPerformed(
                        f"the process that holds {root} accepted no request within {REQUEST_SECONDS:g} s; it may be an "
                        "import, or a node that is still starting: try again later"
                    ) from None
        sleep(RETRY_SECONDS)


@contextmanager
def open_for_import(settings: Settings) -> Iterator[Ingest]:
    """Open a root to store instances without a listener.

    Raises
    ------
    RootInUse
        A node or another import holds the lock of the root.
    """
    with Repository(settings) as repository:
        # An import is complete when it ends: its series are due as soon as a node serves.
        repository.ingest.quiet_seconds = lambda calling_ae_title: 0.0
        yield repository.ingest


def check_repository(settings: Settings, *, digests: bool, repair: bool, force: bool = False) -> list[Finding]:
    """Compare the index, archive and volumes of a root; see `node.lifecycle.fsck`.

    Parameters
    ----------
    force : bool
        Repair although so many files are missing that the archive may not be mounted.

    Raises
    ------
    VoxelnodeError
        Repair was requested without `force`, and so many files are missing; nothing was changed.
    RootInUse
        Repair was requested, but another process holds the lock of the root.
    IndexUnusable
        The index does not exist or cannot be read.
    """
    root = settings.storage.root.absolute()
    held = root.is_dir() and is_held(root)
    store = configured_store(settings.storage)
    with reading(root, settings.index.url) as index:
        others = [host["name"] for host in index.hosts.living() if host["name"] != settings.cluster.name]
        serving = held or bool(others)
        findings = list(
            examine(
                root,
                index,
                digests=digests,
                serving=serving,
                url=settings.index.url,
                store=store,
                host=settings.holder or None,
            )
        )
        instances = index.count_levels()["instances"]
    if not repair:
        return findings
    if not force:
        require_mounted(root, findings, instances)
    with Repository(settings) as repository:
        now = dt.datetime.now(dt.UTC)
        fates = repository.recovered.fates
        return mend(findings, fates, repository.archive, repository.index, repository.ingest.quiet_seconds, now)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A new index: where the previous one is, and what came from it, from the journal and from the files.

    `previous_index` is a file, or the name of a schema in the database.
    `taken_back` are the names of files that were in quarantine and are the only ones of their instances; `unread` the
    keys of files that cannot be read now: they stay where they are, and the index lacks them.
    """

    previous_index: Path | str | None
    salvaged: Salvaged
    replayed: Replayed
    recovered: Recovered
    taken_back: list[str]
    unread: list[str]


def copy_archive(settings: Settings, to: Literal["store", "folder"]) -> Copied:
    """Move all instances of a root to its object store, or back to the folder; see `node.lifecycle.archive_copy`.

    Raises
    ------
    UsageError
        ``[storage] url`` is not set, or other hosts need the store.
    RootInUse
        A node or an import holds the lock of the root.
    NotCopied
        The store does not answer.
    """
    if settings.storage.url is None:
        raise UsageError("set [storage] url to the object store of the root")
    with Repository(settings) as repository:
        archive, index, remote = repository.archive, repository.index, repository.archive.remote
        assert remote is not None
        if to == "folder" and settings.holder:
            _require_alone(index, settings.holder)
        uploads = Uploads(archive, remote, index, repository.metrics, verify=settings.storage.verify_uploads)
        return copy_to_store(uploads, index) if to == "store" else copy_to_folder(uploads, archive, remote, index)


def _require_alone(index: Index, host: str) -> None:
    """Refuse to bring back instances from a store that other hosts use, or are to move instances to."""
    with index.reading() as view:
        others = [row for row in view.hosts.all(view.hosts.now()) if row["name"] != host]
    if living := [row["name"] for row in others if row["state"] in ("alive", "draining")]:
        raise UsageError(f"{', '.join(living)}: stop all other hosts, which need the object store")
    if spooling := [row["name"] for row in others if index.objects.only_at(row["name"])]:
        raise UsageError(
            f"{', '.join(spooling)}: has instances or volumes that are not in the object store; first run "
            "`voxelnode archive copy --to store` there, or `voxelnode cluster forget`"
        )


def rebuild_index(settings: Settings) -> Rebuilt:
    """Set the index aside and build a new one from the files of the archive, the journal, and what can be read of it.

    If the process dies, no node starts on the root until this was done again.

    Raises
    ------
    RootInUse
        A node or an import holds the lock of the root.
    """
    root = settings.storage.root.absolute()
    place = place_of(root, settings.index.url)
    make_folder(root)
    with locked_root(root):
        name = _set_aside(root, place)
    previous = root / name if name is not None and isinstance(place, Path) else name
    with ExitStack() as opened:
        old = opened.enter_context(backend_at(place).read_aside(place, name)) if name is not None else None
        repository = opened.enter_context(Repository(settings, new_index=True, previous=old))
        (root / REBUILDING_FILE).unlink()
        sync_folder(root)
        salvaged = old.salvaged if old is not None else Salvaged()
        unread = [
            key
            for folder in repository.archive.folders()
            for key in repository.index.instances.unknown_keys(repository.archive.keys(folder))
        ]
        return Rebuilt(previous, salvaged, repository.replayed, repository.recovered, repository.taken_back, unread)


def _set_aside(root: Path, place: Place) -> str | None:
    """Rename the index, and return its new name; of an interrupted rebuild, the index from which that one began."""
    note, now = root / REBUILDING_FILE, dt.datetime.now(dt.UTC)
    if not note.exists():
        previous = backend_at(place).aside_name(place, now)
        write_durably(note, json.dumps({"previous_index": previous}).encode())
    name: str | None = json.loads(note.read_bytes())["previous_index"]
    backend_at(place).make_room(place, name)
    sync_folder(root)
    return name


def copy_index(settings: Settings, url: str | None) -> dict[str, int]:
    """Copy the index of a root to another database; see `node.index.care.copying.copy_index`.

    Parameters
    ----------
    url : str or None
        Of PostgreSQL; None: ``index.sqlite`` in the root. One that was moved from there makes room: it is renamed.

    Raises
    ------
    RootInUse
        A node or an import holds the lock of the root.
    IndexUnusable
    UsageError
        Hosts have files that are not in the object store: in a file, the index has no hosts that could move them.
    """
    root = settings.storage.root.absolute()
    source, target = place_of(root, settings.index.url), place_of(root, url)
    with locked_root(root):
        if url is None and settings.index.url is not None:
            _require_all_moved(root, settings.index.url)
        if isinstance(target, Path) and copying.was_moved(target):
            backend = backend_at(target)
            backend.make_room(target, backend.aside_name(target, dt.datetime.now(dt.UTC)))
            sync_folder(root)
        return copying.copy_index(source, target)


def _require_all_moved(root: Path, url: str) -> None:
    with reading(root, url) as index:
        hosts = index.hosts.spooling()
    if hosts:
        raise UsageError(
            f"{', '.join(hosts)}: has files that are not in the object store; first run `voxelnode archive copy --to "
            "store` there, or `voxelnode cluster forget`"
        )


class JournalNotEmpty(VoxelnodeError):
    """The journal holds instances that are not durable elsewhere: it cannot be removed."""


def drain_journal(settings: Settings) -> Replayed:
    """Apply everything that the journal has, make it durable in archive and index, and remove the journal.

    Raises
    ------
    RootInUse
        A node or an import holds the root.
    IndexUnusable
        The index is damaged, or there is none.
    JournalNotEmpty
        Some instances could not be applied, or were received meanwhile.
    """
    root = settings.storage.root.absolute()
    place = place_of(root, settings.index.url)
    if not exists(place):
        raise IndexUnusable(missing_index(place))
    with Repository(settings) as repository:
        replayed = repository.replayed
    with locked_root(root):
        folder = root / JOURNAL_FOLDER
        state = inspect(folder)
        if state.last > state.freed:
            raise JournalNotEmpty(
                f"{folder} is kept: {state.last - state.freed} instances are not durable elsewhere; see the log, "
                "check the disk, and try again"
            )
        for path in (*segment_files(folder), folder / MARK_FILE):  # without its segments a mark means nothing
            path.unlink(missing_ok=True)
        if folder.is_dir():
            sync_folder(folder)
    return replayed


def require_index(root: Path, url: str | None = None) -> None:
    """Refuse a root that has instances, in the archive or in the journal, but no index.

    A start would build a new index from the instances and then remove all volumes as unknown.

    Raises
    ------
    IndexUnusable
        The index is missing, or is not finished.
    """
    if (root / REBUILDING_FILE).exists():
        raise IndexUnusable(f"the index of {root} is not finished: run `voxelnode db rebuild` again")
    place = place_of(root, url)
    if exists(place):
        return
    journal = inspect(root / JOURNAL_FOLDER)
    if journal.last > journal.freed or next((root / "objects").glob("*/*.dcm"), None) is not None:
        raise IndexUnusable(missing_index(place))


def is_held(root: Path) -> bool:
    """Return whether a node, or an import, holds the lock of a root."""
    try:
        locked_root(root).close()
    except RootInUse:
        return True
    return False


def locked_root(root: Path) -> ExitStack:
    """Lock the root for this process, until the stack is closed.

    Raises
    ------
    RootInUse
        Another process holds it.

    Notes
    -----
    The folder is locked as well as the file: whoever removes the lock file lets no second node in.
    """
    with ExitStack() as locks:
        for path, flags in ((root, os.O_RDONLY | os.O_DIRECTORY), (root / LOCK_FILE, os.O_RDWR | os.O_CREAT)):
            lock = locked(path, flags)
            if lock is None:
                raise RootInUse(f"{root} is in use by another voxelnode process: stop it, or choose another root")
            locks.callback(os.close, lock)
        return locks.pop_all()
