"""An instance that comes again: it is "already there" only if the kept file was found whole."""

import datetime as dt
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from pydicom import FileDataset

from node.archive.intact import MISSING
from node.dicom.attributes import instance_attributes
from node.errors import OutOfResources
from node.index.rows.records import Outcome, Received, StoredFile
from node.receive.recovery import recover
from node.receive.senders import quiet_seconds_of
from node.receive.stored_files import flaws_of, report_damage
from tests import make
from tests.ingest import large_instance
from tests.integration.conftest import Root, data_set_bytes, flip

Harm = Callable[[Path], None]

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def kept_file(root: Root, ds: FileDataset) -> Path:
    [row] = root.rows(f"SELECT path FROM v_images WHERE sop_instance_uid = '{ds.SOPInstanceUID}'")
    return Path(row["path"])


def require_served(root: Root, *sent: FileDataset) -> None:
    """Exactly these instances are indexed; the file that each row names has the bytes that were sent."""
    images = {row["sop_instance_uid"]: row for row in root.rows("SELECT * FROM v_images")}
    assert images.keys() == {str(ds.SOPInstanceUID) for ds in sent}
    for ds in sent:
        row = images[str(ds.SOPInstanceUID)]
        data = Path(row["path"]).read_bytes()[row["data_set_offset"] :]
        assert data == data_set_bytes(ds)
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert not row["file_missing"]
    assert len(list(root.folder.glob("objects/*/*.dcm"))) == len(sent)


HARMS = [remove, flip, cut, empty]


@pytest.mark.sample(4)
@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("instance", [lambda: make.ct_series(1)[0], large_instance], ids=["small", "large"])
def test_what_comes_again_takes_the_place_of_a_file_that_is_not_whole(
    root: Root, harm: Harm, instance: Callable[[], FileDataset]
) -> None:
    ds = instance()
    root.take(ds)
    old = kept_file(root, ds)
    harm(old)
    damaged = old.read_bytes() if old.exists() else None
    assert root.take(ds) is Outcome.STORED
    require_served(root, ds)
    [event] = root.rows("SELECT * FROM v_events WHERE kind = 'file-restored'")
    assert event["sop_instance_uid"] == ds.SOPInstanceUID
    aside = [path.read_bytes() for path in root.folder.glob("quarantine/*.dcm")]
    assert aside == ([] if damaged is None else [damaged])
    conflicts = root.rows("SELECT kind, decision FROM v_conflicts")
    assert [tuple(row.values()) for row in conflicts] == [("instance-damaged", "accepted")] * len(aside)
    assert root.take(ds) is Outcome.ALREADY_THERE
    require_served(root, ds)


def test_other_bytes_of_an_instance_whose_file_is_whole_in_quarantine_are_a_conflict_that_names_it(root: Root) -> None:
    [ds] = make.ct_series(1)
    root.take(ds)
    old = kept_file(root, ds)
    aside = old.rename(root.folder / "quarantine" / old.name)
    other = make.corrected(ds)
    assert root.take(other) is Outcome.STORED
    require_served(root, other)
    [conflict] = root.rows("SELECT kind, path, sha256 FROM v_conflicts")
    assert (conflict["kind"], Path(conflict["path"])) == ("instance-replaced", aside)
    assert conflict["sha256"] == hashlib.sha256(data_set_bytes(ds)).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("harm", [remove, flip])
@pytest.mark.parametrize("policy", ["never", "keep_both", "replace"])
def test_known_other_bytes_are_kept_again_if_their_file_is_not_whole(root: Root, harm: Harm, policy: Any) -> None:
    root.ingest.overwrite_policy = policy
    [first] = make.ct_series(1)
    second = make.corrected(first)
    root.take_all([first, second])
    [loser] = root.rows("SELECT path, sha256 FROM v_conflicts")
    harm(Path(loser["path"]))
    root.take(first if policy == "replace" else second)
    digests = {hashlib.sha256(data_set_bytes(ds)).hexdigest(): data_set_bytes(ds) for ds in (first, second)}
    kept = {
        row["sha256"]: Path(row["path"]).read_bytes()
        for query in (
            "SELECT sha256, path FROM v_images",
            "SELECT sha256, path FROM v_conflicts WHERE sha256 IS NOT NULL AND damage IS NULL",
        )
        for row in root.rows(query)
        if row["path"] is not None
    }
    assert kept.keys() == digests.keys()
    assert all(content.endswith(digests[sha256]) for sha256, content in kept.items())


def test_a_file_that_left_an_old_folder_while_the_node_was_down_is_restored(open_root: Callable[[], Root]) -> None:
    root = open_root()
    [ds] = make.ct_series(1)
    root.take(ds)
    root.ingest.applier.checkpoint()
    old = kept_file(root, ds)
    root.index.about.set("swept_folder", "00000009")
    root = open_root()
    old.unlink()
    recover(root.archive, root.index, quiet_seconds_of(60, {}), root.clock())
    assert root.take(ds) is Outcome.STORED
    require_served(root, ds)


@pytest.mark.parametrize("same", [True, False])
def test_a_file_that_cannot_be_read_is_not_damaged(root: Root, monkeypatch: pytest.MonkeyPatch, same: bool) -> None:
    """The kept file may be whole: it stays where it is, and nothing that arrived is dropped for its sake."""
    [ds] = make.ct_series(1)
    root.take(ds)
    old = kept_file(root, ds)
    with monkeypatch.context() as failing:
        fail_to_read(failing, old, PermissionError(13, "Permission denied"))
        root.take(ds if same else make.corrected(ds))
    assert old.read_bytes().endswith(data_set_bytes(ds))
    [image] = root.rows("SELECT * FROM v_images")
    assert Path(image["path"]).read_bytes().endswith(data_set_bytes(ds))
    assert not image["file_missing"]
    [conflict] = root.rows("SELECT path FROM v_conflicts")
    assert Path(conflict["path"]).exists()
    assert len({*root.folder.glob("objects/*/*"), *root.folder.glob("quarantine/*")}) == 2


def test_without_file_descriptors_the_journal_keeps_what_came_until_there_are_some(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ds] = make.ct_series(1)
    root.take(ds)
    old = kept_file(root, ds)
    with monkeypatch.context() as failing:
        fail_to_read(failing, old, OSError(24, "Too many open files"))
        with pytest.raises(OutOfResources):
            flaws_of(root.archive, root.index, [arrived_again(ds)])
    assert root.take(ds) is Outcome.ALREADY_THERE
    require_served(root, ds)


def test_a_crash_before_or_after_the_commit_loses_neither_the_new_nor_the_damaged_file(
    open_root: Callable[[], Root], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = open_root()
    [ds] = make.ct_series(1)
    root.take(ds)
    root.ingest.applier.checkpoint()
    flip(kept_file(root, ds))
    damaged = kept_file(root, ds).read_bytes()
    with monkeypatch.context() as crash:  # the commit was the last thing that happened
        crash.setattr(root.archive, "quarantine", lambda key: None)
        root.take(ds)
    for _ in range(2):
        root.index.about.set("swept_folder", "00000009")
        root = open_root()
        recover(root.archive, root.index, quiet_seconds_of(60, {}), root.clock())
        require_served(root, ds)
        [aside] = root.folder.glob("quarantine/*.dcm")
        assert aside.read_bytes() == damaged


@pytest.mark.parametrize("is_mounted", [True, False])
def test_a_file_is_not_missing_because_its_folder_is_not_mounted(root: Root, is_mounted: bool) -> None:
    [ds] = make.ct_series(1)
    root.take(ds)
    path = kept_file(root, ds)
    path.unlink()
    if not is_mounted:  # the mount point is there, and the disk is not
        (root.folder / "objects").rename(root.folder / "elsewhere")
        (root.folder / "objects").mkdir()
    with nullcontext() if is_mounted else pytest.raises(OutOfResources, match="objects was replaced"):
        assert not report_damage(root.archive, root.index, str(path.relative_to(root.folder)), MISSING, NOW)
    [row] = root.rows("SELECT file_missing FROM v_images")
    assert bool(row["file_missing"]) is is_mounted


def test_a_restored_file_is_in_the_audit_log(root: Root) -> None:
    [ds] = make.ct_series(1)
    root.take(ds)
    kept_file(root, ds).unlink()
    root.take(ds)
    lines = [json.loads(line) for line in (root.folder / "audit.jsonl").read_text().splitlines()]
    [line] = [line for line in lines if line["action"] == "U"]
    assert line["objects"][0]["sop_instance_uid"] == ds.SOPInstanceUID
    assert "is missing" in line["detail"]


def test_a_long_file_that_was_received_a_moment_ago_is_read_before_its_bytes_are_dropped(root: Root) -> None:
    ds = large_instance()
    root.take(ds)
    assert root.take(ds) is Outcome.ALREADY_THERE
    flip(kept_file(root, ds))
    assert root.take(ds) is Outcome.STORED
    require_served(root, ds)


def arrived_again(ds: FileDataset) -> Received:
    data = data_set_bytes(ds)
    syntax = str(ds.file_meta.TransferSyntaxUID)
    file = StoredFile("objects/00000009/f.dcm", "quarantine/f.dcm", len(data), "", 0, syntax, "dicom", "", "", "", NOW)
    return Received(instance_attributes(data, syntax), file, 60)


def fail_to_read(monkeypatch: pytest.MonkeyPatch, path: Path, error: OSError) -> None:
    """Let reading a file fail; opening any other one, and writing, work."""
    real = os.open

    def open_(name: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if str(name) == str(path) and not flags & (os.O_WRONLY | os.O_RDWR):
            raise error
        return real(name, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", open_)
