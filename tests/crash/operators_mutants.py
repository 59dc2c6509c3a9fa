"""Nodes and commands with one defence against operators taken out; `tests.crash.operators` must find every one of them.

The numbers are those of the kinds of loss that the defence is against:

1. a kept file that is damaged or gone when its instance comes again
2. an index that is older than the archive
3. a row that is wrong about a good file
4. an old conversion that ends after a newer one
5. a deletion that comes back with a new index
6. a folder that the disk did not take
7. a version that lost, and is nobody's business
8. a root at an unusual path
9. a flipped bit at rest
10. an error that passes
11. a copy that was made while the node received, and an archive that is not mounted
"""

from collections.abc import Callable, Mapping
from inspect import isfunction
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from node.api import NotUnderstood, SeriesFiles
from node.archive import filesystem, intact
from node.archive.filesystem import Archive
from node.control import care, repository
from node.conversion import series, volume_files
from node.index.rows import sqlite
from node.index.rows.records import Received
from node.index.rules.custody import salvage
from node.index.rules.intake import received
from node.index.rules.series import reopening, waits
from node.index.rules.series.claims import SeriesRepository
from node.lifecycle import fsck, repair
from node.receive import apply, recovery, stored_files


def rows_are_believed_when_instances_come_again() -> None:
    """1: known bytes are dropped without a look at the file that has them."""
    apply.compared = lambda *_: received.WHOLE


def rows_are_believed_when_files_are_adopted() -> None:
    """2: a file without a row loses against the row of its instance, whose file may be gone."""
    recovery.compared = lambda *_: received.WHOLE


def digests_of_rows_are_believed() -> None:
    """3: `fsck --hash --repair` sets every file aside that is not as its row says."""
    repair._Repair._believed = lambda *_: None  # type: ignore[method-assign]


def revisions_share_folders() -> None:
    """4: the folder of a conversion is that of its revision, not of its claim, which may end as it is published."""
    SeriesRepository.is_claimed = lambda self, claimed: True  # type: ignore[method-assign]
    real = volume_files.revision_folder
    series.revision_folder = volume_files.revision_folder = lambda claimed: real(claimed).with_name(  # type: ignore[assignment]
        str(claimed.revision)
    )


def claims_are_never_revoked() -> None:
    """4: a conversion counts although an instance that it began with was deleted meanwhile."""
    waits.revoke_claim = reopening.revoke_claim = lambda connection, series_id: None  # type: ignore[attr-defined]


def new_indexes_have_no_deletions() -> None:
    """5: a new index does not know what was still to be removed."""
    salvage.HISTORY = tuple(table for table in salvage.HISTORY if table != "tombstones")  # type: ignore[assignment]


def new_indexes_have_no_merges() -> None:
    """5: a new index does not know which patients were merged."""
    salvage._merged_patients = lambda old: []


def new_indexes_have_no_quarantine() -> None:
    """5: a new index does not know whose instances are in quarantine, so that no deletion finds them."""
    repository.record_quarantined = lambda *_: 0


def folders_are_believed_before_they_exist() -> None:
    """6: a folder is used after it could not be made."""

    def new_folder(self: Archive) -> Path:
        folders = self.folders()
        self._folder = self._objects / f"{int(folders[-1]) + 1 if folders else 0:08d}"
        self._in_folder = 0
        self._folder.mkdir(mode=0o700)
        filesystem.sync_folder(self._objects)
        return self._folder

    Archive._new_folder = new_folder  # type: ignore[method-assign]


def losers_are_believed() -> None:
    """7: known bytes of a version that lost are dropped without a look at the file that has them."""
    real = received._Batch._aside

    def aside(batch: received._Batch, instance: Received, sha256: str) -> str | None:
        flaws, batch._flaws = batch._flaws, {}
        try:
            return real(batch, instance, sha256)
        finally:
            batch._flaws = flaws

    received._Batch._aside = aside  # type: ignore[method-assign]
    received._forget_losers = lambda connection, flaws: None


def losers_are_not_compared() -> None:
    """7: `fsck` looks at current versions only."""
    fsck._losers = lambda *_, **__: iter(())


def paths_are_decoded_twice() -> None:
    """8: the index is where its path leads when it is taken for a URL."""
    real = sqlite.connect

    def connect(path: Path, **options: Any) -> Any:
        return real(Path(unquote(str(path.absolute()).partition("#")[0].partition("?")[0])), **options)

    sqlite.connect = connect


def damage_is_converted() -> None:
    """9: a conversion reads files without comparing them."""
    SeriesFiles._problem_with = lambda self, path: None  # type: ignore[method-assign]


def errors_are_damage() -> None:
    """10: what cannot be read now is taken for something that is not what was received."""
    real_problem, real_instance = intact.problem_with, recovery.stored_instance

    def problem_with(*arguments: Any) -> str | None:
        try:
            return real_problem(*arguments)
        except OSError as error:
            return f"cannot be read: {error.strerror}"

    def stored_instance(*arguments: Any) -> Any:
        try:
            return real_instance(*arguments)
        except OSError as error:
            raise NotUnderstood(str(error.strerror)) from error

    for module in (fsck, repair, stored_files, recovery):
        module.problem_with = problem_with  # type: ignore[attr-defined]
    repair.stored_instance = recovery.stored_instance = stored_instance  # type: ignore[attr-defined]


def quarantine_keeps_current_files() -> None:
    """11: a file that a copied row names stays in the copied quarantine."""
    recovery.return_from_quarantine = repair.return_from_quarantine = lambda *_: {}  # type: ignore[attr-defined]


def nobody_asks_for_the_archive() -> None:
    """11: `fsck --repair` marks every file as missing if the archive is not mounted."""
    care.require_mounted = lambda *_: None


def mutants_of(module: Mapping[str, Any]) -> dict[str, Callable[[], None]]:
    """Return the functions of a module that take a defence out, by the names of their mutants."""
    found = {name.replace("_", "-"): value for name, value in module.items() if not name.startswith("_")}
    return {
        name: value for name, value in found.items() if isfunction(value) and value.__module__ == module["__name__"]
    }


OPERATORS_MUTANTS = mutants_of({name: value for name, value in vars().items() if name != "mutants_of"})
