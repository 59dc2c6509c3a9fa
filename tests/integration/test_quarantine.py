"""What is in quarantine can be looked at, released and purged, and nothing is lost by it."""

import hashlib
import json
from pathlib import Path

import pytest
from pydicom import FileDataset

from node.api import Audit, reading
from node.files.acknowledged import write_offs
from node.index.rows.about_keys import AppliedPosition
from node.receive.custody import NotInQuarantine, NotReleased, Quarantine, QuarantinedFile, examined, quarantined
from tests import make
from tests.integration.conftest import Root, data_set_bytes
from tests.rows import write_rows


def two_versions() -> tuple[FileDataset, FileDataset]:
    [first] = make.ct_series(1)
    return first, make.corrected(first)


def files(root: Root) -> list[QuarantinedFile]:
    with reading(root.folder) as index:
        return quarantined(root.folder, index)


def quarantine(root: Root) -> Quarantine:
    return Quarantine(root.ingest, Audit(root.folder, "VOXELNODE"))


def current(root: Root) -> bytes:
    [row] = root.rows("SELECT path, sha256, data_set_offset FROM v_images")
    data = Path(row["path"]).read_bytes()[row["data_set_offset"] :]
    assert hashlib.sha256(data).hexdigest() == row["sha256"]
    return data


def events(root: Root) -> list[str]:
    return [row["kind"] for row in root.rows("SELECT kind FROM v_events WHERE kind LIKE 'quarantine-%'")]


def test_each_file_is_listed_with_its_reason_and_compared_with_the_current_instance(root: Root) -> None:
    first, second = two_versions()
    root.take_all([first, second])
    (root.folder / "quarantine" / "stray.dcm").write_bytes(b"no DICOM")
    loser, stray = sorted(files(root), key=lambda file: file.name == "stray.dcm")
    assert (loser.reason, loser.sop_instance_uid) == ("instance-bytes", first.SOPInstanceUID)
    assert (stray.reason, stray.sop_instance_uid) == ("file-unknown", None)
    with reading(root.folder) as index:
        found = examined(root.folder, index, loser.name)
        assert found.sha256 == hashlib.sha256(data_set_bytes(second)).hexdigest()
        assert found.current_sha256 == hashlib.sha256(data_set_bytes(first)).hexdigest()
        assert found.problem is None
        assert examined(root.folder, index, "stray.dcm").problem is not None
        for name in ("missing.dcm", "../index.sqlite", ""):
            with pytest.raises(NotInQuarantine):
                examined(root.folder, index, name)


@pytest.mark.parametrize("series", [None, "1.2.3.4"], ids=["of its series", "of another series"])
def test_another_version_is_made_current_only_if_asked_and_the_first_is_kept(root: Root, series: str | None) -> None:
    first, second = two_versions()
    second.SeriesInstanceUID = series or second.SeriesInstanceUID
    root.take_all([first, second])
    [loser] = files(root)
    with pytest.raises(NotReleased, match="another version"):
        quarantine(root).release(loser.name, "someone")
    assert (files(root), current(root)) == ([loser], data_set_bytes(first))
    quarantine(root).release(loser.name, "someone", replace=True)
    assert current(root) == data_set_bytes(second)
    [row] = root.rows("SELECT series_instance_uid FROM v_series")
    assert row["series_instance_uid"] == second.SeriesInstanceUID
    [kept] = files(root)
    assert (root.folder / "quarantine" / kept.name).read_bytes().endswith(data_set_bytes(first))
    assert events(root) == ["quarantine-released"]
    quarantine(root).release(kept.name, "someone", replace=True)
    assert current(root) == data_set_bytes(first)


def test_a_version_of_another_series_waits_for_a_decision_if_the_current_file_is_gone(root: Root) -> None:
    first, second = two_versions()
    second.SeriesInstanceUID = "1.2.3.4"
    root.take_all([first, second])
    [row] = root.rows("SELECT path FROM v_images")
    Path(row["path"]).unlink()
    [loser] = files(root)
    with pytest.raises(NotReleased, match="another series"):
        quarantine(root).release(loser.name, "someone")
    assert files(root) == [loser]


@pytest.mark.parametrize("state", ["deleted", "gone"])
def test_the_only_copy_is_released_into_the_archive(root: Root, state: str) -> None:
    [ds] = make.ct_series(1)
    root.take(ds)
    [row] = root.rows("SELECT path FROM v_images")
    path = Path(row["path"])
    path.rename(root.folder / "quarantine" / path.name)
    if state == "deleted":
        plan = root.index.deletions.plan("instance", str(ds.SOPInstanceUID))
        root.index.deletions.order(plan, "test", root.clock())
    assert quarantine(root).release(path.name, "someone")["sop_instance_uid"] == ds.SOPInstanceUID
    assert current(root) == data_set_bytes(ds)
    assert files(root) == []


def test_what_is_no_dicom_is_not_released_and_can_be_purged(root: Root) -> None:
    stray = root.folder / "quarantine" / "stray.dcm"
    stray.write_bytes(b"no DICOM")
    with pytest.raises(NotReleased):
        quarantine(root).release("stray.dcm", "someone")
    quarantine(root).purge("stray.dcm", "someone")
    assert not stray.exists()
    assert events(root) == ["quarantine-purged"]
    lines = [json.loads(line) for line in (root.folder / "audit.jsonl").read_text().splitlines()]
    ordered = [line for line in lines if line["action"] == "D"]
    assert [line["detail"] for line in ordered] == ["ordered: purge from quarantine", "done: purge from quarantine"]
    with pytest.raises(NotInQuarantine):
        quarantine(root).purge("stray.dcm", "someone")


@pytest.mark.parametrize("is_current", [True, False])
def test_a_purged_version_is_owed_no_more_unless_it_is_current(root: Root, is_current: bool) -> None:
    first, second = two_versions()
    root.take_all([first, second])
    [loser] = files(root)
    if is_current:
        write_rows(root.folder, "UPDATE images SET sha256 = (SELECT sha256 FROM conflicts)")
    quarantine(root).purge(loser.name, "someone")
    assert bool(write_offs(root.folder)) is not is_current


def test_a_purged_version_is_kept_again_when_it_comes_again(root: Root) -> None:
    first, second = two_versions()
    root.take_all([first, second])
    [loser] = files(root)
    quarantine(root).purge(loser.name, "someone")
    assert files(root) == []
    root.take(second)
    [again] = files(root)
    assert (root.folder / "quarantine" / again.name).read_bytes().endswith(data_set_bytes(second))


def test_an_instance_that_was_set_aside_from_the_journal_has_its_reason(root: Root) -> None:
    root.archive.path("quarantine/x.dcm").write_bytes(b"")
    applied = AppliedPosition("a journal", 0)
    root.index.instances.set_aside("its record cannot be read", "quarantine/x.dcm", applied, root.clock())
    [file] = files(root)
    assert file.reason == "instance-set-aside"
