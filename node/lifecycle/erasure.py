"""Erase studies, series and instances with all that a deletion leaves, and certify it.

    row on the ledger of work -> each object: deleted, trash emptied, quarantine purged -> downloads removed
                              -> journal and deleted rows overwritten -> certificate in the row

The row says what is still to go, and loses the UIDs before deleted rows are overwritten. If the process dies in
between, the next start goes on with the rest in the row. The certificate says what was erased and who may still have
it. It names no patient: it has digests of UIDs, by which whoever knows a UID finds it.

`holders`: who has taken what of studies: destinations, hooks, people, links, backups; each with the identity that it
has. A decision changes nothing elsewhere, so every decision about studies answers with this list: what destinations
have taken is in rows, and all else that has left is in the audit log, also that of other hosts.
"""

import datetime as dt
import hashlib
import mmap
import re
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

import structlog

from node.archive.filesystem import DOWNLOAD, Archive
from node.archive.proof import last_proof
from node.audit.audit_files import Holder, Taker, takers_of
from node.audit.audit_log import Audit
from node.errors import UsageError, VoxelnodeError, counted
from node.index.database import Index
from node.index.look.views import ReadIndex
from node.index.rows.records import UIDS, DeletionPlan, Level, NotInTrash
from node.index.rows.states import Erasure
from node.index.rules.custody.deletions import NotThere, plan_deletion
from node.index.rules.work.ledger import Ended
from node.lifecycle.deletion import Order, delete, empty
from node.receive.apply import Applier
from node.receive.aside import FOLDER
from node.receive.custody import NotInQuarantine, examined
from node.runtime.failpoints import reached
from node.settings.model import Settings
from node.version import __version__

log = structlog.get_logger()

Object = tuple[Level, str, str]
"""Level, UID and Study Instance UID of an object to be erased."""

MAX_NAMED = 20
"""Jobs that a certificate names."""

STAYING = (
    "the audit log, which names the patient, and UIDs in the ledger of what was acknowledged and in lists of events"
)
IN_STORE = "the object store, until the node has removed its objects, and for as long as it keeps older versions"


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was erased, when and where, and who may still have it.

    `erased_at`: in ISO 8601, in UTC.
    `node`: AE title of the node.
    `uids_sha256`: SHA-256 of each UID that was given or belongs to the patient, in hexadecimal digits.
    `quarantined`, `downloads`, `trash`: files in quarantine, prepared downloads and deletions in the trash that were
        erased as well.
    `index_overwritten`: whether no file of the index has deleted rows; if not, they go when they are reused.
    `takers`: who may have it, as far as the node knows.
    `stays`: what the node itself keeps, in words.
    """

    erased_at: str
    node: str
    version: str
    uids_sha256: Sequence[str]
    series: int
    instances: int
    bytes: int
    quarantined: int
    downloads: int
    trash: int
    index_overwritten: bool
    takers: Sequence[Taker]
    stays: Sequence[str]

    @property
    def text(self) -> str:
        """The text that people read and sign."""
        overwritten = "yes" if self.index_overwritten else "not yet: deleted rows go when their pages are reused"
        lines = [
            "Certificate of erasure",
            "",
            f"Erased at {self.erased_at} by the node {self.node}, voxelnode {self.version}.",
            f"Series: {self.series}. Instances: {self.instances}. Bytes of DICOM: {self.bytes}.",
            f"Also erased: {self.trash} deletions in the trash, {self.quarantined} files in quarantine, "
            f"{self.downloads} prepared downloads, records of the journal.",
            f"Deleted rows of the index overwritten: {overwritten}.",
            "",
            "SHA-256 of the UIDs:",
            *(f"  {digest}" for digest in self.uids_sha256),
            "",
            "May still have it:" if self.takers else "The node knows nobody who may still have it.",
            *(f"  {taker.who}: {taker.how}, last {taker.last_at[:19]}" for taker in self.takers),
            "",
            "Stays at the node:",
            *(f"  {what}" for what in self.stays),
        ]
        return "\n".join(lines) + "\n"


class Erasing:
    """Erases what a root has.

    With an object store, its objects are removed by a service of their own.
    """

    def __init__(self, archive: Archive, index: Index, audit: Audit, applier: Applier, settings: Settings) -> None:
        self._archive, self._index, self._audit, self._applier = archive, index, audit, applier
        self._settings, self._host = settings, settings.cluster.name or ""
        self._lock = threading.Lock()  # what is resumed is under way in no other thread

    def erase(self, objects: Sequence[Object], trash: Sequence[int], order: Order) -> Certificate:
        """Erase objects that are here, deletions in the trash, and all their traces in the root.

        The terms of `order` are those of the first object.

        Raises NotThere, NotInTrash: one of them is not here; nothing was erased.
        Raises UsageError: a deletion in the trash has one of them, and others with it; nothing was erased.
        Raises AuditFailed, OutOfResources, QueryRefused: as of `node.lifecycle.deletion.delete`. What was begun is
            finished by the next start.
        """
        with self._lock:
            erasure = self._planned(objects, trash)
            id = self._index.work.begin_erasure(self._host, erasure, order.who, self._index.now())
            reached("erasure-owed")
            return self._carried_out(id, erasure, order)

    def resume(self) -> int:
        """Finish the erasures of this host that a crash or an error has broken off; return how many.

        One that fails again stays owed, and the log says so.
        """
        done = 0
        with self._lock:
            for work in self._index.work.begun_erasures(self._host):
                try:
                    self._carried_out(work.id, work.payload, Order(work.requested_by, "an erasure that was broken off"))
                except (VoxelnodeError, OSError) as error:
                    log.error("erasure_not_finished", reason=str(error))
                else:
                    log.warning("erasure_resumed")
                    done += 1
        return done

    def _planned(self, objects: Sequence[Object], trash: Sequence[int]) -> Erasure:
        plans = [self._index.deletions.plan(level, uid, study) for level, uid, study in objects]
        numbers = dict.fromkeys(trash)
        for plan in plans:
            alone, shared = self._index.trash.of(plan.level, plan.uid)
            if number := min(shared, default=None):
                both = f"`voxelnode trash restore {number}` brings all back, `trash empty {number}` removes all"
                raise UsageError(f"deletion {number} in the trash has this {plan.level} and others: {both}; then erase")
            numbers |= dict.fromkeys(sorted(alone))
        with self._index.reading(wait=False) as view:
            entries = [view.trash.entry(number) for number in numbers]
        gone: list[Object] = [(one["level"], one["uid"], one["study_instance_uid"]) for one in entries]
        all_objects = dict.fromkeys([*((plan.level, plan.uid, plan.study_instance_uid) for plan in plans), *gone])
        studies = list(dict.fromkeys(study for _, _, study in all_objects))
        now = f"{self._index.now():%FT%TZ}"
        with self._index.reading() as view:
            others = sorted(set(view.audit_lines.hosts()) - {self._host})
            found = holders(view, self._settings, studies, is_gone=True)
            of_jobs = [view.work.page(None, MAX_NAMED, kind="job", study_instance_uid=study) for study in studies]
        certificate = Certificate(
            erased_at=now,
            node=self._settings.dicom.ae_title,
            version=__version__,
            uids_sha256=[hashlib.sha256(uid.encode()).hexdigest() for uid in dict.fromkeys(o[1] for o in all_objects)],
            series=sum(plan.series for plan in plans),
            instances=sum(plan.instances for plan in plans) + sum(entry["files"] for entry in entries),
            bytes=sum(plan.bytes for plan in plans) + sum(entry["bytes"] for entry in entries),
            quarantined=0,
            downloads=0,
            trash=len(entries),
            index_overwritten=False,
            takers=list(dict.fromkeys(Taker(one.who, one.how, one.last_at) for one in found)),  # it names no patient
            stays=[
                STAYING,
                *([IN_STORE] if self._settings.storage.url is not None else []),
                *([f"journals and files in quarantine of {', '.join(others)}"] if others else []),
                *(f"the row of job {row['key']}, with UIDs" for rows in of_jobs for row in rows),
            ],
        )
        return Erasure(tuple(all_objects), 0, tuple(numbers), asdict(certificate))

    def _plan_of(self, what: Object) -> DeletionPlan | None:
        try:
            return self._index.deletions.plan(*what)
        except NotThere:
            return None

    def _carried_out(self, id: int, erasure: Erasure, order: Order) -> Certificate:
        """Erase what a row of the ledger still has; the row follows, object by object."""
        order = replace(order, forgets=True)
        with self._archive.ballast.dropped():  # what waits for room is applied, too
            for what in erasure.objects[erasure.deleted :]:
                try:
                    self._delete(what, order)
                except Exception:
                    if what == erasure.objects[0] and self._plan_of(what) is not None:
                        self._index.work.record(id, Ended("dropped", "nothing was erased"), self._index.now())
                    raise
                reached("erasure-deleted")
                order, erasure = replace(order, terms=None), replace(erasure, deleted=erasure.deleted + 1)
                self._index.work.report(id, None, erasure, self._index.now())
            for number in erasure.trash:
                self._empty(number, order.who)
            while erasure.objects:
                level, uid, _ = erasure.objects[0]
                purged, stay = purge_unnamed(self._archive, self._index, level, uid, order.who, self._index.now())
                fields = dict(erasure.certificate)
                fields["quarantined"] += purged
                fields["stays"] = [*fields["stays"], *(f"{key}: it has a UID of what was erased" for key in stay)]
                erasure = Erasure(erasure.objects[1:], erasure.deleted - 1, erasure.trash, fields)
                self._index.work.report(id, None, erasure, self._index.now())
                reached("erasure-purged")
            downloads = remove_prepared(self._archive)
            fields = dict(erasure.certificate) | {"downloads": erasure.certificate["downloads"] + downloads}
            self._index.work.report(id, None, Erasure(certificate=fields), self._index.now())  # without UIDs
            reached("erasure-certified")
            self._applier.overwrite_applied()
            fields["index_overwritten"] = self._index.overwrite_deleted()
            fields["erased_at"] = f"{self._index.now():%FT%TZ}"
            self._index.work.record(id, Ended("succeeded", payload=Erasure(certificate=fields)), self._index.now())
        return certificate_of(fields)

    def _empty(self, number: int, who: str) -> None:
        with suppress(NotInTrash):  # emptied before a crash
            self._index.trash.forget_patients(number)
            empty(self._archive, self._index, self._audit, number, who, "to erase", self._index.now())

    def _delete(self, what: Object, order: Order) -> None:
        if (plan := self._plan_of(what)) is not None:  # else of the trash, or deleted before a crash
            delete(self._archive, self._index, self._audit, plan, order, self._index.now())


def certificate_of(fields: Mapping[str, Any]) -> Certificate:
    """Return the certificate that a row of the ledger has."""
    return Certificate(**{**fields, "takers": [Taker(**taker) for taker in fields["takers"]]})


def remove_prepared(archive: Archive) -> int:
    """Remove the downloads that were prepared, whatever is in them, and return how many; they can be made again."""
    paths = list(archive.work.glob(f"{DOWNLOAD}*"))
    for path in paths:
        path.unlink(missing_ok=True)
    if paths:
        archive.sync_folder(archive.work)
    return len(paths)


def purge_unnamed(
    archive: Archive, index: Index, level: Level, uid: str, who: str, now: dt.datetime
) -> tuple[int, list[str]]:
    """Remove the files in quarantine that are of a study, series or instance and that no row of a conflict names.

    Return how many, and the keys of the files that stay although they have the UID: segments of the journal, files
    that cannot be read, and instances of others that refer to it. A person looks at these.
    """
    purged, stay = 0, []
    for path in _having(archive.root, uid):
        key = f"{FOLDER}/{path.name}"
        try:
            with index.reading() as view:
                file = examined(archive.root, view, path.name)
        except NotInQuarantine:  # it is in the trash, with a deletion of its own
            stay.append(key)
            continue
        if getattr(file, UIDS[level]) != uid:
            stay.append(key)
            continue
        archive.remove(key)
        archive.sync_folder(path.parent)
        index.instances.record_removed_from_quarantine(key, "quarantine-purged", who, now)
        purged += 1
    return purged, stay


def _having(root: Path, uid: str) -> Iterator[Path]:
    """Yield the files in quarantine whose bytes have a UID."""
    pattern = re.compile(rb"(?<![0-9.])" + re.escape(uid.encode()) + rb"(?![0-9.])")
    for path in sorted((root / FOLDER).iterdir()):
        with path.open("rb") as file:
            if path.stat().st_size == 0:  # cannot be mapped
                continue
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                found = pattern.search(content) is not None
        if found:
            yield path


BIDS = "voxelnode bids to "
"""How a data set was exported by a command, as the audit log has it."""


def holders(index: ReadIndex, settings: Settings, studies: Collection[str], *, is_gone: bool = False) -> list[Holder]:
    """Return who has studies, or may have them, each once for each identity that was sent.

    `is_gone`: the studies, or a part of them, will not be here any more: nothing can be sent again.
    """
    root, own = settings.storage.root.absolute(), settings.cluster.name or ""
    found = [
        Holder(
            row["destination"],
            f"{('route ' + row['route']) if row['route'] else 'sent by hand'}, {counted(row['sent'], 'instance')}",
            *(str(row["last_at"])[:19].replace(" ", "T"), row["patient_id"] or "", study),
        )
        for study in studies
        for row in index.routes.sent_of_study(study)
        if row["sent"]
    ]
    known = {(one.who, one.patient_id, one.study_instance_uid) for one in found}
    copies = (line for name in index.audit_lines.hosts() if name != own for _, line in index.audit_lines.of_host(name))
    logged = takers_of(root, studies, copies)
    found += [one for one in logged if (one.who, one.patient_id, one.study_instance_uid) not in known]
    proof = last_proof(root)
    if proof is not None and proof.succeeded_at is not None:
        found.append(Holder(proof.backup, "backup that was proved", proof.succeeded_at, remedy="`voxelnode backup`"))
    return [one if one.remedy else replace(one, remedy=_remedy(index, settings, one, is_gone)) for one in found]


def _remedy(index: ReadIndex, settings: Settings, holder: Holder, is_gone: bool) -> str:
    """Return the line that mends what somebody has of a study."""
    uid, name = holder.study_instance_uid, holder.who.removeprefix("hook ").partition(" ")[0]
    where = f"--where 'study_instance_uid == \"{uid}\"'"
    if name in settings.destinations and not settings.destinations[name].takes_instances:  # a BIDS data set
        return f"`voxelnode bids {settings.destinations[name].folder_of} --prune`"
    if holder.how.startswith(BIDS):
        return f"`voxelnode bids {quote(holder.how.removeprefix(BIDS).partition(', key ')[0])} --prune`"
    if is_gone:
        return "have it deleted there"
    is_hook = holder.who.startswith("hook ")
    routes = [key for key, route in settings.routes.items() if name in route.to]
    if is_hook and name in settings.hooks:
        return f"`voxelnode hooks replay {name} --again {where}`"
    if is_hook or name not in settings.receivers:
        return "have it taken again"
    again = f"routes replay {routes[0]}/{name} {where}" if routes else f"peers send {uid} --to {name}"
    former = holder.patient_id not in (None, index.studies.patient_id(uid))
    return f"`voxelnode {again}`" + (f", and have what is of {holder.patient_id} deleted there" if former else "")


def decided_about(index: ReadIndex, root: Path, named: Mapping[str, Any]) -> set[str]:
    """Return the studies that the arguments of one of `DECISIONS` name."""
    numbers = [*named.get("trash", ()), *([named["number"]] if "number" in named else ())]
    found = {row["study_instance_uid"] for number in numbers for row in index.trash.entries(number)}
    found |= {study for _, _, study in named.get("objects", ())}
    if "level" in named:
        found.add(
            plan_deletion(
                index.connection, named["level"], named["uid"], named["study_instance_uid"]
            ).study_instance_uid
        )
    other: Mapping[str, Any] = index.conflicts.one(named["conflict"]) or {} if "conflict" in named else {}
    other = asdict(examined(root, index, named["name"])) if "name" in named else other
    current = index.instances.row(other.get("sop_instance_uid") or "") or {}
    return found | {uid for one in (other, current) if (uid := one.get("study_instance_uid"))}


DECISIONS = frozenset({"accept-conflict", "release-quarantined", "delete", "erase", "restore-trash", "empty-trash"})
"""Those that name what they are about by their arguments; other decisions answer with their ``studies``."""

GONE = frozenset({"delete", "erase", "empty-trash"})
"""Decisions after which there is nothing that could be sent again."""
