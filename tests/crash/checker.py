"""After a restart: does everything acknowledged exist, whole, once, with its conversion done or owed?"""

import hashlib
import math
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread

from node.archive.intact import data_set_offset
from node.files.acknowledged import entries, problems
from node.index.rows import place as engine
from node.index.rows.copying import copy_tables
from node.index.rows.extension_tables import every_table
from node.index.rows.place import FILE_NAME
from node.journal.inspection import records
from node.receive.record import JOURNAL_FOLDER, association_end, receipt
from node.settings.core import OverwritePolicy
from tests.crash.journal import Delivery, Journal
from tests.made_once import IN_POSTGRESQL
from tests.rows import wait_until_applied


@dataclass(slots=True)
class Checker:
    """Compares journal, index, archive and volumes of one root; remembers which files it has read already.

    Files of the archive never change, so that reading each of them once, and all of them again `from_scratch`, is
    enough for a long run.
    """

    root: Path
    policy: OverwritePolicy | None = None  # without it, any version may be current
    read: dict[str, str] = field(default_factory=dict)  # path to digest

    def problems(self, journal: Journal, until: float = float("inf")) -> list[str]:
        """What is wrong with a node that listens and has not received anything yet since its start."""
        wait_until_applied(self.root)
        with closing(opened(self.root)) as index:
            return [
                *damage(index),
                *_alarms(index),
                *self._instances(index, journal, until),
                *self.ledger(index, journal, until),
                *self._strays(index),
                *_unowed(index),
                *self.volumes(index),
            ]

    def unsettled(self) -> list[str]:
        """What is wrong with a node that had time to convert everything."""
        wait_until_applied(self.root)
        with closing(opened(self.root)) as index:
            states = index.execute("SELECT series_instance_uid, state, error FROM v_series WHERE state != 'converted'")
            found = [f"series {row['series_instance_uid']} is {row['state']}: {row['error']}" for row in states]
            unused = index.execute(
                "SELECT i.sop_instance_uid FROM v_images i JOIN v_series s USING (series_instance_uid) "
                "WHERE NOT EXISTS (SELECT 1 FROM v_sources x WHERE x.sop_instance_uid = i.sop_instance_uid "
                "  AND x.sha256 = i.sha256 AND x.revision = s.revision) "
                "AND NOT EXISTS (SELECT 1 FROM v_exclusions x WHERE x.sop_instance_uid = i.sop_instance_uid "
                "  AND x.revision = s.revision)"
            )
            found += [f"{row[0]} is in no volume and is not excluded" for row in unused]
            named = {str(Path(row[0]).parent) for row in index.execute("SELECT path FROM v_volumes")}
        folders = {str(folder).rstrip("/") for folder in (self.root / "volumes").glob("*/*/*/")}
        return [*found, *(f"volumes without rows: {folder}" for folder in folders - named)]

    def from_scratch(self) -> None:
        """Forget which files were read."""
        self.read.clear()

    def _instances(self, index: sqlite3.Connection, journal: Journal, until: float) -> Iterator[str]:
        rows = {row["sop_instance_uid"]: row for row in index.execute("SELECT * FROM v_images")}
        losers: dict[tuple[str, str], str] = {
            (row["sop_instance_uid"], row["sha256"]): row["path"]
            for row in index.execute("SELECT * FROM v_conflicts WHERE path IS NOT NULL")
        }
        for uid, sha256 in journal.acknowledged(until):
            row = rows.get(uid)
            if row is not None and row["sha256"] == sha256:
                continue
            if (uid, sha256) not in losers:
                yield f"acknowledged and lost: {uid} ({'no row' if row is None else 'other bytes'})"
            elif self._digest(losers[uid, sha256], len(journal.sent[uid, sha256].data)) != sha256:
                yield f"acknowledged, lost against other bytes, and not kept: {uid}"
        for uid, row in rows.items():
            if self._digest(row["path"], row["bytes"]) != row["sha256"]:
                yield f"{uid}: the file is not what its row says"
            if (uid, row["sha256"]) not in journal.sent:
                yield f"{uid}: indexed, but was never sent like this"
            elif self.policy is not None and not self._may_be_current(row["sha256"], journal.deliveries[uid]):
                yield f"{uid}: a version is current that must not be, with overwrite_policy {self.policy}"

    def _may_be_current(self, sha256: str, deliveries: Sequence[Delivery]) -> bool:
        """Whether no other version was certainly received before all of these, or after with `replace`."""
        mine = [one for one in deliveries if one.sha256 == sha256]
        others = [one for one in deliveries if one.sha256 != sha256 and one.answered < math.inf]
        if self.policy == "replace":
            newest = max((other.began for other in others), default=-math.inf)
            return any(one.answered >= newest for one in mine)
        oldest = min((other.answered for other in others), default=math.inf)
        return any(one.began <= oldest for one in mine)

    def ledger(self, index: sqlite3.Connection, journal: Journal, until: float = float("inf")) -> Iterator[str]:
        """The ledger lists everything that was acknowledged and is not in the journal any more."""
        listed = {one.sop_instance_uid for _, some in entries(self.root) for one in some}
        unlisted = {uid for uid, _ in journal.acknowledged(until)} - listed
        if unlisted:
            unlisted.difference_update(self._in_journal())
        yield from (f"acknowledged, and neither in the ledger nor in the journal: {uid}" for uid in sorted(unlisted))
        yield from (f"damaged ledger: {path.name}: {problem}" for path, problem in problems(self.root))
        lost = index.execute("SELECT sop_instance_uid FROM v_lost_instances")
        yield from (f"called lost, and was not: {row[0]}" for row in lost)

    def _in_journal(self) -> Iterator[str]:
        for record in records(self.root / JOURNAL_FOLDER):
            facts = receipt(record.facts)
            if facts is None:
                assert association_end(record.facts) is not None
                continue
            file = BytesIO(record.payload) if record.payload else self.root / facts.key
            with suppress(FileNotFoundError):  # that of a copy goes once it is known as one
                yield dcmread(file, specific_tags=["SOPInstanceUID"], stop_before_pixels=True).SOPInstanceUID

    def _strays(self, index: sqlite3.Connection) -> Iterator[str]:
        named = Counter(row[0] for row in index.execute("SELECT path FROM v_images"))
        named.update(row[0] for row in index.execute("SELECT DISTINCT path FROM v_conflicts WHERE path IS NOT NULL"))
        yield from (f"two rows name {path}" for path, count in named.items() if count > 1)
        for path in self.root.glob("objects/*/*"):
            if str(path) not in named:
                yield f"a file of the archive has no row: {path.name}"
        for path in self.root.glob("incoming/*.*"):  # but the marker of the folder
            yield f"half received, and still there: {path.name}"

    def volumes(self, index: sqlite3.Connection) -> Iterator[str]:
        """What is wrong with the files of current volumes."""
        for row in index.execute("SELECT path, bytes, sha256 FROM v_volumes WHERE NOT superseded"):
            if self._digest(row["path"], row["bytes"]) != row["sha256"]:
                yield f"a volume is not what its row says: {row['path']}"

    def _digest(self, path: str, length: int) -> str:
        """SHA-256 of the last `length` bytes of a file; empty when it is not there or is shorter."""
        if path not in self.read:
            try:
                content = Path(path).read_bytes()
            except OSError:
                return ""
            self.read[path] = hashlib.sha256(content[len(content) - length :]).hexdigest()
        return self.read[path]


def digest_of(path: Path) -> str:
    """Return the SHA-256 of the data set of a file; empty without a file."""
    try:
        return hashlib.sha256(path.read_bytes()[data_set_offset(path) :]).hexdigest()
    except FileNotFoundError:
        return ""


def opened(root: Path) -> sqlite3.Connection:
    """The index as a file of SQLite; of one in PostgreSQL, a copy that is gone when the connection is closed."""
    path = root / FILE_NAME
    if IN_POSTGRESQL:
        copy_tables(engine.place_of(root, None), path, every_table())
        with closing(sqlite3.connect(path)) as copy:
            copy.execute("PRAGMA journal_mode = DELETE")
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
    connection.row_factory = sqlite3.Row
    if IN_POSTGRESQL:
        connection.execute("SELECT 1 FROM about").fetchone()
        path.unlink()
    return connection


def damage(index: sqlite3.Connection) -> Iterator[str]:
    found: list[Any] = index.execute("PRAGMA quick_check").fetchall()
    yield from (f"index: {row[0]}" for row in found if row[0] != "ok")


def _alarms(index: sqlite3.Connection) -> Iterator[str]:
    """What the node itself says was lost, without parts whose record, and so whose answer, never followed."""
    found = index.execute(
        "SELECT kind, detail FROM v_events WHERE kind IN ('journal-damaged', 'instance-set-aside') "
        "AND detail NOT LIKE 'received, and in no record of the journal%'"
    )
    yield from (f"{row['kind']}: {row['detail']}" for row in found)


def _unowed(index: sqlite3.Connection) -> Iterator[str]:
    """Series that no worker would ever take up, although they hold instances."""
    forgotten = index.execute(
        "SELECT series_instance_uid, state FROM v_series WHERE state = 'receiving' AND due_at IS NULL "
        "OR state IN ('refused', 'failed', 'not-an-image')"
    )
    yield from (f"series {row[0]} is {row[1]}, and nothing is owed to it" for row in forgotten)
