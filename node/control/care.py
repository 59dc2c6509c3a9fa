"""Care of a root while no node serves it: compare, rebuild or copy its index, move its archive, empty its journal."""

import datetime as dt
import json
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from node.archive.root import require_folders
from node.control.repository import Repository
from node.control.root import REBUILDING_FILE, is_held, locked_root
from node.errors import VoxelnodeError, counted
from node.files.acknowledged import problems as ledger_problems
from node.files.durable import make_folder, sync_folder, write_durably
from node.index.reading import reading
from node.index.rows.backend import IndexUnusable, Salvaged, backend_at
from node.index.rows.place import Place, exists, newer_schema, place_of, require_there
from node.journal.inspection import MARK_FILE, inspect, segment_files
from node.lifecycle.fsck import Finding, examine, require_mounted
from node.lifecycle.repair import repair_all
from node.receive.accounting import Replayed
from node.receive.record import JOURNAL_FOLDER
from node.receive.recovery import Recovered
from node.registry import store_kind
from node.settings.model import Settings


def check_repository(settings: Settings, *, digests: bool, repair: bool, force: bool = False) -> list[Finding]:
    """Compare the index, archive and volumes of a root; see `node.lifecycle.fsck`.

    `force`: repair although so many files are missing that the archive may not be mounted.

    Raises VoxelnodeError: repair was requested without `force`, and so many files are missing; nothing was changed.
    Raises FolderAway: a folder of the root may not be mounted.
    Raises RootInUse: repair was requested, but another process holds the lock of the root.
    Raises IndexUnusable: the index does not exist or cannot be read.
    """
    root = settings.storage.root.absolute()
    require_folders(root)
    held = root.is_dir() and is_held(root)
    kind = store_kind(settings)
    with reading(root, settings.index.url) as index:
        hosts = index.hosts.living() if settings.index.url is not None else []
        others = [host["name"] for host in hosts if host["name"] != settings.cluster.name]
        serving = held or bool(others)
        objects = partial(kind.findings, settings, index, digests=digests, serving=serving) if kind else None
        findings = list(
            examine(
                root,
                index,
                digests=digests,
                serving=serving,
                url=settings.index.url,
                objects=objects,
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
        return repair_all(findings, fates, repository.archive, repository.index, repository.ingest.quiet_seconds, now)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A new index: where the previous one is, and what came from it, from the journal and from the files.

    `previous_index` is a file, or the name of a schema in the database.
    `lost`: how many instances were acknowledged and are not here, now or before; `ledger_damage`: what is wrong with
    segments of the ledger of what was acknowledged, by which it is known.
    `taken_back` are the names of files that were in quarantine and are the only ones of their instances; `unread` the
    keys of files that cannot be read now: they stay where they are, and the index lacks them.
    """

    previous_index: Path | str | None
    salvaged: Salvaged
    replayed: Replayed
    recovered: Recovered
    taken_back: list[str]
    unread: list[str]
    lost: int
    ledger_damage: list[str]


def rebuild_index(settings: Settings) -> Rebuilt:
    """Set the index aside and build a new one from the files of the archive, the journal, and what can be read of it.

    If the process dies, no node starts on the root until this was done again.

    Raises RootInUse if a node or an import holds the lock, IndexUnusable if the index is of a newer version.
    """
    root = settings.storage.root.absolute()
    place = place_of(root, settings.index.url)
    make_folder(root)
    with locked_root(root):
        if not (root / REBUILDING_FILE).exists() and exists(place) and (newer := newer_schema(place)) is not None:
            raise IndexUnusable(f"{newer}. A rebuild by this version would lose what only the newer version has")
        name = _set_aside(root, place)
    previous = root / name if name is not None and isinstance(place, Path) else name
    with ExitStack() as opened:
        old = opened.enter_context(backend_at(place).read_aside(place, name)) if name is not None else None
        repository = opened.enter_context(Repository(settings, new_index=True, previous=old))
        (root / REBUILDING_FILE).unlink()
        sync_folder(root)
        salvaged = old.salvaged if old is not None else Salvaged()
        replayed, recovered, taken_back = repository.replayed, repository.recovered, repository.taken_back
        damage = [f"{path.relative_to(root)} {problem}" for path, problem in ledger_problems(root)]
        unread, lost = repository.unread(), repository.index.lost.count()
        return Rebuilt(previous, salvaged, replayed, recovered, taken_back, unread, lost, damage)


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


class JournalNotEmpty(VoxelnodeError):
    """The journal holds instances that are not durable elsewhere: it cannot be removed."""


def drain_journal(settings: Settings) -> Replayed:
    """Apply everything that the journal has, make it durable in archive and index, and remove the journal.

    Raises RootInUse if a node or an import holds the root. Raises IndexUnusable if the index is damaged, or there is
    none. Raises JournalNotEmpty if some instances could not be applied, or were received meanwhile.
    """
    root = settings.storage.root.absolute()
    place = place_of(root, settings.index.url)
    require_there(place)
    with Repository(settings) as repository:
        replayed = repository.replayed
    with locked_root(root):
        folder = root / JOURNAL_FOLDER
        state = inspect(folder)
        if state.last > state.freed:
            left = counted(state.last - state.freed, "instance is", "instances are")
            raise JournalNotEmpty(
                f"{folder} is kept: {left} not durable elsewhere; see the log, check the disk, and try again"
            )
        for path in (*segment_files(folder), folder / MARK_FILE):  # without its segments a mark means nothing
            path.unlink(missing_ok=True)
        if folder.is_dir():
            sync_folder(folder)
    return replayed
