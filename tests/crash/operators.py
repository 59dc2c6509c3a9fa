"""What people do to an archive, in any order, beside senders and kills; compared with what the node owes.

The order is drawn from a seed. A node may die at any named step; commands meet a node that runs, that was stopped, or
that was killed. At each start of the node, and in the end, its index and its files are compared with the model
(`tests.crash.model`):

- acknowledged bytes are there, as the current version of their instance or as a kept one, unless they were deleted, or
  their file was harmed and nobody has sent them again since;
- erased bytes are nowhere, whatever else was done, unless they were sent again;
- what is in the trash is in no list, and comes back as it was;
- studies are of the patient into whom theirs was merged or corrected, until that is undone or erased;
- volumes are those of their rows, and none was made of a damaged file.
"""

import errno
import os
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from itertools import count
from pathlib import Path
from threading import Timer
from typing import Any

from node.archive.root import MARKER
from node.control.root import REBUILDING_FILE
from node.runtime.failpoints import CONVERTING, DELETING, RECEIVING, RECOVERING, TRASH, VARIABLE
from tests.crash.checker import Checker, opened
from tests.crash.drawing import BOTH, MOMENTS, PICK, PICKS, maybe, one_of, operation, picked, whole
from tests.crash.harness import within
from tests.crash.journal import Sent, new_series
from tests.crash.model import Changes, Snapshot, unmentioned
from tests.crash.site import QUICK, Site
from tests.crash.small_journal import SEGMENT_BYTES, SEGMENTS
from tests.made_once import empty_folder, save_index
from tests.rows import wait_until_applied
from tests.rsync import Rsync

NAMES = ("root", "ward#1", "ward #1?mode=memory", "ward%41", "Röntgen")
PATIENTS = ("TEST-1", "TEST-2", "TEST-3")
RIGHT = ("TEST-1", "RIGHT-1")
OPEN = ("receiving", "converting")
TITLES = ("SENDER", QUICK)
LEVELS = ("study", "series", "instance")
LACKING = ("bytes", "inodes", "quota")
DELETING_POINTS = (None, *DELETING)
NODE_POINTS = (None, *RECEIVING, *CONVERTING, *RECOVERING, *DELETING, *TRASH)
UNREADABLE = (errno.EACCES, errno.EIO, errno.EMFILE, errno.ENOMEM)
READERS = (None, ("fsck", "--repair"), ("fsck", "--hash", "--repair"), ("db", "rebuild"))

CONVERTED_SECONDS = 30.0
QUICK_SECONDS = 4.0
"""How long the conversion of a quick sender is waited for, if there may be none."""


class Operators:
    """Senders and operators at one root.

    `counts`: gets what was done.
    """

    def __init__(self, site: Site, counts: Counter[str]) -> None:
        self.site, self.model, self._counts = site, site.model, counts
        self.backups: list[tuple[Path, Changes]] = []
        self.copies: list[tuple[Path, Snapshot]] = []

    # Senders

    @operation(
        slices=whole(1, 4),
        large=BOTH,
        patient=one_of(PATIENTS),
        title=one_of(TITLES),
        point=one_of(NODE_POINTS),
        count=whole(1, 4),
    )
    def send_new(self, slices: int, large: bool, patient: str, title: str, point: str | None, count: int) -> None:
        self.site.send(new_series(slices, large=large, patient_id=patient), point, count, title=title)

    @operation(picks=PICKS, altered=BOTH, point=one_of(NODE_POINTS), count=whole(1, 4))
    def send_again(self, picks: list[int], altered: bool, point: str | None, count: int) -> None:
        self.site.send(self._known(picks, altered=altered), point, count)

    @operation()
    def send_what_was_harmed(self) -> None:
        self._send_harmed()

    def _send_harmed(self) -> None:
        self.site.send([self.model.sent[version] for version in sorted(self.model.changes.harmed)])

    def _known(self, picks: Sequence[int], *, altered: bool) -> list[Sent]:
        known = list(self.model.sent.values())
        instances = list({pick % len(known): known[pick % len(known)] for pick in picks}.values())
        return [one.altered() for one in instances] if altered else instances

    # The disk

    @operation(lacking=one_of(LACKING), after=whole(0, 3), large=BOTH, again=BOTH)
    def fill_the_disk(self, lacking: str, after: int, large: bool, again: bool) -> None:
        """While an association is open. The disk stays full until `make_room`, or a command that needs room."""
        if again:  # the first file since the start needs a new folder
            self.site.end()
        self._counts["disks filled"] += 1
        self.site.send(new_series(4, large=large), then=(after, lambda: self.site.fill(lacking)))

    @operation()
    def make_room(self) -> None:
        self.site.make_room()

    # The process

    @operation(how=one_of([signal.SIGTERM, signal.SIGKILL]))
    def stop(self, how: signal.Signals) -> None:
        self.site.end(how)

    @operation()
    def second_node(self) -> None:
        self.site.end()  # it might be about to die at a named step
        self.site.start()
        second = self.site.command("serve", "--port", "0", "--web-port", "0")
        assert second.returncode != 0, "two nodes serve one root"

    @operation(name=one_of(NAMES))
    def move_root(self, name: str) -> None:
        self.site.make_room()
        self.site.start()
        self.site.end()
        self.site.move(name)
        self.site.compare()
        self.site.start()

    # Operators

    @operation(pick=PICK, level=one_of(LEVELS), point=one_of(DELETING_POINTS))
    def delete(self, pick: int, level: str, point: str | None) -> None:
        """Through the node if it runs; by the command itself, which may die, if not."""
        rows = self.site.rows()
        if rows:
            self._delete(rows[picked(sorted(rows), pick)], level, point)

    @operation(pick=PICK, level=one_of(LEVELS), point=one_of(DELETING_POINTS), is_converted=BOTH)
    def trash(self, pick: int, level: str, point: str | None, is_converted: bool) -> None:
        """Delete something into the trash: of a new series that was converted, or of all."""
        new = new_series(3) if is_converted else []
        self.site.send(new, title=QUICK)
        if new:
            within(CONVERTED_SECONDS, lambda: self._state(new[0].series_instance_uid) == "converted")
        rows = self.site.rows()
        of = rows.keys() & {one.sop_instance_uid for one in new} or rows
        if rows:
            self._delete(rows[picked(sorted(of), pick)], level, point, ())

    def _delete(
        self, row: Mapping[str, Any], level: str, point: str | None = None, how: Sequence[str] = ("--erase",)
    ) -> None:
        column = {"instance": "sop_instance_uid"}.get(level, f"{level}_instance_uid")
        uids, series = {str(row["sop_instance_uid"])}, row["series_instance_uid"]
        if level != "instance":  # each study has one series; some of it may be in the journal only
            uids = {sent.sop_instance_uid for sent in self.model.sent.values() if sent.series_instance_uid == series}
        if point is not None:
            self.site.end()
        must_delete = self.site.can_delete and not (how and self.model.is_shared(uids))
        before, in_trash = self.site.series(series), self.site.trash().keys()
        done = self.site.command("delete", row[column], *how, "--yes", **{VARIABLE: point or ""})
        assert done.returncode == 0 or self.site.has_died or not must_delete, done.stderr
        left = self.site.rows()
        # Ordered, also if it died then.
        if done.returncode == 0 or row["sop_instance_uid"] not in left or (how and self.site.owes_erasure()):
            self._counts[f"instances {'erased' if how else 'put in the trash'}"] += len(uids)
            if how:
                self.model.erase(uids, left.keys())
            else:
                [deletion] = self.site.trash().keys() - in_trash
                self.model.trash(deletion, uids, before)
        if done.returncode == 0:
            self.site.compare()

    @operation(pick=PICK, point=one_of((None, *TRASH[:2])), serves=BOTH, after=maybe(whole(0, 50)))
    def undo(self, pick: int, point: str | None, serves: bool, after: int | None) -> None:
        self._decide_on_trash(pick, point if after is None else None, serves, after, self._undone, "restore")

    @operation(pick=PICK, point=one_of((None, *TRASH[2:])), serves=BOTH)
    def empty_trash(self, pick: int, point: str | None, serves: bool) -> None:
        self._decide_on_trash(pick, point, serves, None, self.model.empty, "empty", "--yes")

    def _decide_on_trash(
        self, pick: int, point: str | None, serves: bool, after: int | None, note: Callable[[str], None], *words: str
    ) -> None:
        """Have a deletion restored or emptied; delete something first if the trash is empty.

        The node dies at a named step or, unless it `serves`, the command; or the node dies after milliseconds.
        """
        self.site.start()
        if not self.site.trash():
            self.trash(pick, picked(LEVELS, pick), None, is_converted=True)
            self.site.start()
        if not (there := self.site.trash()):
            return
        deletion = picked(sorted(there), pick)
        if point is not None:
            self.site.end()
            if serves:
                self.site.start(point)
        number = signal.SIGKILL if after is not None else 0  # which only asks whether there is such a process
        killer = Timer((after or 0) / 1000, os.kill, [self.site.node.process, number])
        killer.start()
        done = self.site.command("trash", words[0], there[deletion], *words[1:], **{VARIABLE: point or ""})
        killer.join()
        is_done = deletion not in self.site.trash()
        assert is_done or self.site.has_died or self.site.lacking, done.stderr
        self._counts[f"trash: {words[0]}"] += is_done
        if is_done:
            note(deletion)
            self.site.start()
            self.site.compare()

    def _undone(self, deletion: str) -> None:
        changes = self.model.changes
        entry = changes.trash[deletion]
        doubted = {uid for uid, _ in changes.harmed} | changes.doubtful | changes.misled
        is_untouched = self.model.touched[entry.series] == entry.touched and entry.uids.isdisjoint(doubted)
        if is_untouched and entry.before[0][0] not in OPEN:
            self._counts["series as before"] += 1
            assert self.site.series(entry.series) == entry.before, "an undo is no arrival"
        self.model.undo(deletion)

    @operation(pick=PICK, pick_into=PICK)
    def merge(self, pick: int, pick_into: int) -> None:
        self.site.send([*new_series(1), *new_series(1, patient_id=picked(PATIENTS, pick_into))])
        patients = self._patients("merged_into IS NULL")
        if len(patients) > 1:
            one = patients.pop(pick % len(patients))
            into = picked(patients, pick_into)
            self._decide_on(one, into["patient_id"], "merge", f"#{into['id']}")

    @operation(pick=PICK, right=one_of(RIGHT))
    def correct(self, pick: int, right: str) -> None:
        into = self.model.patient_of(right)  # that of a patient who is known, or of a new one
        patients = [one for one in self._patients("merged_into IS NULL") if one["patient_id"] != into]
        if patients:
            self._decide_on(picked(patients, pick), into, "correct", "--id", right)

    @operation(pick=PICK)
    def separate(self, pick: int) -> None:
        if not self._patients("merged_into NOT NULL"):
            self.merge(pick, pick)
        patients = self._patients("merged_into NOT NULL")
        if patients:
            self._decide_on(picked(patients, pick), None, "separate")

    def _patients(self, condition: str) -> list[sqlite3.Row]:
        self.site.rows()  # of all that was acknowledged
        with closing(opened(self.site.root)) as index:
            query = f"SELECT id, patient_id, merged_into FROM v_patients WHERE {condition} ORDER BY patient_id"
            return index.execute(query).fetchall()

    def _decide_on(self, one: sqlite3.Row, into: str | None, command: str, *words: str) -> None:
        """Have it decided that a patient is another one, or nobody else."""
        done = self.site.command("patient", command, f"#{one['id']}", *words)
        assert done.returncode == 0 or self.site.lacking or self.site.has_died, done.stderr
        is_done = (one["id"] in [row["id"] for row in self._patients("merged_into NOT NULL")]) is (into is not None)
        assert is_done or done.returncode != 0, f"patient {command} was confirmed, and is not in the index"
        if is_done:
            self._counts[f"patient {command}"] += 1
            self.model.changes.merged.pop(one["patient_id"], None)
            if into is not None:
                self.model.changes.merged[one["patient_id"]] = into
            self.site.compare()

    @operation(pick=PICK, formats=one_of([None, '["nifti"]', '["nifti", "mhd"]']))
    def reconvert(self, pick: int, formats: str | None) -> None:
        """With other settings, or with the same ones: then there may be nothing to do."""
        if formats is not None:
            self.site.end()
            self.site.configure(VOXELNODE_CONVERT__FORMATS=formats)
        self.site.start()
        within(QUICK_SECONDS, self._closed)
        if series := self._closed():
            self.site.command("reconvert", picked(series, pick))
            within(CONVERTED_SECONDS, lambda: self._state(picked(series, pick)) not in OPEN)

    def _closed(self) -> list[str]:
        """The series that do not wait for a conversion."""
        series = sorted({row["series_instance_uid"] for row in self.site.rows().values()})
        return [uid for uid in series if self._state(uid) not in OPEN]

    @operation(level=one_of(LEVELS), altered=BOTH)
    def correct_while_converting(self, level: str, altered: bool) -> None:
        """Delete a series while its conversion runs, and send it again; the old conversion ends after the new one.

        Or delete one instance of it, and let the old conversion end.
        """
        self.site.make_room()
        self.site.start()
        series = new_series(2)
        self.site.hold_next_conversion()
        self.site.send(series, title=QUICK)
        self.site.send(new_series(1))  # the newest row would give its number to the next one
        held = within(CONVERTED_SECONDS, self.site.holds_conversion)
        # A point that an earlier operation set may have killed the node before the series was received.
        if held and (row := self.site.rows().get(series[0].sop_instance_uid)) is not None:
            self._delete(row, level)
            if level != "instance":
                self.site.send([one.altered() for one in series] if altered else series, title=QUICK)
                within(CONVERTED_SECONDS, lambda: self._state(series[0].series_instance_uid) == "converted")
        self.site.end()
        self.site.start()

    def _state(self, series_instance_uid: str) -> str | None:
        return next((state for state, *_ in self.site.series(series_instance_uid)), None)

    @operation(keep=BOTH)
    def rebuild(self, keep: bool) -> None:
        self.site.make_room()
        self.site.end()
        if not keep:
            for path in self.site.root.glob("index.sqlite*"):
                path.unlink()
            self.model.forget_deletions()
            self.model.changes.merged = {}
            self.model.forget_digests()
        self._counts["indexes rebuilt"] += 1
        self.site.command("db", "rebuild")
        self.site.start()

    @operation(options=one_of([(), ("--hash",), ("--repair",), ("--hash", "--repair")]))
    def fsck(self, options: tuple[str, ...]) -> None:
        if "--repair" in options:
            self.site.make_room()
            self.site.end()
        done = self.site.command("fsck", *options, "--json")
        if options == ("--hash",):
            found = [*unmentioned(self.site.root, done.stdout)]
            assert not found, "\n".join(found)
        self.site.start()

    @operation()
    def fsck_without_archive(self) -> None:
        """Repair while the archive is not mounted."""
        self.site.make_room()
        self.site.start()
        self.site.end()
        objects, away = self.site.root / "objects", self.site.root / "objects.away"
        there = [row for row in self.site.rows().values() if not row["file_missing"] and Path(row["path"]).exists()]
        objects.rename(away)
        objects.mkdir()
        shutil.copy(self.site.root / MARKER, objects)  # the folder is accepted, by mistake
        done = self.site.command("fsck", "--repair")
        shutil.rmtree(objects)
        away.rename(objects)
        assert "mounted" in done.stderr or len(there) < 2, "repaired without its archive"
        self.site.start()

    @operation(command=one_of(READERS), error=one_of(UNREADABLE), picks=PICKS)
    def unreadable(self, command: tuple[str, ...] | None, error: int, picks: list[int]) -> None:
        """Files cannot be read for a while: by the node when instances come again, or by a command."""
        self.site.make_room()
        self.site.end()
        self.site.disk.fail("i", error, ".dcm")
        if command is not None:
            if command == ("db", "rebuild"):
                self.model.forget_digests()  # what the next start adopts is compared with no index
            self.site.command(*command, **self.site.disk.environment)
        elif self.site.node.start():
            self.site.send(self._known(picks, altered=False))
            wait_until_applied(self.site.root, 1.0)
        self.site.disk.heal()
        self.site.end()
        rebuilding = self.site.root / REBUILDING_FILE
        if rebuilding.exists():  # it has said so, and no node starts until it was run again
            self.site.command("db", "rebuild")  # exits 1 if a file is gone for good
            assert not rebuilding.exists(), "a rebuild that could read everything has not finished"
        self.site.start()

    @operation()
    def serve_without_the_disk(self) -> None:
        """Start while the root is an empty folder: its disk is not mounted."""
        self.site.end()
        root, away = self.site.root, self.site.root.with_name("away")
        root.rename(away)
        root.mkdir()
        done = self.site.command("serve", "--port", "0", "--web-port", "0")
        assert done.returncode != 0, "a node serves an empty folder"
        root.rmdir()  # fails if something was written there
        away.rename(root)
        self.site.start()

    @operation(point=one_of((None, *RECEIVING)), count=whole(1, 4))
    def lose_journal(self, point: str | None, count: int) -> None:
        """Remove the journal after a clean end, or after a kill: what only the journal had is to be sent again."""
        self.site.make_room()
        if point is None:
            self.site.end()
            self.site.start()
            self.site.end()
        else:
            self.site.send(new_series(3), point, count)
            self.site.end(signal.SIGKILL)
        empty_folder(self.site.root / "journal")
        found = [
            path.read_bytes() for name in ("objects", "quarantine") for path in self.site.root.rglob(f"{name}/**/*.dcm")
        ]
        owed = self.model.acknowledged() if point is not None else []
        only_there = [one for one in owed if not any(data.endswith(self.model.sent[one].data) for data in found)]
        self.model.changes.harmed.update(only_there)
        self._counts["instances that only a lost journal had"] += len(only_there)
        self.site.start()
        if only_there:
            assert "journal" in self.site.command("lost", "list").stdout, "nobody is told that the journal is gone"
            done = self.site.command("lost", "write-off", "journal", "--reason", "sent again", "--yes")
            assert done.returncode == 0, done.stderr

    @operation(times=whole(2, 4), point=one_of((None, *RECOVERING)))
    def start_in_a_loop(self, times: int, point: str | None) -> None:
        """A supervisor starts the node again and again, and it dies each time: its journal does not grow."""
        self.site.make_room()
        self.site.end()
        for _ in range(times):
            self.site.start(point)
            self.site.end(signal.SIGKILL)
        self.site.start()
        size = sum(path.stat().st_size for path in self.site.root.glob("journal/*.journal"))
        assert size <= SEGMENTS * SEGMENT_BYTES, f"after {times} starts, the journal has {size} bytes"

    # Backups

    @operation()
    def backup(self) -> None:
        path = self.site.folder / f"backup-{len(self.backups)}.sqlite"
        save_index(self.site.root, path)
        self.backups.append((path, deepcopy(self.model.changes)))

    @operation(pick=PICK, how=one_of([signal.SIGTERM, signal.SIGKILL]), repair=BOTH)
    def restore_index(self, pick: int, how: signal.Signals, repair: bool) -> None:
        """The way back of docs/upgrade.md: an older index over the archive as it is."""
        path, changes = picked(self.backups, pick)
        self.site.make_room()
        self.site.end(how)
        for old in self.site.root.glob("index.sqlite*"):
            old.unlink()
        shutil.copy(path, self.site.root / "index.sqlite")
        self.model.go_back_to_index(changes)
        self.model.forget_digests()
        self._counts["older indexes put back"] += 1
        self.site.is_index_older = True
        if repair:
            self.site.command("fsck", "--repair")
        self.site.start()

    @operation(picks=PICKS, moments=MOMENTS)
    def copy_root(self, picks: list[int], moments: list[int]) -> None:
        """The way of docs/backup.md, while instances and other versions of them are received."""
        self.site.make_room()
        self.site.end()
        self.site.start()  # the journal would write again what the copy of the archive lacks
        root, copy = self.site.root, self.site.folder / f"copy-{len(self.copies)}"
        copy.mkdir()
        snapshot = self.model.snapshot()
        save_index(root, copy / "index.sqlite")
        passed = count()

        def send() -> None:
            if next(passed) in moments:
                self.site.send([*self._known(picks, altered=True), *new_series(1)])
                within(1.0, self._are_losers_moved)

        send()
        rsync = Rsync(send)
        rsync([str(root / "journal"), str(root / "incoming"), str(copy)])
        left = ("index.sqlite*", "journal", "incoming", "work", "ballast", "control.sock")
        rsync([f"{root}/", str(copy), *(word for name in left for word in ("--exclude", name))])
        self.copies.append((copy, snapshot))

    def _are_losers_moved(self) -> bool:
        """Whether the files that the last commits let go are where their rows say: they are moved behind them."""
        wait_until_applied(self.site.root)
        with closing(opened(self.site.root)) as index:
            return all(
                Path(row[0]).exists() for row in index.execute("SELECT path FROM v_conflicts WHERE path NOT NULL")
            )

    @operation(pick=maybe(PICK), picks=PICKS, moments=MOMENTS)
    def restore_copy(self, pick: int | None, picks: list[int], moments: list[int]) -> None:
        """Put back a copy that was made before, or is made now."""
        if pick is None or not self.copies:
            self.copy_root(picks, moments)
        copy, snapshot = self.copies[-1] if pick is None else picked(self.copies, pick)
        self.site.make_room()
        self.site.end()
        shutil.rmtree(self.site.root)
        shutil.copytree(copy, self.site.root)
        self._counts["copies put back"] += 1
        self.model.go_back(snapshot)
        self.site.is_index_older = True
        self.site.command("fsck", "--hash", "--repair")
        self.site.start()

    # Harm

    @operation(pick=PICK, flip=BOTH)
    def harm(self, pick: int, flip: bool) -> None:
        """Remove a file of the archive, or flip a bit in it."""
        if flip:  # no conversion may have read it already
            self.site.end()
        root, changes = self.site.root, self.model.changes
        files = sorted([*root.glob("objects/*/*.dcm"), *root.glob("quarantine/*.dcm")])
        if not files:
            return
        path = picked(files, pick)
        content = bytearray(path.read_bytes())
        versions = [version for version, sent in self.model.sent.items() if content.endswith(sent.data)]
        if flip:
            content[-1] ^= 0x80  # not as `Sent.altered` does it
            path.write_bytes(content)
            with closing(opened(root)) as index:
                revisions = dict(index.execute("SELECT series_instance_uid, revision FROM v_series").fetchall())
            for version in versions:
                series = self.model.sent[version].series_instance_uid
                changes.flipped[version] = series, revisions.get(series, 0)
        else:
            path.unlink()
        self._counts["files removed or flipped"] += 1
        changes.harmed.update(versions)

    @operation(pick=PICK)
    def mislead(self, pick: int) -> None:
        """Give a row the digest of other bytes, as a damaged page of the index does."""
        self.site.make_room()
        self.site.start()
        self.site.end()
        rows = self.site.rows()
        if not rows:
            return
        uid = picked(sorted(rows), pick)
        with closing(sqlite3.connect(self.site.root / "index.sqlite")) as index, index:
            index.execute("UPDATE images SET sha256 = ? WHERE sop_instance_uid = ?", ("0" * 64, uid))
        self.model.changes.misled.add(uid)

    # The end

    def settle(self) -> None:
        """Whatever was harmed can be sent again; then all is whole."""
        self.site.make_room()
        self.site.end()  # it might be about to die at a named step
        self.site.start()
        self._send_harmed()
        self.site.end()
        assert not self.model.changes.harmed, "not taken again"
        self.site.start()
        self.site.end()
        if not self.site.is_index_older:
            with closing(opened(self.site.root)) as index:
                assert [*Checker(self.site.root).volumes(index)] == []
