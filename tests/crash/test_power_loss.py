"""Whenever the power goes, what was acknowledged is there: only what was synced is kept, at every sync of a session."""

import re
from pathlib import Path

import pytest

from node.archive import filesystem
from node.journal import journal as journal_module
from node.journal import segment
from node.receive import data_set
from node.receive.accounting import Checkpoint
from node.receive.apply import Applier
from tests.crash.disk import Disk
from tests.crash.mutants import MUTANTS
from tests.crash.power import Session, session
from tests.crash.small_journal import SINGLE_SYNCS, VARIABLE, make_small

pytestmark = pytest.mark.timeout(900)

SHORT = 12
"""Power cuts of the short form, which the gate has time for."""


@pytest.fixture(autouse=True)
def _small_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start after a power cut has the small journal, too."""
    for owner, name in (
        (journal_module.Journal, "__init__"),
        (journal_module, "GROW_BYTES"),
        (segment, "GROW_BYTES"),
        (data_set, "LARGE_BYTES"),
        (filesystem, "MAX_SINGLE_SYNCS"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # undone after the test
    monkeypatch.setenv(VARIABLE, SINGLE_SYNCS)
    make_small()


@pytest.mark.slow
@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("has_two_disks", [True, False])
def test_what_was_acknowledged_survives_power_cuts_from_the_first_sync_to_the_last(
    tmp_path: Path, disk: Disk, *, has_two_disks: bool
) -> None:
    seen = session(
        disk, is_short=True, single_syncs="0" if has_two_disks else SINGLE_SYNCS, has_two_disks=has_two_disks
    )
    for number in {*seen.cuts[:: len(seen.cuts) // SHORT], seen.cuts[-1]}:
        assert seen.problems(number, tmp_path / f"after-{number}") == [], f"power cut before sync {number}"


@pytest.mark.long
@pytest.mark.parametrize("single_syncs", [SINGLE_SYNCS, "0"])
def test_what_was_acknowledged_survives_a_power_cut_at_any_sync(tmp_path: Path, disk: Disk, single_syncs: str) -> None:
    """Also where checkpoints sync the whole file system, as they do when there are many files."""
    seen = session(disk, single_syncs=single_syncs)
    assert sum(not sync.is_folder for sync in seen.syncs) > len(seen.journal.sent)
    for number in seen.cuts:
        assert seen.problems(number, tmp_path / f"after-{number}") == [], f"power cut before sync {number}"


@pytest.mark.long
@pytest.mark.parametrize(
    ("mutant", "found"),
    [
        ("no-journal-sync", "acknowledged and lost"),
        ("no-part-sync", "the file is not what its row says|instance-set-aside"),
        ("no-part-folder-sync", "acknowledged and lost|instance-set-aside"),
        ("no-file-sync", "the file is not what its row says"),
        ("no-folder-sync", "acknowledged and lost|the file is not what its row says"),
        ("no-new-folder-sync", "acknowledged and lost|the file is not what its row says|does not start"),
        ("no-root-sync", "acknowledged and lost"),
        ("no-new-segment-sync", "acknowledged and lost"),
        ("no-commit-sync", "acknowledged and lost|not kept|index.sqlite is missing, but there are instances"),
        ("no-archive-sync", "acknowledged and lost|the file is not what its row says"),
        ("mark-before-sync", "acknowledged and lost|the file is not what its row says"),
        ("reuse-before-checkpoint", "acknowledged and lost|the file is not what its row says"),
        ("old-name-goes-first", "acknowledged and lost|instance-set-aside"),
        ("answer-before-append", "acknowledged and lost"),
        ("applied-before-rows", "acknowledged and lost"),
        ("no-volume-sync", "a volume is not what its row says"),
        ("no-volume-folder-sync", "a volume is not what its row says"),
    ],
)
def test_a_node_that_leaves_out_a_sync_is_found_out(tmp_path: Path, disk: Disk, mutant: str, found: str) -> None:
    seen = session(disk, mutant, converts="volume" in mutant)
    require_found(seen, tmp_path, mutant, found)


@pytest.mark.long
def test_a_node_that_syncs_one_disk_of_two_is_found_out(tmp_path: Path, disk: Disk) -> None:
    seen = session(disk, "no-sync-of-other-disks", converts=False, single_syncs="0", has_two_disks=True)
    require_found(seen, tmp_path, "no-sync-of-other-disks", "acknowledged and lost|the file is not what its row says")


@pytest.mark.long
@pytest.mark.parametrize(
    ("mutant", "found"),
    [("no-replay", "acknowledged and lost"), ("no-comparison", "the file is not what its row says|not kept")],
)
def test_a_start_that_leaves_out_a_step_is_found_out(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, mutant: str, found: str
) -> None:
    seen = session(disk)
    for owner, name in ((Applier, "replay"), (Checkpoint, "_restore")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # undone after the test
    MUTANTS[mutant]()
    require_found(seen, tmp_path, mutant, found)


def require_found(seen: Session, place: Path, mutant: str, found: str) -> None:
    problems: list[str] = []
    for number in reversed(seen.cuts):
        problems += seen.problems(number, place / f"after-{number}")
        if any(re.search(found, problem) for problem in problems):
            return
    pytest.fail(f"{mutant} was not found out: {problems}")
