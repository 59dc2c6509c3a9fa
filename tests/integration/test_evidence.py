"""What fsck, a start and a rebuild conclude from a file: no row's word and no passing error sets a good one aside."""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from pydicom import FileDataset

from node.control.care import check_repository, rebuild_index
from node.control.repository import Repository
from node.lifecycle.fsck import Finding
from node.receive.recovery import recover
from node.settings.model import Settings
from tests import make
from tests.integration.conftest import Root, bring, data_set_bytes, flip
from tests.integration.test_fsck import convert_all, objects
from tests.rows import view_rows, write_rows


@pytest.fixture
def sent(settings: Settings) -> list[FileDataset]:
    """Three instances of one series that the root has."""
    series = make.ct_series(3)
    take(settings, *series)
    return series


def take(settings: Settings, *instances: FileDataset, convert: bool = False) -> None:
    with Repository(settings) as store:
        bring(store.ingest, *instances)
        if convert:
            convert_all(store)


def row_of(settings: Settings, ds: FileDataset) -> dict[str, Any]:
    [row] = view_rows(
        settings.storage.root, "SELECT * FROM v_images WHERE sop_instance_uid = :uid", uid=ds.SOPInstanceUID
    )
    return row


def repaired(settings: Settings) -> list[Finding]:
    return check_repository(settings, digests=True, repair=True)


def events(settings: Settings) -> list[str]:
    rows = view_rows(
        settings.storage.root, "SELECT kind FROM v_events WHERE kind LIKE 'file-%' OR kind LIKE 'digest-%'"
    )
    return [row["kind"] for row in rows]


@pytest.mark.parametrize("convert", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_whole_file_is_not_set_aside_for_the_word_of_its_row(settings: Settings, convert: bool) -> None:
    sent = make.ct_series(3)
    take(settings, *sent, convert=convert)
    wrong = {"sha256": "0" * 64, "uid": str(sent[1].SOPInstanceUID)}
    write_rows(settings.storage.root, "UPDATE images SET sha256 = :sha256 WHERE sop_instance_uid = :uid", **wrong)
    [finding] = repaired(settings)
    assert (finding.kind, finding.repair) == ("file-altered", "kept: the digest of its row was corrected")
    row = row_of(settings, sent[1])
    assert row["sha256"] == hashlib.sha256(data_set_bytes(sent[1])).hexdigest()
    assert Path(row["path"]).read_bytes().endswith(data_set_bytes(sent[1]))
    assert events(settings) == ["digest-corrected"]
    assert list((settings.storage.root / "quarantine").glob("*.*")) == []
    assert repaired(settings) == []


@pytest.mark.slow
def test_what_was_believed_wrongly_gives_way_to_the_instance_when_it_comes_again(settings: Settings) -> None:
    [ds] = make.ct_series(1)
    take(settings, ds)
    flip(objects(settings.storage.root)[0])
    assert [finding.kind for finding in repaired(settings)] == ["file-altered"]
    take(settings, ds)
    assert Path(row_of(settings, ds)["path"]).read_bytes().endswith(data_set_bytes(ds))
    assert len(list((settings.storage.root / "quarantine").glob("*.*"))) == 1
    assert repaired(settings) == []


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["cut", "no DICOM", "another instance"])
def test_a_file_that_is_no_whole_instance_is_set_aside_and_its_study_takes_it_along_when_it_is_deleted(
    settings: Settings, harm: str
) -> None:
    first, second = make.ct_series(2)
    take(settings, first, second)
    path = Path(row_of(settings, second)["path"])
    content = path.read_bytes()
    if harm == "cut":
        path.write_bytes(content[:-1])
    elif harm == "no DICOM":
        path.write_bytes(bytes(len(content)))
    else:
        uid = str(second.SOPInstanceUID).encode()
        path.write_bytes(content.replace(uid, uid[:-1] + (b"1" if uid[-1:] != b"1" else b"2")))
    [finding] = repaired(settings)
    assert finding.repair == "to quarantine, marked as missing"
    assert events(settings) == ["file-damaged"]
    assert repaired(settings) == []
    with Repository(settings) as store:
        store.actions.by_name["delete"](
            level="study", uid=str(first.StudyInstanceUID), study_instance_uid=None, who="someone", erase=True
        )
    assert not list(settings.storage.root.glob("*/*.dcm")) + objects(settings.storage.root)


def fail_to_read(monkeypatch: pytest.MonkeyPatch, path: str, number: int) -> None:
    """Let every way of opening one file fail."""
    real_open, real_io_open = os.open, Path.open

    def open_(name: Any, *arguments: Any, **options: Any) -> int:
        if str(name) == path:
            raise OSError(number, os.strerror(number), path)
        return real_open(name, *arguments, **options)

    def path_open(self: Path, *arguments: Any, **options: Any) -> Any:
        if str(self) == path:
            raise OSError(number, os.strerror(number), path)
        return real_io_open(self, *arguments, **options)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(Path, "open", path_open)


PASSING = [errno.EACCES, errno.EIO]


@pytest.mark.slow
@pytest.mark.parametrize("number", PASSING)
def test_a_rebuild_with_a_file_that_cannot_be_read_says_so_and_the_next_start_adds_it(
    settings: Settings, sent: list[FileDataset], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with Repository(settings) as store:  # nothing is left in the journal
        store.applier.checkpoint()
    before = row_of(settings, sent[1])
    with monkeypatch.context() as failing:
        fail_to_read(failing, before["path"], number)
        rebuilt = rebuild_index(settings)
    assert rebuilt.unread == [str(Path(before["path"]).relative_to(settings.storage.root))]
    assert (rebuilt.recovered.adopted, rebuilt.recovered.quarantined) == (2, 0)
    assert Path(before["path"]).exists()
    with Repository(settings):
        pass
    assert row_of(settings, sent[1])["sha256"] == before["sha256"]
    assert repaired(settings) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", PASSING)
def test_fsck_tells_what_it_could_not_read_and_does_nothing_to_it(
    settings: Settings, sent: list[FileDataset], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = row_of(settings, sent[1])["path"]
    with monkeypatch.context() as failing:
        fail_to_read(failing, path, number)
        [finding] = repaired(settings)
    assert (finding.kind, finding.repair) == ("file-unreadable", None)
    assert Path(path).exists()
    assert events(settings) == []
    assert repaired(settings) == []


def test_a_folder_that_cannot_be_listed_is_not_empty(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    root.take_all(make.ct_series(3))
    real = os.listdir

    def listdir(path: Any = ".") -> list[str]:
        if "objects/" in os.path.realpath(path):
            raise OSError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    with monkeypatch.context() as failing:
        failing.setattr(os, "listdir", listdir)
        with pytest.raises(OSError, match="Permission denied"):
            recover(root.archive, root.index, root.ingest.quiet_seconds, root.clock())
    assert recover(root.archive, root.index, root.ingest.quiet_seconds, root.clock()).missing == 0
    assert root.rows("SELECT 1 FROM v_events WHERE kind = 'file-missing'") == []


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["gone", "flipped"])
def test_a_version_that_is_not_current_is_compared_as_well(settings: Settings, harm: str) -> None:
    settings = Settings(storage=settings.storage.model_copy(update={"overwrite_policy": "keep_both"}))
    [ds] = make.ct_series(1)
    other = make.corrected(ds)
    take(settings, ds, other)
    [loser] = view_rows(settings.storage.root, "SELECT path FROM v_conflicts")
    Path(loser["path"]).unlink() if harm == "gone" else flip(Path(loser["path"]))
    [finding] = repaired(settings)
    assert (finding.kind, finding.repair) == (f"loser-{'missing' if harm == 'gone' else 'altered'}", "marked")
    assert [finding.kind for finding in repaired(settings)] == ["instance-lost"]
    take(settings, other)
    assert repaired(settings) == []
    kept = [path for path in objects(settings.storage.root) if path.read_bytes().endswith(data_set_bytes(other))]
    assert len(kept) == 1


def test_a_damaged_file_that_was_marked_is_not_taken_for_one_that_is_back(settings: Settings) -> None:
    [ds] = make.ct_series(1)
    take(settings, ds)
    flip(objects(settings.storage.root)[0])
    with Repository(settings) as store:
        key = str(objects(settings.storage.root)[0].relative_to(settings.storage.root))
        store.index.instances.mark_files([key], missing=True, now=store.ingest.now(), damage="test")
    write_rows(settings.storage.root, "DELETE FROM about WHERE key = 'checkpoint'")
    with Repository(settings):
        pass
    assert row_of(settings, ds)["file_missing"]
