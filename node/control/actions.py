"""The actions of commands and pages on a root, by name: convert again, delete, send, cancel and others.

Each changes what people decide about; what they say of an account goes to the audit log.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import wraps
from typing import Any

from node.association.added import OpenedRoot
from node.association.client.addresses import address_of
from node.association.client.association import verify
from node.audit.audit_files import Holder
from node.audit.audit_log import Audit, AuditAction, AuditEvent, AuditMessage, EventType, Result
from node.control import import_beside
from node.control.configuration import ConfigurationChanges
from node.errors import UsageError
from node.hookspecs import Action as RootAction
from node.index.look.views import ReadIndex
from node.index.reading import checked
from node.index.rows.records import Lane, Level
from node.index.rows.repositories import Terms
from node.index.rows.states import Kind
from node.index.rules.custody.deletions import NotThere
from node.index.rules.work.ledger import Work, WorkEnded
from node.index.rules.work.routes import deletable, lane_to
from node.lifecycle.deletion import Order, delete, empty, restore, resume_deletions
from node.lifecycle.erasure import DECISIONS, GONE, Erasing, Object, decided_about, holders
from node.lifecycle.retention import confirm, trash_until, uptime
from node.receive.accounting import write_off
from node.receive.apply import Applier
from node.receive.custody import Conflicts, Quarantine
from node.receive.ingest import Ingest
from node.receive.results import Results
from node.registry import enabled, resolve
from node.settings.core import HookEvent
from node.settings.model import Settings

ECHO_SECONDS = 5.0
"""Longest wait for a peer that a page tests."""


class _ByName(dict[str, RootAction]):
    """Actions by name."""

    def __missing__(self, name: str) -> RootAction:
        raise UsageError(f"{name} is of an extension that [extensions] disabled switches off")


class Actions:
    """The actions on one opened root.

    `by_name`: commands call them by `node.control.repository.perform_action`.
    """

    def __init__(self, settings: Settings, ingest: Ingest, applier: Applier, audit: Audit, results: Results) -> None:
        self._settings, self._audit, self._results = settings, audit, results
        self._ingest, self._applier, self._archive, self._index = ingest, applier, ingest.archive, ingest.index
        quarantine = Quarantine(ingest, audit)
        self.erasing = Erasing(self._archive, self._index, audit, applier, settings)
        conflicts = Conflicts(ingest, audit, quarantine)
        configuration = ConfigurationChanges(settings, self._index, audit)
        self.by_name = _ByName(
            {
                "accept-conflict": self._and_files(conflicts.accept),
                "keep-conflict": conflicts.keep,
                "release-quarantined": self._and_files(quarantine.release),
                "purge-quarantined": quarantine.purge,
                "reconvert": self._reconvert,
                "delete": self._delete,
                "erase": self._erase,
                "restore-trash": self._restore_trash,
                "empty-trash": self._empty_trash,
                "confirm-retention": self._confirm_retention,
                "write-off-lost": self._write_off_lost,
                "echo": self._echo,
                "cancel-work": self._cancel_work,
                "retry-work": self._retry_work,
                "retry-deliveries": self._retry_deliveries,
                "replay-deliveries": self._replay_deliveries,
                "pause-deliveries": self._pause_deliveries,
                "replay-route": self._replay_route,
                "send": self._send,
                "cancel-job": self._cancel_job,
                "note-export": self._note_export,
                **configuration.by_name,
                **import_beside.actions_of(ingest),
            }
        )
        for extension in enabled(settings):
            if extension.actions:
                self.by_name.update(resolve(extension.actions)(OpenedRoot(settings, ingest, audit)))
        self.by_name.update((name, self._telling(name, action)) for name, action in [*self.by_name.items()])

    def _telling(self, name: str, action: RootAction) -> RootAction:
        """Return an action that answers, as ``holders``, who else has the studies that it has decided about.

        A deletion takes the rows of what was sent along: the studies that the arguments name are looked at before.
        """

        @wraps(action)
        def act(**arguments: Any) -> Mapping[str, Any]:
            found: list[Holder] = []
            if name in DECISIONS:
                self._archive.intake.require_here()
                with self._index.reading() as index:
                    studies = decided_about(index, self._archive.root, arguments)
                    found = holders(index, self._settings, studies, is_gone=name in GONE)
            done = action(**arguments)
            if "studies" in done:
                with self._index.reading() as index:
                    found = holders(index, self._settings, done["studies"])
            return {**done, "holders": [asdict(one) for one in found]} if found else done

        return act

    def _and_files(self, action: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        """Return an action that also deletes the volumes of an instance that has left its series."""

        @wraps(action)
        def act(**arguments: Any) -> dict[str, Any]:
            try:
                return action(**arguments)
            finally:
                resume_deletions(self._archive, self._index, self._ingest.now())

        return act

    def _reconvert(self, series: list[tuple[str, str]], terms: Terms | None = None) -> Mapping[str, Any]:
        self._applier.require_caught_up()
        series_keys = [(study_instance_uid, series_instance_uid) for study_instance_uid, series_instance_uid in series]
        return {"owed": self._index.series.reopen(series_keys, self._index.now(), terms)}

    def _retry_deliveries(self, lanes: list[tuple[Kind, str, str]], message_id: str | None = None) -> Mapping[str, Any]:
        return {"waiting": self._index.deliveries.retry([Lane(*one) for one in lanes], message_id, self._index.now())}

    def _pause_deliveries(self, lanes: list[tuple[Kind, str, str]], paused: bool) -> Mapping[str, Any]:
        return {"changed": self._index.deliveries.pause([Lane(*one) for one in lanes], paused)}

    def _replay_deliveries(
        self, hook: str, events: list[HookEvent], series: list[tuple[str, str]], again: str | None
    ) -> Mapping[str, Any]:
        keys = [(study_instance_uid, series_instance_uid) for study_instance_uid, series_instance_uid in series]
        return asdict(self._index.deliveries.replay(hook, events, keys, again, self._index.now()))

    def _replay_route(
        self, route: str, destination: str, series: list[tuple[str, str]], again: bool
    ) -> Mapping[str, Any]:
        keys = [(study_instance_uid, series_instance_uid) for study_instance_uid, series_instance_uid in series]
        return asdict(self._index.routes.replay(lane_to(route, destination), keys, again, self._index.now()))

    def _send(self, to: str, study_instance_uid: str, series_instance_uid: str | None = None) -> Mapping[str, Any]:
        lane = lane_to("", to)
        return {"instances": self._index.routes.send(lane, study_instance_uid, series_instance_uid, self._index.now())}

    def delete_confirmed(self, route_name: str) -> None:
        """Delete the series that every destination of a route has confirmed."""
        lanes = [lane_to(route_name, to) for to in self._settings.routes[route_name].to]

        def require_confirmed(index: ReadIndex) -> None:
            if key not in deletable(index.connection, lanes):
                raise NotThere("an instance came meanwhile, or somebody waits for the series again")

        with self._index.reading() as index:
            confirmed = deletable(index.connection, lanes)
        for key in confirmed:
            reason = f"every destination of route {route_name} has confirmed it"
            with suppress(NotThere):
                self._delete("series", key[1], key[0], f"route {route_name}", reason, checked(require_confirmed))

    def _cancel_job(self, job: str, who: str) -> Mapping[str, Any]:
        uids = [{"study_instance_uid": self._index.jobs.with_id(job).study_instance_uid}]
        self._results.end(job, "cancelled", f"cancelled by {who}")
        event, detail = AuditEvent.INSTANCES_ACCESSED, f"job {job}: cancelled"
        self._audit.note(AuditMessage.by(who, event, AuditAction.EXECUTE, detail, uids))
        return {"cancelled": job}

    def _note_export(self, detail: str, result: int, who: str) -> Mapping[str, Any]:
        message = AuditMessage.by(who, AuditEvent.EXPORT, AuditAction.READ, detail, result=Result(result))
        self._audit.note(message)
        return {}

    def _delete(
        self,
        level: Level,
        uid: str,
        study_instance_uid: str | None,
        who: str,
        reason: str = "by command",
        terms: Terms | None = None,
        *,
        erase: bool = False,
    ) -> Mapping[str, Any]:
        now = self._index.now()
        self._archive.intake.require_open()
        with self._archive.ballast.dropped():  # what waits for room is applied, too
            self._applier.require_caught_up()
            plan = self._index.deletions.plan(level, uid, study_instance_uid)
            until = trash_until(self._settings.retention, now)
            if erase:
                self.erasing.erase([(level, uid, plan.study_instance_uid)], (), Order(who, reason, terms))
            else:
                delete(self._archive, self._index, self._audit, plan, Order(who, reason, terms, until), now)
        return {
            "series": plan.series,
            "instances": plan.instances,
            "bytes": plan.bytes,
            "trash_until": until.isoformat() if until is not None and not erase else None,
        }

    def _erase(self, objects: list[Object], trash: list[int], who: str) -> Mapping[str, Any]:
        self._archive.intake.require_open()
        self._applier.require_caught_up()
        named = [(level, uid, study) for level, uid, study in objects]
        return {"certificate": asdict(self.erasing.erase(named, trash, Order(who, "by command")))}

    def _restore_trash(self, number: int, who: str) -> Mapping[str, Any]:
        self._applier.require_caught_up()
        quiet_seconds, now = self._ingest.quiet_seconds, self._index.now()
        return asdict(restore(self._archive, self._index, self._audit, number, who, quiet_seconds, now))

    def _empty_trash(self, number: int, who: str) -> Mapping[str, Any]:
        self._archive.intake.require_open()
        with self._archive.ballast.dropped():
            empty(self._archive, self._index, self._audit, number, who, "by hand", self._index.now())
        return {"emptied": number}

    def _confirm_retention(self, who: str) -> Mapping[str, Any]:
        self._applier.require_caught_up()
        confirmed = confirm(self._index, self._index.now(), uptime(), self._settings.retention)
        if confirmed:
            event, kind = AuditEvent.SECURITY_ALERT, EventType.SOFTWARE_CONFIGURATION
            detail = f"retention confirmed: {confirmed}"
            self._audit.note(AuditMessage.by(who, event, AuditAction.UPDATE, detail, kind=kind))
        return {"confirmed": confirmed}

    def _write_off_lost(self, uid: str | None, reason: str, who: str) -> Mapping[str, Any]:
        self._archive.intake.require_open()
        count = write_off(self._archive, self._index, self._audit, uid, reason, who, self._index.now())
        self._ingest.gaps = self._index.lost.gaps()
        return {"instances": count}

    def _echo(self, peer: str) -> Mapping[str, Any]:
        address = address_of(peer, self._settings)
        return {"seconds": verify(address, self._settings.dicom.ae_title, ECHO_SECONDS)}

    def _cancel_work(self, work: int, who: str) -> Mapping[str, Any]:
        one = self._index.work.one(work)
        if one.lane.kind == "job":
            return self._cancel_job(one.key, who)
        if one.lane.kind == "erasure":
            raise WorkEnded("an erasure is not cancelled: a part of it may be gone already")
        self._index.work.cancel(work, who, self._index.now())
        self._note_work(one, who, "cancelled")
        return {"cancelled": work}

    def _retry_work(self, work: int, who: str) -> Mapping[str, Any]:
        one = self._index.work.one(work)
        match one.lane.kind:
            case "hook" | "route":
                self._index.deliveries.retry_one(work, self._index.now())
            case "retrieval" | "download" as kind:
                if not self._index.work.repeat(work, self._index.now()):
                    raise WorkEnded(f"the {kind} has not ended")
            case "erasure":
                if one.outcome is not None:
                    raise WorkEnded("the erasure has ended")
                self.erasing.resume()
            case kind:
                raise WorkEnded(f"a {kind} is not repeated: its hook or its requestor begins another one")
        self._note_work(one, who, "tried again")
        return {"retried": work}

    def _note_work(self, work: Work, who: str, what: str) -> None:
        objects = [{"study_instance_uid": work.study_instance_uid}] if work.study_instance_uid is not None else []
        event, detail = AuditEvent.BEGIN_TRANSFERRING, f"{work.lane.kind} {work.key}: {what}"
        self._audit.note(AuditMessage.by(who, event, AuditAction.EXECUTE, detail, objects))
