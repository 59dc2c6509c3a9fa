"""Copies without identities for the members of de-identified projects: made, renewed and removed as work of the ledger.

    a series is quiet -> owed -> noted instance by instance -> de-identified in a child -> the one way in
    an original has left the project -> not seen any more -> owed -> copies deleted -> forgotten

What an instance is copied to, or why it is not, is noted before anything is done. Copies are the same bytes whenever
they are made, and have UIDs that follow from those of their originals and the secret of the project. So if the process
dies, the work is done again from its beginning: what is there already is left as it is, and nothing is there twice.
"""

from __future__ import annotations

import datetime as dt
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from node.archive.space import reason_of
from node.audit.audit_log import Audit
from node.child_process.messages import Garbled
from node.children.decoder import Decoder, NotDecoded, NotDecodedNow
from node.children.forwarding import Change, copy_of, forward
from node.errors import InstanceRefused, OutOfResources, Withheld
from node.extensions.deidentify.deidentification import BurnedInText, Reason, allowed, burned_in_text_of
from node.extensions.deidentify.profile import Profile, options
from node.extensions.deidentify.pseudonyms import PseudonymKey
from node.extensions.deidentify.ways import DeidentifyWay
from node.extras import require
from node.failpoints import reached
from node.index.database.index import Index
from node.index.database.work_loop import IndexFollower
from node.index.nouns.copies import Copied, CopiedSeries, CopyRepository, Original, Owed, ReadCopies
from node.index.nouns.deletions import NotThere
from node.index.nouns.projects import COPY, Pseudonymity
from node.index.nouns.records import NOT_CURRENT_OUTCOMES, Level, Outcome
from node.index.search.finder import QueryRefused
from node.index.search.selection import StoredInstance
from node.index.work.ledger import REASON_LENGTH, Decision, Ended, Postponed, Work
from node.index.work.payloads import Copying
from node.lifecycle.deletion import Order, delete
from node.receive.dicom_files import MediaFile, find_instances
from node.receive.import_files import INDEX_SECONDS, take_in
from node.receive.ingest import Ingest, Origin
from node.receive.stored_files import damage_of
from node.retries import jittered_wait_seconds

ORIGIN = Origin(source=COPY)

STEP_SECONDS = 2.0
"""From a commit to the look at what is to be copied: many commits share one."""

TOGETHER = 16
"""Instances that share a note and a wait for the index."""

AHEAD = 2
"""Of these, those that are made at the same time: half of what the decoder does at once."""

DAMAGED, UID_TAKEN, NOT_STORED = "damaged", "uid-taken", "not-stored"
"""Why there is no copy, beside the reasons of a de-identification."""


def way_of(pseudonymity: Pseudonymity) -> DeidentifyWay:
    """Return the de-identification of a project.

    Raises UsageError if it has an option that there is not, or looks for text without what is needed for that.
    """
    secret, how = bytes.fromhex(pseudonymity.secret), pseudonymity.options
    # Its name tells copies of one project from those of another, also of one that has the same name elsewhere.
    key = PseudonymKey(f"project-{sha256(secret).hexdigest()[:8]}", secret)
    text_in_pixels = burned_in_text_of(str(how.get("burned_in_text", "off")))
    if text_in_pixels is not BurnedInText.OFF:
        require("burned_in_text", "ocr")
    cleaned = {*how.get("clean", ()), *(("pixels",) if text_in_pixels is BurnedInText.BLANK else ())}
    profile = Profile(options(how.get("retain", ()), sorted(cleaned)))
    return DeidentifyWay(profile, key, allowed(how.get("allow", ())), burned_in_text=text_in_pixels)


class OwedCopies(IndexFollower):
    """Puts on the ledger what is to be copied for projects, and which copies are to go."""

    def __init__(self, index: Index, now: Callable[[], dt.datetime]) -> None:
        super().__init__("owed copies", index, STEP_SECONDS, turn="owed copies")
        self._now, self._copies = now, index.repository(CopyRepository)

    def step(self) -> float | None:
        """Look once; commits wake it."""
        with self._index.reading(wait=False) as view:
            owed = view.repository(ReadCopies).owed()
        if owed:
            self._copies.owe(owed, self._now())
        return None


class _Stopped(Exception):
    """The node stops: the next start goes on."""


class CopyStep:
    """Does the work of one series: its copies are as its instances are, or are gone if it is not in the project."""

    max_attempts = 5
    """Starts of the node, or unexpected errors, after which a series is given up."""

    def __init__(self, ingest: Ingest, decoder: Decoder, audit: Audit) -> None:
        self._ingest, self._index, self._decoder, self._audit = ingest, ingest.index, decoder, audit
        self._copies = ingest.index.repository(CopyRepository)

    def perform(self, work: Work, stopping: threading.Event) -> Decision | None:
        """Make, renew or remove the copies of a series; None if the node stops."""
        owed = Owed(work.lane.name, work.study_instance_uid or "", work.series_instance_uid or "", None)
        try:
            self._remove_copies(owed)
            return self._made(owed, stopping)
        except _Stopped:
            return None
        except (OutOfResources, QueryRefused, NotDecodedNow) as error:
            reason = str(error)
        except OSError as error:
            reason = reason_of(error, self._ingest.archive.root)
        if stopping.is_set():
            return None
        due_at = self._ingest.now() + dt.timedelta(seconds=jittered_wait_seconds(work.attempts, None))
        return Postponed(due_at, reason[:REASON_LENGTH])

    def recorded(self, work: Work, decision: Decision) -> None:
        """Tell nobody: the audit log has each copy as received."""

    def _remove_copies(self, owed: Owed) -> None:
        """Remove the copies for projects that the series is not in."""
        with self._index.reading() as view:
            gone = view.repository(ReadCopies).without_original(owed)
        for copies in gone:
            self._delete("series", copies.copy_series, copies, owed)
            reached("copies-removed")
            self._copies.remove(copies.id)

    def _made(self, owed: Owed, stopping: threading.Event) -> Decision:
        with self._index.reading() as view:
            read = view.repository(ReadCopies)
            original = read.original(owed)
            instances = [] if original is None else list(read.instances(owed.study, owed.series))
        if original is None:
            return Ended("succeeded")
        if original.is_open:
            return Ended("dropped", "instances are being received: it is owed again when the series is quiet")
        way = way_of(original.pseudonymity)
        copies = self._copies.begin(owed, original.project_id, way.uid(owed.study), way.uid(owed.series))
        if copies is None:
            return Ended("dropped", "the project was removed")
        self._remove_outdated(owed, copies, {one.sop_instance_uid: one.sha256 for one, _ in instances})
        with self._index.reading() as view:
            made = view.repository(ReadCopies).made(copies)
        missing = [
            (one, is_missing)
            for one, is_missing in instances
            if (known := copies.instances.get(one.sop_instance_uid)) is None
            or known.sha256 != one.sha256
            or known.reason is not None
            or known.copy_sop_instance_uid not in made
        ]
        with self._ingest.archive.working_folder() as folder:
            for start in range(0, len(missing), TOGETHER):
                if stopping.is_set():
                    raise _Stopped
                if not self._is_wanted(owed, original):
                    self._remove_copies(owed)
                    return Ended("dropped", "the series has left the project")
                self._copy(copies, missing[start : start + TOGETHER], way, folder)
        if self._ingest.transfers is not None:
            self._ingest.transfers.ended(ORIGIN, "ended")
        noted = self._require_own(copies).instances.values()
        self._copies.finish(copies.id, original)
        refused = sum(one.reason is not None for one in noted)
        return Ended("succeeded", payload=Copying(len(noted) - refused, refused))

    def _is_wanted(self, owed: Owed, original: Original) -> bool:
        with self._index.reading(wait=False) as view:
            now = view.repository(ReadCopies).original(owed)
        return now is not None and now.project_id == original.project_id

    def _remove_outdated(self, owed: Owed, copies: CopiedSeries, digests: dict[str, str]) -> None:
        """Remove the copies of instances that are not here any more, or have other bytes now."""
        for uid, known in copies.instances.items():
            if digests.get(uid) != known.sha256:
                self._delete("instance", known.copy_sop_instance_uid, copies, owed)
                self._copies.forget(copies.id, [uid])

    def _delete(self, level: Level, uid: str, copies: CopiedSeries, owed: Owed) -> None:
        self._index.ahead.require_caught_up()
        with self._index.reading() as view:
            if not view.series.are_copies(copies.copy_study, copies.copy_series):
                return
        order = Order(f"project {owed.project}", "the original has left the project, or has changed")
        with suppress(NotThere):
            plan = self._index.deletions.plan(level, uid, copies.copy_study)
            delete(self._ingest.archive, self._index, self._audit, plan, order, self._ingest.now())

    def _copy(
        self, copies: CopiedSeries, some: Sequence[tuple[StoredInstance, bool]], way: DeidentifyWay, folder: Path
    ) -> None:
        """Copy some instances: noted first, then stored."""
        with ThreadPoolExecutor(AHEAD, thread_name_prefix="copy") as threads:
            done = list(threads.map(lambda one: self._deidentified(one[0], one[1], way, folder), some))
        self._copies.note(copies.id, [copied for copied, _ in done])
        reached("copies-noted")
        outcomes = []
        for copied, path in done:
            if path is not None:
                outcomes.append((copied, self._take_in(copied, path)))
        refused = [one for copied, outcome in outcomes if (one := _settled(copied, outcome)) is not None]
        reached("copies-stored")
        if refused:
            self._copies.note(copies.id, refused)
        for _, path in done:
            if path is not None:
                path.unlink()

    def _deidentified(
        self, instance: StoredInstance, is_missing: bool, way: DeidentifyWay, folder: Path
    ) -> tuple[Copied, Path | None]:
        """Return what an instance is copied to, and the file of the copy, if there is one."""
        copied = Copied(instance.sop_instance_uid, instance.sha256, way.uid(instance.sop_instance_uid))
        into = folder / f"{uuid.uuid4().hex}.dcm"
        change = Change(deidentification=way)
        try:
            path = None if is_missing else self._whole(instance)
            if path is None:
                raise Withheld(DAMAGED, "the file is missing or damaged: send the instance again")
            into.touch(0o600)
            copy = copy_of(self._decoder.run(forward, path, change, into=into), change)
            if copy.sop_instance_uid == copied.copy_sop_instance_uid:
                return copied, into
            refusal = Withheld(Reason.UNREADABLE, "the copy is of another instance")
        except NotDecodedNow:
            raise
        except Withheld as error:
            refusal = error
        except (NotDecoded, Garbled) as error:
            refusal = Withheld(Reason.UNREADABLE, str(error))
        into.unlink(missing_ok=True)
        return replace(copied, reason=refusal.reason, detail=refusal.detail[:REASON_LENGTH]), None

    def _whole(self, one: StoredInstance) -> Path | None:
        """Return the file of an instance, compared with what was received; None if it is damaged."""
        archive = self._ingest.archive
        try:
            path = archive.local(one)
        except FileNotFoundError:
            return None
        return path if damage_of(archive, self._index, one, path, self._ingest.now()) is None else None

    def _take_in(self, copied: Copied, path: Path) -> Future[Outcome]:
        outcome: Future[Outcome] = Future()
        [file] = find_instances([path])
        if isinstance(file, MediaFile) and file.identity.sop_instance_uid == copied.copy_sop_instance_uid:
            take_in(file, self._ingest, ORIGIN, outcome)
        else:
            outcome.set_exception(InstanceRefused("the copy cannot be read"))
        return outcome

    def _require_own(self, copies: CopiedSeries) -> CopiedSeries:
        """Note as not copied what others have stored under the UIDs of copies: members do not see that.

        Returns what is noted then.
        """
        with self._index.reading() as view:
            read = view.repository(ReadCopies)
            noted, made = read.again(copies), read.made(copies)
        taken = [
            replace(one, reason=UID_TAKEN, detail=_TAKEN)
            for one in noted.instances.values()
            if one.reason is None and one.copy_sop_instance_uid not in made
        ]
        if taken:
            self._copies.note(copies.id, taken)
        return replace(noted, instances={**noted.instances, **{one.sop_instance_uid: one for one in taken}})


_TAKEN = "another instance has the UID of the copy: delete that one, then convert the series again"


def _settled(copied: Copied, outcome: Future[Outcome]) -> Copied | None:
    """Return an instance whose copy was not stored, with the reason; None if it was."""
    try:
        indexed = outcome.result(INDEX_SECONDS)
    except TimeoutError:
        raise OutOfResources("the copies are safe in the journal, but the index does not take them") from None
    except OutOfResources:
        raise
    except InstanceRefused as error:
        return replace(copied, reason=NOT_STORED, detail=str(error)[:REASON_LENGTH])
    return replace(copied, reason=UID_TAKEN, detail=_TAKEN) if indexed in NOT_CURRENT_OUTCOMES else None
