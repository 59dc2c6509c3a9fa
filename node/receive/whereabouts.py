"""Where is it? One sentence says what became of something that was not found, and what to do.

    index -> lost list -> quarantine -> conflicts -> trash and deletions -> journal -> ledger -> audit log -> refusals

The first place that knows it answers. Commands, pages and REST ask this when they have found nothing, and nothing
is read for them before. Files are read from the newest to the oldest, for as long as the caller waits.

Whoever is no administrator learns what the lists of losses and refusals show them, and that a deletion was ordered, by
a Patient ID, an Accession Number and a name, too; who ordered it and why, and what else is in the trash, in quarantine
and in the audit log, answers administrators alone. Members of projects must not ask at all.

What only some answers need is imported where they need it: a command that asks loads SQLAlchemy and pydicom for longer
than it looks.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from node.audit.audit_files import lines_naming
from node.errors import counted
from node.files.acknowledged import Acknowledged, newest_of
from node.index.look.kept import OF_PATIENT, folded
from node.index.rows.view_rows import Row, moment
from node.receive.aside import QuarantinedFile, quarantined

if TYPE_CHECKING:
    from node.archive.base import LocalFile
    from node.index.look.views import ReadIndex

REFUSAL_DAYS = 7
"""Age up to which a refusal may be why something never came."""

MAX_REFUSALS = 100
"""Newest refusals among which one of a sender is looked for: the others may be of port scanners."""

_UID = re.compile(r"[0-2](\.[0-9]+)+")
"""A text of digits alone is a Patient ID or an Accession Number."""

_NO_STORAGE = "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.2.", "1.2.840.10008.5.1.4.31"
"""How UIDs of abstract syntaxes begin that store nothing: Verification, Query/Retrieve, Modality Worklist."""

NEVER = "never received here"
"""Of a UID, which the ledger would have."""

NOT_KNOWN = "not known here, where names and Accession Numbers are not kept of what is deleted without the trash"
"""Of a Patient ID, a name or an Accession Number."""

MAX_EVENTS = 100
"""Newest events of a series among which it is looked for why an instance of it is not here."""

TRASH, QUARANTINE, REFUSALS = "/problems/trash", "/problems/quarantine", "/problems/rejections"
"""Pages of what answers."""


def in_utc(moment: dt.datetime) -> str:
    """Return a moment up to the minute."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What happened to something, when, by or from whom, and why; `remedy` is a command, or says what to do.

    `page`: path of the page where a person does it. `place`: Study, Series and SOP Instance UID of what is stored.
    `before`: what happened to it first.
    """

    what: str
    remedy: str
    at: dt.datetime | None = None
    who: str = ""
    why: str = ""
    page: str = ""
    place: tuple[str, ...] = ()
    before: Whereabouts | None = None

    def happened(self, shown: Callable[[dt.datetime], str] = in_utc) -> str:
        """Return what happened, without the remedy; `shown` writes the moment."""
        moment = shown(self.at) if self.at is not None else ""
        happened = " ".join(part for part in (self.what, moment, self.who) if part)
        happened = f"{self.before.happened(shown)}, {happened}" if self.before is not None else happened
        return f"{happened}: {self.why}" if self.why else happened

    def sentence(self, shown: Callable[[dt.datetime], str] = in_utc) -> str:
        """Return what happened and what to do."""
        return f"{self.happened(shown)}; {self.remedy}"


def whereabouts(
    index: ReadIndex,
    root: Path,
    sought: str,
    *above: str,
    is_admin: bool = True,
    seconds: float = math.inf,
    admitted: Collection[str] = (),
    is_behind: Callable[[], bool] = lambda: False,
    local: LocalFile | None = None,
) -> Whereabouts | None:
    """Return where something is, or what became of it; None if nothing is known.

    `sought`: a UID, a Patient ID, an Accession Number or a name.
    `above`: UIDs of its series and study, as far as they are known.
    `is_admin`: whether the caller may see trash, quarantine and audit log. `seconds`: how long files are read.
    `admitted`: AE titles of peers: a refusal because one of them was not known is over.
    `is_behind`: whether instances wait in the journal. What reads the index of a running node has waited for them.
    `local`: gives the files of the archive; None: they are in `root`.
    """
    asked = _Asked(index, root, sought, above, is_admin, monotonic() + seconds, admitted, is_behind, local)
    looks = (
        *(asked.stored, asked.lost, asked.in_quarantine, asked.in_conflict, asked.deleted),
        *(asked.waiting, asked.remembered, asked.refused),
    )
    for look in looks:
        with suppress(OSError):  # files that this user must not read, or that are gone
            if (found := look()) is not None:
                return found
    return None


def unknown(sought: str) -> str:
    """Return what can be said of something of which nothing is known."""
    return NEVER if _UID.fullmatch(sought) else NOT_KNOWN


@dataclass(slots=True)
class _Asked:
    index: ReadIndex
    root: Path
    sought: str
    above: tuple[str, ...]
    is_admin: bool
    deadline: float
    admitted: Collection[str]
    is_behind: Callable[[], bool]
    local: LocalFile | None
    received: Acknowledged | None = None

    def stored(self) -> Whereabouts | None:
        """Look in the index."""
        from node.index.looking import named

        if not (found := named(self.index, self.sought)):
            return None
        place = tuple(dict.fromkeys(filter(None, (found[-1].study, found[-1].series, found[-1].uid))))
        from node.dicom.uids import resource_path

        where = f"stored in study {place[0]}" if len(place) > 1 else "stored"
        remedy = f"`voxelnode info {self.sought}` shows it"
        return Whereabouts(where, remedy, page=resource_path(*place[:2]), place=place)

    def lost(self) -> Whereabouts | None:
        """Look among what was acknowledged and is not here."""
        rows = self.index.lost.naming(self.sought)
        if not rows:
            return None
        row = rows[0]
        again = f"have {row['calling_ae_title'] or 'its sender'} send it again; `voxelnode lost list` lists all"
        why = f"{counted(len(rows), 'instance')} acknowledged, and lost"
        return Whereabouts("received", again, moment(row["received_at"]), _sender(row), why)

    def in_quarantine(self) -> Whereabouts | None:
        """Look among the files that were set aside."""
        if not self.is_admin:
            return None
        for file in quarantined(self.root, self.index):
            if file.sop_instance_uid is None and monotonic() > self.deadline:
                continue
            if self.sought in (uids := self._uids_of(file)):
                what = "in quarantine since" if uids[-1] == self.sought else "an instance of it is in quarantine since"
                remedy = f"`voxelnode quarantine show {file.name}` compares it with what is stored"
                return Whereabouts(what, remedy, file.modified_at, why=f"{file.reason}, {file.detail}", page=QUARANTINE)
        return None

    def _uids_of(self, file: QuarantinedFile) -> tuple[str, ...]:
        if file.sop_instance_uid is not None:
            uids = file.study_instance_uid, file.series_instance_uid, file.sop_instance_uid
            return tuple(uid for uid in uids if uid)
        from node.receive.custody import uids_of

        return uids_of(self.root, file)

    def in_conflict(self) -> Whereabouts | None:
        """Look among the patients of conflicts, whose instances are in the study of another one, or were set aside."""
        if _UID.fullmatch(self.sought):
            return None
        from node.dicom.uids import resource_path
        from node.receive.aside import named, stranger

        for row in self.index.conflicts.of_strangers():
            if monotonic() > self.deadline:
                return None
            is_aside = row["path"] is not None
            if is_aside and not self.is_admin:
                continue
            other = stranger(row, self.index, self.local or (lambda file: self.root / file.key))
            if other is None or not self._is_of(other):
                continue
            place: tuple[str, ...] = (str(row["study_instance_uid"]), str(row["series_instance_uid"]))
            why = f"conflict {row['id']}{', ' + row['decision'] if row['decision'] else ''}: as {named(other)}, "
            if is_aside:
                why += "set aside, for the node has another version of the instance"
                place = ()
            elif study := self.index.studies.row(place[0]):
                why += f"under the Study Instance UID of another patient, {named(study)}, in study {place[0]}"
            page = "" if is_aside else resource_path(*place)
            remedy = f"`voxelnode conflicts show {row['id']}` compares both"
            remedy += f", `voxelnode info {row['series_instance_uid']}` shows the series" if place else ""
            who = f"from {row['calling_ae_title']}" if row["calling_ae_title"] else ""
            return Whereabouts("received", remedy, moment(row["found_at"]), who, why, page, place)
        return None

    def _is_of(self, person: Mapping[str, Any]) -> bool:
        """Return whether a row has the text as Patient ID, as Accession Number, or as a part of the name."""
        if self.sought in map(person.get, OF_PATIENT):
            return True
        words = folded(self.sought)
        return bool(words) and words in folded(person.get("patient_name") or "")

    def deleted(self) -> Whereabouts | None:
        """Look in the trash, and among deletions: of itself, or of what it was in."""
        if (found := self._deletion(self.sought, *self.above)) is not None:
            return found
        if not _UID.fullmatch(self.sought):
            return self._deleted_of_patient()
        if not self.is_admin:
            return None
        self.received = newest_of(self.root, self.sought, self.deadline)
        if self.received is None:
            return None
        return self._deletion(self.received.series_instance_uid, self.received.study_instance_uid)

    def _deleted_of_patient(self) -> Whereabouts | None:
        """Look for deletions that went to the trash, by the patient and Accession Number that their lines have."""
        uids = dict.fromkeys(line["objects"][0].get("uid", "") for line in self._lines_of_patient())
        return next((found for uid in uids if (found := self._deletion(uid)) is not None), None)

    def _lines_of_patient(self) -> Iterator[Row]:
        with suppress(OSError):
            for line in filter(None, map(_audited, lines_naming(self.root, "patient_name", self.deadline))):
                if any(map(self._is_of, line["objects"])):
                    yield line

    def _deletion(self, *names: str) -> Whereabouts | None:
        for name in names:
            entries = self.index.trash.naming(name)
            if name != self.sought:  # not of something else that was in it
                entries = [entry for entry in entries if entry["uid"] == name]
            if entries:
                return self._in_trash(entries[0])
            if rows := self.index.deletions.of_uid(name):
                return self._gone(rows[0])
        return None

    def _in_trash(self, entry: Row) -> Whereabouts:
        if not self.is_admin:
            remedy = "an administrator can bring it back from the trash"
            return Whereabouts(self._deleted(entry), remedy, entry["deleted_at"])
        line = next(self._orders(entry["uid"]), None)
        remedy = f"`voxelnode trash restore {entry['number']}` brings it back"
        why = f"in the trash until {entry['until']:%Y-%m-%d}"
        return Whereabouts(self._deleted(entry), remedy, entry["deleted_at"], _who(line), why, TRASH)

    def _gone(self, row: Row) -> Whereabouts:
        orders = self._orders(row["uid"])
        line = next(orders, None)
        at, why = (moment(line["at"]), _order(line)) if line is not None else (row["ordered_at"], _why(row["reason"]))
        is_emptied = line is not None and line["of"] == "trash"
        if is_emptied and (first := next((one for one in orders if one["of"] != "trash"), None)) is not None:
            before = Whereabouts(self._deleted(row), "", moment(first["at"]), _who(first), _order(first))
            emptied = f"the trash was emptied, {why.removeprefix('empty the trash, ')}"
            return Whereabouts("permanently", self._send_again(), at, _who(line), emptied, before=before)
        return Whereabouts(f"permanently {self._deleted(row)}", self._send_again(), at, _who(line), why)

    def _deleted(self, row: Row) -> str:
        """Return what was deleted: itself, or what it was in or is the patient of."""
        return "deleted" if row["uid"] == self.sought else f"deleted with its {row['level']}"

    def _orders(self, text: str) -> Iterator[Row]:
        """Yield the lines of deletions of something, newest first."""
        for line in self._lines(text):
            is_done = line["action"] == "D" and line["outcome"] == 0
            if is_done and any(one.get("uid") == text for one in line["objects"]):
                yield line

    def _lines(self, text: str) -> Iterator[Row]:
        if not self.is_admin:
            return
        with suppress(OSError):  # who it was stays unknown
            lines = map(_audited, lines_naming(self.root, text, self.deadline))
            yield from (
                line for line in lines if line is not None and any(text in one.values() for one in line["objects"])
            )

    def waiting(self) -> Whereabouts | None:
        """Return that it may be in the journal: until the index has what is there, nobody can say that it never came.

        The records are not read: they may be a gigabyte.
        """
        if not self.is_behind():
            return None
        why = "instances wait for the index, and may be of it"
        return Whereabouts(
            "perhaps received", "ask again when `voxelnode journal status` says that nothing waits", why=why
        )

    def remembered(self) -> Whereabouts | None:
        """Look in what is beside the index: a new index may know nothing of what was here before."""
        received_at = moment(self.received.received_at) if self.received is not None else None
        came: Row | None = None
        for line in self._lines(self.sought):
            if line["action"] == "D" and line["stage"] == "done":
                at, order = moment(line["at"]), _order(line)
                if received_at is not None and received_at > at:
                    break
                what = "written off" if line["of"] == "lost" else "permanently deleted"
                return Whereabouts(what, self._send_again(), at, _who(line), order)
            if line["action"] == "C":  # at the end of an association: what it is about may have been deleted before
                came = came or line
        if self.received is not None and received_at is not None:
            who = _sender(self.received._asdict())
            events = self.index.events.of_series(*self.received[1:3], MAX_EVENTS)
            off = next((event["detail"] for event in events if event["kind"] == "lost-written-off"), None)
            if off is not None:
                return Whereabouts("received", self._send_again(), received_at, who, f"it was lost; {off}")
            return self._unknown_now(received_at, who)
        if came is None:
            return None
        sender = came["participants"][0]
        at, who = moment(came["at"]), f"from {_named(sender['user'], sender['address'])}"
        return self._of_another_now(came, at, who) or self._unknown_now(at, who)

    def _of_another_now(self, came: Row, at: dt.datetime, who: str) -> Whereabouts | None:
        """Return a study that came with the Patient ID, and is of another patient now: corrected, merged or kept."""
        from node.dicom.uids import resource_path
        from node.receive.aside import named

        for one in came["objects"]:
            uid = one.get("study_instance_uid", "")
            if self.sought in one.values() and (study := self.index.studies.row(uid)) is not None:
                why = f"in study {uid}, which is of another patient now, {named(study)}"
                remedy = f"`voxelnode info {uid}` shows it"
                return Whereabouts("received", remedy, at, who, why, resource_path(uid), (uid,))
        return None

    def _unknown_now(self, at: dt.datetime, who: str) -> Whereabouts:
        return Whereabouts("received", "run `voxelnode fsck`", at, who, "it is not in the index now")

    def refused(self) -> Whereabouts | None:
        """Return that it never came, with the last refusal of a sender that has stored nothing since, if there is one.

        Nothing says of what the refusal was.
        """
        since = dt.datetime.now(dt.UTC) - dt.timedelta(days=REFUSAL_DAYS)
        rows = [row for row in self.index.rejections.newest(MAX_REFUSALS) if moment(row["last_at"]) > since]
        stored = self.index.instances.last_stored()
        rows = [row for row in rows if not self._is_over(row, stored) and _may_store(row)]
        stores = [row for row in rows if row["what"] in ("association", "context", "instance")]
        if not rows:
            return None
        row, senders = (stores or rows)[0], {(row["calling_ae_title"], row["peer"]) for row in stores or rows}
        what = unknown(self.sought) if monotonic() < self.deadline else "not found here in time"
        if len(senders) > 1:
            what += f"; {len(senders)} senders were refused in the last {REFUSAL_DAYS} days, perhaps for another reason"
            return Whereabouts(what, "`voxelnode rejections` lists each with what to do", page=REFUSALS)
        what += "; the last refusal, which may have nothing to do with it, was"
        why = row["reason"].removeprefix("rejected permanently: ")
        remedy = f"if that is why: {row['remedy']}; `voxelnode rejections` lists all"
        return Whereabouts(
            what, remedy, moment(row["last_at"]), f"of {_named(row['calling_ae_title'], row['peer'])}", why, REFUSALS
        )

    def _is_over(self, row: Row, stored: Mapping[str, dt.datetime]) -> bool:
        """Return whether the sender of a refusal was admitted or has stored something since."""
        title = row["calling_ae_title"]
        if row["rule"] == "calling AE title" and title in self.admitted:
            return True
        return title in stored and stored[title] > moment(row["last_at"])

    def _send_again(self) -> str:
        sender = self.received.calling_ae_title if self.received is not None else ""
        return f"have {sender or 'its sender'} send it again, or take it from a backup"


def _audited(found: bytes) -> Row | None:
    """Return a line of the audit log; None if a power cut has torn it, or if it is of another version."""
    try:
        line = json.loads(found)
        known = {name: line[name] for name in ("at", "action", "outcome", "detail", "participants", "objects")}
        return known | {name: line.get(name) for name in ("stage", "of")}
    except (ValueError, TypeError, KeyError):
        return None


def _may_store(row: Row) -> bool:
    """Return whether a refusal may have been of instances: no HL7, and no association that only echoed or queried."""
    uids = row["offered"].split(", ")[1:]  # behind their count
    is_of_other = row["what"] == "association" and uids and all(uid.startswith(_NO_STORAGE) for uid in uids)
    return row["what"] != "hl7" and not is_of_other


def _sender(row: Row) -> str:
    """Return from whom an instance came, by a row of the lost list or of the ledger."""
    from node.receive.ingest import Origin

    origin = Origin(row["source"], row["calling_ae_title"], peer=row["peer"])
    return f"from {_named(origin.calling_ae_title, origin.address)}"


def _named(ae_title: str, address: str) -> str:
    return " at ".join(part for part in (ae_title, address) if part) or "an unknown sender"


def _who(line: Row | None) -> str:
    return f"by {line['participants'][0]['user']}" if line is not None else ""


def _order(line: Row) -> str:
    return _why(line["detail"].partition(": ")[2])


def _why(order: str) -> str:
    """Return the reason of an order: that a person gave a command is none."""
    reason = re.sub("^delete (study|series|instance), |, in the trash until [0-9-]+$", "", order)
    return "" if reason == "by command" else reason
