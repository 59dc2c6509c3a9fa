"""What a start puts right after a death at each step of the way in."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from node.dicom.encoding import file_head
from node.receive.data_set import LARGE_BYTES
from node.receive.ingest import Origin
from node.receive.recovery import quarantine_losers, recover
from tests import make
from tests.integration.conftest import Root, announced, data_set_bytes


def recovered(root: Root) -> tuple[int, int, int, int]:
    done = recover(root.archive, root.index, root.ingest.quiet_seconds, root.clock())
    return done.parts, done.adopted, done.quarantined, done.claims


def test_a_half_received_instance_is_deleted(open_root: Callable[[], Root]) -> None:
    root = open_root()
    [ds] = make.ct_series(1)
    root.ingest.begin(announced(ds), Origin("dicom")).take_fragment(bytes(LARGE_BYTES + 1))
    assert list(root.folder.glob("incoming/*.receiving"))
    root = open_root()
    assert recovered(root) == (1, 0, 0, 0)
    assert not list(root.folder.glob("incoming/*"))


def test_a_file_that_died_before_its_row_is_adopted_whole(open_root: Callable[[], Root]) -> None:
    root = open_root()
    first, second = make.ct_series(2)
    root.take(first)
    said = announced(second)
    head = file_head(said.sop_class_uid, said.sop_instance_uid, said.transfer_syntax_uid, "MODALITY")
    root.archive.write(root.archive.new_key(), head + data_set_bytes(second))
    root = open_root()
    assert recovered(root) == (0, 1, 0, 0)
    [row] = root.rows("SELECT * FROM v_images WHERE sop_instance_uid = :uid", uid=second.SOPInstanceUID)
    sent = data_set_bytes(second)
    assert Path(row["path"]).read_bytes()[row["data_set_offset"] :] == sent
    assert row["sha256"] == hashlib.sha256(sent).hexdigest()
    assert row["calling_ae_title"] == "MODALITY"
    assert recovered(root) == (0, 0, 0, 0)


def test_a_file_that_cannot_be_read_goes_to_quarantine(open_root: Callable[[], Root]) -> None:
    root = open_root()
    [ds] = make.ct_series(1)
    root.take(ds)
    [folder] = root.folder.glob("objects/*")
    (folder / "stray.dcm").write_bytes(b"no DICOM at all")
    assert recovered(open_root()) == (0, 0, 1, 0)
    assert (root.folder / "quarantine" / "stray.dcm").exists()


def test_the_loser_of_a_conflict_that_is_not_in_quarantine_yet_goes_there(root: Root) -> None:
    [first] = make.ct_series(1)
    root.take_all([first, make.corrected(first)])
    [loser] = (root.folder / "quarantine").glob("*.dcm")
    [folder] = root.folder.glob("objects/*/")
    loser.rename(folder / loser.name)
    assert quarantine_losers(root.archive, root.index) == 1
    assert loser.exists()


def test_a_claim_of_a_dead_worker_is_due_at_once(open_root: Callable[[], Root]) -> None:
    root = open_root()
    [ds] = make.ct_series(1)
    root.take(ds)
    root.clock.move(61)
    assert root.index.series.claim_due(root.clock()) is not None
    root = open_root()
    assert root.index.series.claim_due(root.clock()) is None
    assert recovered(root) == (0, 0, 0, 1)
    assert root.index.series.claim_due(root.clock()) is not None
