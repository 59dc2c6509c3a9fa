"""A folder of the root whose disk is not mounted: nothing takes an empty mount point, or another folder, for it."""

import datetime as dt
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from node.api import OutOfResources, Settings, reading
from node.archive.filesystem import Archive
from node.archive.root import MARKER, FolderAway
from node.control.care import check_repository, drain_journal, rebuild_index
from node.control.repository import Repository, open_for_import, perform_action
from node.control.root import is_held, locked_root
from node.conversion.volume_files import Housekeeping, move_folder, publish, revision_folder
from node.index.looking import looking
from node.index.rows.place import IndexUnusable
from node.lifecycle.scrub import Scrub, ScrubPass
from node.receive.accounting import odd_parts
from node.receive.ingest import Origin
from tests import make
from tests.ingest import large_instance, settings_of
from tests.integration.conftest import announced, bring, data_set_bytes
from tests.made_once import copy_root
from tests.preloaded import run
from tests.rows import read_rows, view_rows, write_rows

KEPT = ("incoming", "objects", "quarantine", "journal", "acknowledged", "volumes")


def nothing(folder: Path, other: Path) -> None:
    """Leave not even a mount point."""


def mount_point(folder: Path, other: Path) -> None:
    folder.mkdir()


def other_folder(folder: Path, other: Path) -> None:
    shutil.copytree(other / folder.name, folder)


def opened_for_import(settings: Settings) -> None:
    with open_for_import(settings):
        pass


DOORS: tuple[Callable[[Settings], object], ...] = (
    Repository,
    drain_journal,
    rebuild_index,
    opened_for_import,
    lambda settings: locked_root(settings.storage.root),
    lambda settings: perform_action(settings, "reconvert", who="somebody"),
    lambda settings: check_repository(settings, digests=False, repair=False),
    lambda settings: check_repository(settings, digests=False, repair=True, force=True),
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with something in each folder: a large instance that only the journal names, and a conflict."""
    root = tmp_path_factory.mktemp("filled") / "root"
    with Repository(settings_of(root)) as repository:
        [ds] = make.ct_series(1)
        bring(repository.ingest, ds, make.corrected(ds), *make.ct_series(3))
        (root / "volumes" / "1" / "2" / "3").mkdir(parents=True)
    return root


def content_of(root: Path) -> dict[str, bytes]:
    """What is in the folders, and the index."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*.*")
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


@pytest.mark.sample(3)
@pytest.mark.diagonal
@pytest.mark.parametrize("harm", [nothing, mount_point, other_folder])
@pytest.mark.parametrize("name", KEPT)
def test_every_door_names_the_folder_and_changes_nothing(
    filled: Path, tmp_path: Path, name: str, harm: Callable[[Path, Path], None]
) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    copy_root(filled, root)
    copy_root(filled, other)
    (root / name).rename(tmp_path / "disk")
    harm(root / name, other)
    before = content_of(root)
    for door in DOORS:
        mend = rf"run `mkdir -p \S+ && cp \S+/root-id \S+/{name}`"
        with pytest.raises(FolderAway, match=rf"/root/{name} .*if its disk is not mounted, mount it.*{mend}"):
            door(settings_of(root))
    assert content_of(root) == before
    assert not is_held(root)
    shutil.rmtree(root / name, ignore_errors=True)
    (tmp_path / "disk").rename(root / name)
    with Repository(settings_of(root)) as repository:
        assert repository.recovered.missing == 0


def test_a_folder_that_was_copied_before_all_was_there_is_named_as_a_copy(filled: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    copy_root(filled, root)
    shutil.copytree(root / "objects", tmp_path / "copy", ignore=shutil.ignore_patterns("00000001"))
    shutil.rmtree(root / "objects")
    for path in sorted((tmp_path / "copy").glob("*/*.dcm"))[1:]:
        path.unlink()
    (tmp_path / "copy").rename(root / "objects")
    with pytest.raises(FolderAway, match=r"/root/objects is a copy, and lacks 3 of 4 files .*: copy the rest from"):
        Repository(settings_of(root))


@pytest.mark.sqlite("a refused start is connected to a server until its process ends")
@pytest.mark.parametrize("name", [name for name in KEPT if name not in ("incoming", "volumes")])
def test_a_root_of_before_is_marked_once_unless_a_folder_lacks_what_it_should_have(
    filled: Path, tmp_path: Path, name: str
) -> None:
    root = tmp_path / "root"
    copy_root(filled, root)
    for marker in root.rglob(MARKER):
        marker.unlink()
    with Repository(settings_of(root)) as repository:  # as a process that was killed leaves the note of its journal
        identity = repository.journal.identity
    for marker in root.rglob(MARKER):
        marker.unlink()
    if name == "journal":
        write_rows(root, f"UPDATE about SET value = '{identity}' WHERE key = 'journal'")
    (root / name).rename(tmp_path / "disk")
    (root / name).mkdir()
    with pytest.raises(FolderAway, match=f"/root/{name} (has no|lacks)"):
        Repository(settings_of(root))
    assert not list(root.glob(f"*/{MARKER}"))
    (root / name).rmdir()
    (tmp_path / "disk").rename(root / name)
    Repository(settings_of(root)).close()
    assert {path.parent.name for path in root.glob(f"*/{MARKER}")} == set(KEPT) - {"volumes"}, "there are none yet"


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", [*KEPT, "work"])
def test_a_folder_that_goes_while_the_node_runs_stops_intake_until_it_is_back(tmp_path: Path, name: str) -> None:
    root, away = tmp_path / "root", tmp_path / "away"
    first, second, large, last = *make.ct_series(2), large_instance(), make.ct_series(1)[0]
    with Repository(settings_of(root)) as repository:
        intake = repository.archive.intake
        bring(repository.ingest, first)
        begun = repository.ingest.begin(announced(large), Origin("dicom", "MODALITY", "VOXELNODE", "127.0.0.1:1"))
        begun.take_fragment(data_set_bytes(large))
        (root / name).rename(away)
        (root / name).mkdir()
        assert str(root / name) in intake.stopped
        assert "goes on once its disk is mounted again" in str(intake.refusal())
        for refused in (second, large):
            with pytest.raises(OutOfResources, match=f"intake has stopped: .*/{name} was replaced"):
                bring(repository.ingest, refused)
        with pytest.raises(OutOfResources):
            begun.finish()
        assert not [path for path in (root / name).rglob("*") if path.is_file() and path.name != "freed.json"]
        shutil.rmtree(root / name)
        away.rename(root / name)
        assert intake.stopped is None
        bring(repository.ingest, second, large, last)
    with Repository(settings_of(root)) as repository:
        assert repository.recovered.missing == 0
    sent = {str(ds.SOPInstanceUID) for ds in (first, second, large, last)}
    assert {row["sop_instance_uid"] for row in view_rows(root, "SELECT sop_instance_uid FROM v_images")} == sent
    assert check_repository(settings_of(root), digests=True, repair=False) == []


def scrubbed(repository: Repository, number: int) -> None:
    scrub = Scrub(repository.archive, repository.index, repository.metrics, 1, repository.index.now)
    scrub._finish(ScrubPass(repository.index.now()))


def housekept(repository: Repository, number: int) -> None:
    none = dt.timedelta(0)
    Housekeeping(repository.archive, repository.index, none, none, repository.index.now).work()


WHILE_AWAY: tuple[tuple[str, Callable[[Repository, int], object]], ...] = (
    *(("quarantine", one) for one in (scrubbed, housekept)),
    ("volumes", housekept),
    *(
        (folder, lambda repository, number, action=action, values=values: repository.actions.by_name[action](
            who="somebody", **(values(repository, number))))
        for folder in ("quarantine", "objects")
        for action, values in {
            "restore-trash": lambda repository, number: {"number": number},
            "accept-conflict": lambda repository, number: {"conflict": 1, "alike": False},
            "release-quarantined": lambda repository, number: {"name": aside(repository), "replace": True},
        }.items()
    ),
)  # fmt: skip
"""A folder, and who looks for files in it while the node runs."""


def aside(repository: Repository) -> str:
    [row] = view_rows(repository.archive.root, "SELECT path FROM v_conflicts")
    return Path(row["path"]).name


@pytest.mark.sample(3)
@pytest.mark.parametrize(("name", "look"), WHILE_AWAY)
def test_what_is_not_found_while_its_folder_is_away_counts_as_there(
    tmp_path: Path, name: str, look: Callable[[Repository, int], object]
) -> None:
    root = tmp_path / "root"
    with Repository(settings_of(root)) as repository:
        [kept], [deleted] = make.ct_series(1), make.ct_series(1)
        bring(repository.ingest, kept, make.corrected(kept), deleted, make.corrected(deleted))
        act = repository.actions.by_name
        act["delete"](
            level="study", uid=str(deleted.StudyInstanceUID), study_instance_uid=None, erase=False, who="somebody"
        )
        before = rows_of_files(root)
        (root / name).rename(tmp_path / "disk")
        (root / name).mkdir()
        with pytest.raises(OutOfResources, match=f"/{name} was replaced"):
            look(repository, 1)
        assert rows_of_files(root) == before
        (root / name).rmdir()
        (tmp_path / "disk").rename(root / name)
        assert repository.archive.intake.stopped is None
        assert act["restore-trash"](number=1, who="somebody")["instances"] == 1
    assert check_repository(settings_of(root), digests=True, repair=False) == []


def rows_of_files(root: Path) -> list[list[dict[str, object]]]:
    """What the index says of the files of instances."""
    tables = "images", "conflicts", "trash", "lost_instances"
    return [read_rows(root, f"SELECT * FROM {table}") for table in tables]


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", KEPT)
def test_what_a_copied_folder_leaves_below_a_mount_is_not_it(filled: Path, tmp_path: Path, name: str) -> None:
    root, below = tmp_path / "root", tmp_path / "below"
    copy_root(filled, root)
    shutil.copytree(root / name, tmp_path / "disk")
    (root / name).rename(below)
    (tmp_path / "disk").rename(root / name)  # mounted
    Repository(settings_of(root)).close()
    (root / name).rename(tmp_path / "disk")
    below.rename(root / name)
    with pytest.raises(FolderAway, match=f"/root/{name} is what the folder was before"):
        Repository(settings_of(root))
    (root / name).rename(below)
    (tmp_path / "disk").rename(root / name)
    with Repository(settings_of(root)) as repository:
        assert repository.recovered.missing == 0


@pytest.mark.parametrize("name", KEPT)
def test_yesterday_in_a_copy_by_hard_links_stays_of_yesterday(filled: Path, tmp_path: Path, name: str) -> None:
    root, yesterday = tmp_path / "root", tmp_path / "yesterday"
    copy_root(filled, root)
    Repository(settings_of(root)).close()
    os.link(root / name / MARKER, yesterday)
    marked = yesterday.read_text()
    with Repository(settings_of(root)) as repository:
        assert list(repository._odd) == [f"{name}/"]
    assert yesterday.read_text() == marked


def test_the_folder_of_volumes_is_from_the_first_one_on_as_old_as_the_rest(tmp_path: Path) -> None:
    (made := tmp_path / "made").mkdir()
    with Repository(settings_of(tmp_path / "root")) as repository:
        move_folder(made, repository.archive.root / "volumes" / "1" / "2" / "3", repository.archive)
        assert odd_parts(repository.archive, repository.index, repository.journal) == {}


def test_a_marker_that_cannot_be_written_has_the_next_start_compare(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, real = tmp_path / "root", Path.open

    def refusing(path: Path, mode: str = "r", *others: object, **named: object) -> object:
        if (path.name, mode) == (MARKER, "r+b") and (root / "volumes" / MARKER).samefile(path):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, mode, *others, **named)  # type: ignore[call-overload]

    copy_root(filled, root)
    Repository(settings_of(root)).close()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refusing)
        with Repository(settings_of(root)) as repository:
            bring(repository.ingest, *make.ct_series(1))
        told = str(json.loads(run("status", "--json", "--root", root).stdout)["compared"])
        assert told.startswith("the markers of volumes cannot be written")
    with Repository(settings_of(root)) as repository:
        assert list(repository._odd) == ["volumes/"]


def test_a_large_instance_whose_part_is_gone_is_lost_by_its_name(filled: Path, tmp_path: Path) -> None:
    root, large = tmp_path / "root", large_instance()
    copy_root(filled, root)
    with Repository(settings_of(root)) as repository:
        repository.applier.stop()  # as if it had died before it applied the record
        incoming = repository.ingest.begin(announced(large), Origin("dicom", "MODALITY", "VOXELNODE", "127.0.0.1:1"))
        incoming.take_fragment(data_set_bytes(large))
        incoming.finish()
        [part] = root.glob("incoming/*.part")
        part.rename(tmp_path / part.name)
        repository.applier.checkpoint = lambda: None  # type: ignore[method-assign]
    with Repository(settings_of(root)) as repository:
        [lost] = repository.index.lost.of(None)
        assert (lost.sop_instance_uid, lost.series_instance_uid) == (large.SOPInstanceUID, large.SeriesInstanceUID)
        assert repository.index.lost.gaps() == []
    found = [
        row
        for row in json.loads(run("doctor", "--json", "--root", root).stdout)["findings"]
        if row["state"] == "broken"
    ]
    assert [row["found"] for row in found] == ["acknowledged, and not here: 1 instance"]
    (tmp_path / part.name).rename(part)
    (root / "incoming" / f"{'0' * 32}.receiving").write_bytes(b"half of an instance")
    with Repository(settings_of(root)):
        assert not list(root.glob("incoming/*.*"))
        assert (root / "quarantine" / f"{part.stem}.dcm").read_bytes().endswith(data_set_bytes(large))


def test_nothing_in_quarantine_is_replaced(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "root")
    key = archive.new_key()
    for content, expected in ((b"first", {b"first"}), (b"first", {b"first"}), (b"", {b"first", b""})):
        archive.write(key, content)
        archive.quarantine(key)
        assert {path.read_bytes() for path in tmp_path.glob("root/quarantine/*.dcm")} == expected
        assert archive.path(archive.quarantine_key(key)).read_bytes() == b"first"
    assert not archive.path(key).exists()


def test_the_kernel_says_what_another_file_system_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bind mounts of one disk have one `st_dev`, and no rename leads from one to the other."""
    real, root = os.rename, tmp_path / "root"

    def rename(source: Path, target: Path) -> None:
        if (root / "work" in Path(source).parents) != (root / "work" in Path(target).parents):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target)

    with Repository(settings_of(root)) as repository, repository.archive.working_folder() as folder:
        bring(repository.ingest, *make.ct_series(1))
        claimed = repository.index.series.claim_due(repository.index.now() + dt.timedelta(days=1))
        (folder / "volume.nii.gz").write_bytes(b"voxels")
        monkeypatch.setattr(os, "rename", rename)
        publish(folder, claimed, repository.archive)
    destination = root / revision_folder(claimed)
    assert (root / "volumes" / MARKER).is_file(), "before the node is opened again"
    assert (destination / "volume.nii.gz").read_bytes() == b"voxels"
    assert [path.name for path in destination.parent.iterdir()] == [destination.name]


MOVES: dict[str, Callable[[Archive, str], object]] = {
    "quarantine": lambda archive, key: archive.quarantine(key),
    "move": lambda archive, key: archive.move(key, f"quarantine/{Path(key).name}"),
    "keep part": lambda archive, key: archive.keep_part(key),
    "take in": lambda archive, key: archive.take_in(key, archive.incoming / f"{Path(key).stem}.part"),
    "keep aside": lambda archive, key: archive.keep_aside(archive.incoming / f"{Path(key).stem}.part", key),
    "sweep": lambda archive, key: archive.sweep_incoming(lambda name: None),
    "take back": lambda archive, key: archive.take_back("a.dcm"),
    "copy": lambda archive, key: archive.quarantine_copy(archive.path(key)),
}


@pytest.mark.parametrize("move", MOVES)
def test_a_copy_that_fails_leaves_the_file_where_it_was_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, move: str
) -> None:
    def full(source: Path, target: Path, **options: bool) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = Archive(tmp_path / "root")
    key = archive.new_key()
    archive.write(key, b"first")
    (archive.incoming / f"{Path(key).stem}.part").write_bytes(b"second")
    (archive.root / "quarantine" / "a.dcm").write_bytes(b"third")
    before = content_of(archive.root)
    monkeypatch.setattr(os, "rename", Mock(side_effect=OSError(errno.EXDEV, "Invalid cross-device link")))
    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises((OSError, OutOfResources)):
        MOVES[move](archive, key)
    assert content_of(archive.root) == before


@pytest.mark.parametrize("text", [b"CREATE TABLE images", b"CREATE VIEW v_series", b"CREATE INDEX"])
@pytest.mark.sqlite("damages the file")
def test_a_schema_that_is_no_text_ends_in_a_sentence_with_the_remedy(filled: Path, tmp_path: Path, text: bytes) -> None:
    root = tmp_path / "root"
    copy_root(filled, root)
    content = (root / "index.sqlite").read_bytes()
    (root / "index.sqlite").write_bytes(content.replace(text, text[:3] + b"\xff\xfe" + text[5:]))
    for reader in (
        lambda: looking(root / "index.sqlite"),
        lambda: reading(root),
        lambda: Repository(settings_of(root)),
    ):
        with pytest.raises(IndexUnusable, match="voxelnode db rebuild"), reader():
            pass
    rebuild_index(settings_of(root))
    assert len(view_rows(root, "SELECT 1 FROM v_images")) == 4
