"""Folders of a root on another disk: a link, or a mount, which is what one makes when a disk is full."""

import datetime as dt
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from node.archive import filesystem
from node.archive.filesystem import Archive
from node.archive.intake import Intake
from node.control.repository import Repository
from node.conversion.pipeline import convert
from node.conversion.series import write_volumes
from node.conversion.volume_files import revision_folder
from node.settings.model import Settings
from node.writers.options import WriteOptions
from tests.crash.small_disk import another_disk
from tests.integration.conftest import bring
from tests.make import ct_series
from tests.rows import view_rows, write_rows


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Path]:
    """A folder on another disk than those of a test."""
    with ExitStack() as stack:
        yield another_disk(tmp_path, stack)


def linked(root: Path, name: str, other: Path) -> None:
    """Put a folder of a root on the other disk."""
    root.mkdir(exist_ok=True)
    (other / name).mkdir()
    (root / name).symlink_to(other / name)


def test_every_disk_that_holds_files_of_a_checkpoint_is_synced(
    tmp_path: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked(tmp_path / "root", "objects", other)
    archive = Archive(tmp_path / "root")
    keys = [archive.new_key() for _ in range(filesystem.MAX_SINGLE_SYNCS + 1)]
    for key in [*keys, "quarantine/1.dcm"]:
        archive.write(key, b"")
    synced: list[int] = []
    monkeypatch.setattr(filesystem, "sync_file_system", lambda folder: synced.append(folder.stat().st_dev))
    archive.sync([*keys, "quarantine/1.dcm"])
    assert sorted(synced) == sorted([other.stat().st_dev, tmp_path.stat().st_dev])


def test_files_are_moved_between_disks(tmp_path: Path, other: Path) -> None:
    linked(tmp_path / "root", "objects", other)
    archive = Archive(tmp_path / "root")
    key = archive.new_key()
    part = archive.open_part(key)
    part.write(b"large")
    part.finish()
    assert archive.keep_part(key)
    assert not archive.keep_part(key)  # a record that is applied again
    archive.sync_parts()
    assert archive.path(key).read_bytes() == b"large"
    assert not list(archive.incoming.iterdir())
    archive.quarantine(key)
    back = archive.take_back(Path(key).name)
    assert archive.path(back).read_bytes() == b"large"
    assert [path.name for path in archive.path(back).parent.iterdir()] == [Path(back).name]


def test_a_revision_is_published_on_another_disk(settings: Settings, other: Path) -> None:
    root = settings.storage.root
    linked(root, "volumes", other)
    with Repository(settings) as repository:
        bring(repository.ingest, *ct_series(3))
        claimed = repository.index.series.claim_due(repository.index.now() + dt.timedelta(days=1))
        write_volumes(claimed, repository.archive, repository.index, WriteOptions(), convert)
    destination = root / revision_folder(claimed)
    assert (destination / "volume.nii.gz").stat().st_dev != root.stat().st_dev
    assert [path.name for path in destination.parent.iterdir()] == [destination.name]
    assert [path.name for path in (root / "work").iterdir()] == [f"publishing-{claimed.claim}"]


def test_the_fullest_disk_decides_about_room(tmp_path: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linked(tmp_path, "objects", other)
    intake = Intake(tmp_path, reserve_bytes=10 << 20)
    intake.watch([tmp_path])
    real, full = os.statvfs(tmp_path), os.statvfs(other)
    assert (real.f_blocks, real.f_files) != (full.f_blocks, full.f_files), "the test tells them apart by their sizes"
    monkeypatch.setattr("node.archive.space.free_bytes", lambda disk: 1 if disk.f_blocks == full.f_blocks else 1 << 40)
    assert str(tmp_path / "objects") in (intake.refusal() or "")
    assert intake.free_bytes() == 1


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_file_without_its_bytes_is_found_by_the_start_after_a_crash(settings: Settings, *, is_killed: bool) -> None:
    with Repository(settings) as repository:
        bring(repository.ingest, *ct_series(3))
    root = settings.storage.root
    if is_killed:
        write_rows(root, "UPDATE about SET value = 'no' WHERE key = 'closed'")
    os.truncate(view_rows(root, "SELECT path FROM v_images")[1]["path"], 0)
    with Repository(settings):
        pass
    missing = [bool(row["file_missing"]) for row in view_rows(root, "SELECT file_missing FROM v_images")]
    assert missing == [False, is_killed, False]
