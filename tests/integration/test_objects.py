"""An archive whose instances are in an object store: local files are a spool, and copies."""

import datetime as dt
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydicom import FileDataset

from node.api import OutOfResources, Parts, Settings, reading
from node.archive.base import StoreAway
from node.archive.intact import problem_with
from node.association.services.commitment import CommitmentService, verify
from node.completeness import Reported
from node.control.care import check_repository, rebuild_index
from node.control.repository import Repository
from node.conversion.pipeline import convert
from node.conversion.scheduler import Worker
from node.conversion.series import is_unchanged
from node.conversion.volume_files import Housekeeping
from node.extensions.object_store.bucket import configured_store
from node.extensions.object_store.kind import Copied, copy_archive, other_host_of
from node.extensions.object_store.settings import StoreSettings
from node.extensions.object_store.stores import try_store
from node.extensions.object_store.uploads import ObjectUploads
from node.index.rows.records import InstanceFile, Outcome, RevisionFile
from node.receive.ingest import Origin
from node.receive.readiness import reasons_not_ready
from node.receive.stored_files import report_damage
from node.runtime.failpoints import JUDGING
from node.settings.core import Acknowledge, JournalSettings, SeriesSettings, Storage
from node.settings.section import Convert as ConvertSettings
from node.writers.options import write_options
from tests import make
from tests.converting import convert_series
from tests.integration.conftest import announced, bring, data_set_bytes, flip
from tests.made_once import decoder, empty_folder, lose_index
from tests.object_store import object_store
from tests.receivers import Answer, Receiver
from tests.rows import view_rows
from tests.trash import delete, empty_trash
from tests.waiting import until

OPTIONS = write_options(ConvertSettings(thumbnails=False, formats=("nifti", "mhd")))
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Served:
    """A root with a store, opened as a node does, whose uploads run when a test says so."""

    def __init__(self, root: Path, url: str, acknowledge: Acknowledge = "local", **storage: Any) -> None:
        self.root = root
        self.settings = Settings(
            storage=StoreSettings(root=root, url=url, reserve_bytes=0, **storage),
            journal=JournalSettings(acknowledge=acknowledge),
            series=SeriesSettings(quiet_seconds=1),
        )
        self.repository = Repository(self.settings)
        self.is_open = True
        remote = self.repository.archive.remote
        self.remote = remote
        self.uploads = ObjectUploads(
            self.repository.archive,
            remote,
            self.repository.index,
            self.repository.metrics,
            awaited=acknowledge == "object",
        )

    def receive(self, ds: FileDataset) -> Future[Outcome]:
        """Have an instance in the index; what it is acknowledged by may be yet to come."""
        incoming = self.repository.ingest.begin(announced(ds), Origin("dicom", "MODALITY", "VOXELNODE", "127.0.0.1:1"))
        incoming.take_fragment(data_set_bytes(ds))
        outcome: Future[Outcome] = Future()
        incoming.finish(outcome)
        assert self.repository.applier.catch_up()
        return outcome

    def take(self, *instances: FileDataset) -> list[Outcome]:
        return bring(self.repository.ingest, *instances)

    def upload(self) -> str | None:
        """Move everything; return why that cannot be done now."""
        while self.uploads.step() == 0.0:
            pass
        return self.uploads.away

    def forget(self) -> None:
        """Remove all copies, as if they had not been used for long."""
        self.remote.stays_seconds = 0.0
        self.remote.trim()
        self.remote.stays_seconds = 60.0

    def take_away(self, *instances: FileDataset) -> tuple[FileDataset, ...]:
        """Take instances that are in the store alone; return them."""
        self.take(*instances)
        self.upload()
        self.forget()
        return instances

    def content(self, ds: FileDataset) -> bytes | None:
        """Read the data set of an instance as every reader does."""
        [file] = [file for file in self.files() if file.sop_instance_uid == ds.SOPInstanceUID]
        path = self.repository.archive.local(file)
        return path.read_bytes()[file.data_set_offset :] if path.exists() else None

    def key_of(self, ds: FileDataset) -> str:
        """Return the key of an instance, also after `close`."""
        query = f"SELECT key FROM images WHERE sop_instance_uid = '{ds.SOPInstanceUID}'"
        return str(self.rows(query)[0]["key"])

    def places(self) -> list[str]:
        return [row["place"] for row in self.rows("SELECT place FROM v_images ORDER BY received_at")]

    def rows(self, query: str) -> list[dict[str, Any]]:
        return view_rows(self.root, query)

    def files(self) -> list[InstanceFile]:
        with self.repository.index.reading() as index:
            return list(index.files.of_instances())

    def local(self) -> list[Path]:
        return sorted(self.root.glob("objects/*/*.dcm"))

    def convert(self) -> None:
        """Convert what is due, in this process."""
        index, now = self.repository.index, lambda: self.repository.index.now() + dt.timedelta(hours=1)
        while (claimed := index.series.claim_due(now())) is not None:
            if is_unchanged(claimed, self.repository.archive, OPTIONS):
                index.series.record_unchanged(claimed, now())
            else:
                convert_series(claimed, self.repository.archive, index, OPTIONS, convert, now)

    def revision(self) -> dict[str, bytes]:
        """Return the local files of revisions by their keys."""
        folder = self.root / "volumes"
        return {str(path.relative_to(self.root)): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}

    def kept(self) -> list[RevisionFile]:
        with self.repository.index.reading() as index:
            rows = view_rows(self.root, "SELECT key FROM revision_files ORDER BY key")
            return [file for row in rows if (file := index.files.file_at(row["key"])) is not None]

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.repository.close()


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Open the same root, as often as a test restarts its node."""
    (tmp_path / "store").mkdir()
    with ExitStack() as opened:

        def open_(**storage: Any) -> Served:
            opened.close()
            served = Served(tmp_path / "root", f"file://{tmp_path}/store", **storage)
            opened.callback(served.close)
            return served

        yield open_


@pytest.mark.slow
def test_instances_move_to_the_store_and_come_back_when_they_are_read(serve: Serve) -> None:
    node = serve(cache_bytes=0)
    series = make.ct_series(3)
    node.take(*series)
    assert node.places() == ["spool"] * 3
    assert node.upload() is None
    assert node.places() == ["store"] * 3
    assert len(node.local()) == 3  # copies that may be about to be read
    node.forget()
    assert node.local() == []
    assert [node.content(ds) for ds in series] == [data_set_bytes(ds) for ds in series]
    assert len(node.local()) == 3
    node.forget()
    assert check_repository(node.settings, digests=True, repair=False) == []
    with node.repository.archive.held(node.files()):
        node.forget()
        assert len(node.local()) == 3  # in use
    node.forget()
    assert node.take(series[0]) == [Outcome.ALREADY_THERE]
    assert node.places() == ["store"] * 3


def test_a_start_knows_its_copies_and_keeps_their_bound(serve: Serve) -> None:
    node = serve()
    node.take(*make.ct_series(4))
    node.upload()
    node = serve(cache_bytes=2 * max(path.stat().st_size for path in node.local()))
    assert node.upload() is None
    assert len(node.local()) == 4
    node.forget()
    assert len(node.local()) == 2


def test_without_a_name_of_its_own_a_host_asks_no_index_for_others() -> None:
    assert other_host_of(Settings())("objects/00000000/one.dcm") is None


def test_a_store_that_is_away_delays_and_loses_nothing(serve: Serve, tmp_path: Path) -> None:
    node = serve(cache_bytes=0)
    before, after = make.ct_series(2), make.ct_series(2)
    node.take_away(*before)
    store = tmp_path / "store"
    store.rename(tmp_path / "elsewhere")
    assert node.take(*after) == [Outcome.STORED] * 2
    reported = f"file://{store} is not there: create it, or mount its file system"
    assert node.upload() == reported
    assert node.uploads.step() > 0.0  # and again later
    with pytest.raises(StoreAway, match="is not there"):
        node.content(before[0])
    # What nobody can look up is not dropped when it comes again.
    assert node.take(before[0]) == [Outcome.STORED]
    store.mkdir()  # an empty store is not ours: its objects are not lost
    emptied = f"file://{store} is of no archive: voxelnode-archive.json is missing"
    assert node.upload() == emptied
    with reading(node.settings.storage.root, node.settings.index.url) as index:  # as `voxelnode doctor` does
        assert try_store(node.remote.store, index.archive_in_store, index.has_used_store) == emptied
    with pytest.raises(StoreAway, match="is of no archive"):
        node.content(before[1])
    shutil.rmtree(store)
    (tmp_path / "elsewhere").rename(store)
    assert node.upload() is None
    assert set(node.places()) == {"store"}
    node.forget()
    assert [node.content(ds) for ds in (*before, *after)] == [data_set_bytes(ds) for ds in (*before, *after)]
    assert node.rows("SELECT count(*) AS lost FROM v_images WHERE file_missing") == [{"lost": 0}]
    assert objects(tmp_path) == keys(node)  # the object of the file that came again took the place of the other


def committed(node: Served, ds: FileDataset) -> int:
    """The number of instances that storage commitment confirms of one."""
    repository = node.repository
    parts = Parts(node.settings, repository.ingest, repository.metrics, decoder(), lambda refused: None)
    service = CommitmentService(parts)
    service.needs_object = True
    references = [(ds.SOPClassUID, ds.SOPInstanceUID)]
    now = repository.index.now()
    owed = repository.index.work.add_commitment("1.2.3", "MODALITY", "127.0.0.1", references, now, now)
    return len(verify(service, owed.payload.references, owed.lane.name, lambda: False).committed)


def test_a_promise_of_the_store_is_kept_before_the_acknowledgement(serve: Serve, tmp_path: Path) -> None:
    node = serve(acknowledge="object")
    promise = node.repository.ingest.acknowledgement
    promise.seconds = 600.0
    first, second, third = make.ct_series(3)
    early = node.receive(first)
    assert not early.done()
    assert committed(node, first) == 0
    node.uploads.start()
    assert promise.wait(early) is Outcome.STORED
    assert node.places() == ["store"]
    assert committed(node, first) == 1
    with pytest.raises(OutOfResources, match="other bytes are current"):  # quarantine is on this disk only
        promise.wait(node.receive(make.corrected(first)))
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    late, again = node.receive(second), node.receive(second)
    with pytest.raises(OutOfResources, match="not in the object store within 600 s: send it again"):
        promise.wait(late, 0.0)
    promise.seconds = 0.0
    assert "the object store has not taken what was received" in str(node.repository.ingest.refusal())
    with pytest.raises(OutOfResources, match="the object store has not taken"):
        node.receive(third)
    assert not again.done()  # nor may it be acknowledged because the instance is there already
    (tmp_path / "elsewhere").rename(tmp_path / "store")
    node.uploads.wake()
    promise.seconds = 600.0
    assert [promise.wait(one) for one in (late, again)] == [Outcome.STORED, Outcome.ALREADY_THERE]
    assert node.repository.ingest.refusal() is None
    assert promise.wait(node.receive(second)) is Outcome.ALREADY_THERE
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    left = node.receive(third)
    node.uploads.stop()
    with pytest.raises(OutOfResources, match="stopping"):
        promise.wait(left)
    (tmp_path / "elsewhere").rename(tmp_path / "store")


def test_an_upload_for_which_somebody_waits_is_not_left_because_others_had_their_turn(serve: Serve) -> None:
    node = serve(acknowledge="object")
    first, second = (node.receive(ds) for ds in make.ct_series(2))
    assert (node.uploads.step(), first.done(), second.done()) == (0.0, True, True)
    third = node.receive(*make.ct_series(1))
    node.uploads._after = "p"  # a round of all others has passed its key
    while node.uploads.step() == 0.0:
        pass
    assert third.done()


def test_what_comes_behind_a_round_does_not_wait_for_what_was_refused(serve: Serve) -> None:
    node = serve()
    damaged, other = make.ct_series(2)
    node.take(damaged)
    [path] = node.local()
    flip(path)
    assert node.uploads.step() == 0.0
    node.take(other)
    node.uploads._after = "p"  # the round has passed its key
    assert node.upload() is None
    assert node.places() == ["spool", "store"]


@pytest.mark.slow
@pytest.mark.parametrize("step", ["object-put", "objects-recorded"])
def test_an_upload_that_was_interrupted_is_found_to_be_there(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    node = serve(cache_bytes=0)
    series = make.ct_series(2)
    node.take(*series)

    def die(name: str) -> None:
        if name == step:
            raise KeyError(name)

    monkeypatch.setattr("node.extensions.object_store.uploads.reached", die)
    with pytest.raises(KeyError):
        node.upload()
    monkeypatch.undo()
    assert len(node.local()) == 2
    if step == "object-put":
        (tmp_path / "store" / node.files()[0].key).write_bytes(b"something else")
    node = serve(cache_bytes=0)
    assert node.upload() is None
    node.forget()
    assert node.content(series[1]) == data_set_bytes(series[1])
    assert check_repository(node.settings, digests=True, repair=False) == []


@pytest.mark.slow
def test_what_the_store_lost_or_altered_is_reported_and_taken_again(serve: Serve, tmp_path: Path) -> None:
    node = serve(cache_bytes=0)
    series = node.take_away(*make.ct_series(4))
    store = tmp_path / "store"
    whole, gone, altered, cached = (
        store / next(file.key for file in node.files() if file.sop_instance_uid == ds.SOPInstanceUID) for ds in series
    )
    node.content(series[3])
    for path in (gone, cached):
        path.unlink()
    altered.write_bytes(altered.read_bytes()[:-1] + b"?")
    (store / "objects/00000000/0123456789abcdef0123456789abcdef.dcm").write_bytes(whole.read_bytes())
    found = check_repository(node.settings, digests=True, repair=False)
    assert sorted(finding.kind for finding in found) == [
        "object-altered", "object-missing", "object-missing",
    ]  # fmt: skip
    # A reader meets them, too.
    for ds in series[1:3]:
        [file] = [file for file in node.files() if file.sop_instance_uid == ds.SOPInstanceUID]
        path = node.repository.archive.local(file)
        problem = problem_with(path, file.data_set_offset, file.bytes, file.sha256)
        assert problem is not None
        report_damage(node.repository.archive, node.repository.index, file.key, problem, NOW)
    assert node.rows("SELECT count(*) AS lost FROM v_images WHERE file_missing") == [{"lost": 2}]
    node.close()
    repaired = check_repository(node.settings, digests=True, repair=True)
    assert {(finding.kind, finding.repair) for finding in repaired} == {
        ("copy-altered", "removed: it is fetched again when it is read"),
        ("object-missing", "to be moved to the object store again"),
        ("object-unknown", "removed: objects/00000000/" + whole.name + " has the same bytes"),
    }
    node = serve(cache_bytes=0)
    assert node.take(*series[1:3]) == [Outcome.STORED] * 2
    assert node.upload() is None
    node.forget()
    assert [node.content(ds) for ds in series] == [data_set_bytes(ds) for ds in series]
    assert node.rows("SELECT count(*) AS lost FROM v_images WHERE file_missing") == [{"lost": 0}]


def test_what_is_deleted_or_replaced_leaves_the_store(serve: Serve, tmp_path: Path) -> None:
    node = serve(cache_bytes=0, overwrite_policy="replace")
    series = node.take_away(*make.ct_series(3))
    other = make.ct_series(3)[0]
    other.SOPInstanceUID, other.SeriesInstanceUID = series[0].SOPInstanceUID, series[0].SeriesInstanceUID
    other.StudyInstanceUID, other.PatientComments = series[0].StudyInstanceUID, "second version"
    store = tmp_path / "store"
    store.rename(tmp_path / "elsewhere")
    assert node.take(other) == [Outcome.REPLACED]
    assert node.take(series[0], other) == [Outcome.REPLACED] * 2  # the first version is expected in quarantine
    delete(node.repository, str(series[1].SOPInstanceUID), "instance", erases=True)
    node.upload()
    (tmp_path / "elsewhere").rename(store)
    node = serve(cache_bytes=0)
    assert node.upload() is None
    assert node.upload() is None
    assert objects(tmp_path) == keys(node)
    kept = [path.read_bytes() for path in (node.root / "quarantine").glob("*.*")]
    assert any(content.endswith(data_set_bytes(series[0])) for content in kept)
    assert node.content(other) == data_set_bytes(other)
    assert node.local() == [node.root / file.key for file in node.files() if (node.root / file.key).exists()]


@pytest.mark.slow
def test_what_is_in_the_trash_stays_in_the_store_until_it_comes_back_or_goes(serve: Serve, tmp_path: Path) -> None:
    node = serve(cache_bytes=0)
    series = node.take_away(*make.ct_series(3))
    kept, uid = objects(tmp_path), str(series[0].StudyInstanceUID)

    def act(name: str, **arguments: Any) -> Any:
        return node.repository.actions.by_name[name](who="somebody", **arguments)

    def number() -> int:
        with node.repository.index.reading() as index:
            return int(index.trash.all()[0]["number"])

    act("delete", level="study", uid=uid, study_instance_uid=None)
    assert node.upload() is None
    assert (objects(tmp_path), keys(node)) == (kept, set())
    assert check_repository(node.settings, digests=True, repair=False) == []
    assert act("restore-trash", number=number())["instances"] == 3
    assert node.places() == ["store"] * 3
    node.forget()
    assert [node.content(ds) for ds in series] == [data_set_bytes(ds) for ds in series]
    act("delete", level="study", uid=uid, study_instance_uid=None)
    empty_trash(node.repository)
    node.upload()
    node = serve(cache_bytes=0)
    assert node.upload() is None
    assert objects(tmp_path) == set()


def test_a_new_index_tells_which_objects_of_acknowledged_instances_are_gone(serve: Serve, tmp_path: Path) -> None:
    node = serve(cache_bytes=0)
    series = node.take_away(*make.ct_series(4))
    node.close()
    lose_index(node.root)
    for name in sorted(objects(tmp_path))[:2]:
        (tmp_path / "store" / name).unlink()
    assert rebuild_index(node.settings).lost == 2
    lost = {one.sop_instance_uid for one in serve(cache_bytes=0).repository.index.lost.of(None)}
    assert lost < {str(ds.SOPInstanceUID) for ds in series}


@pytest.mark.slow
def test_volumes_of_lost_instances_stay_in_the_store_with_a_new_index(serve: Serve, tmp_path: Path) -> None:
    node = serve(cache_bytes=0)
    node.take(*make.ct_series(8))
    node.convert()
    node.upload()
    made = volumes(tmp_path)
    empty_folder(node.root / "volumes")
    node.forget()
    node.close()
    lose_index(node.root)
    for name in sorted(objects(tmp_path))[:3]:
        (tmp_path / "store" / name).unlink()
    assert rebuild_index(node.settings).lost == 3
    node = serve(cache_bytes=0)
    index = node.repository.index
    worker = Worker(node.repository.archive, index, ConvertSettings(), lambda: index.now() + dt.timedelta(hours=1))
    worker.start()
    until(lambda: not index.series.count_open(), 60, "an outcome")
    worker.stop()
    [series] = node.rows("SELECT state, verdict, error FROM v_series")
    assert (series["state"], series["verdict"]) == ("failed", "incomplete")
    assert "was made of them, and stays" in series["error"]
    node.close()
    for repair in (True, False):
        findings = check_repository(node.settings, digests=False, repair=repair)
        assert {finding.path for finding in findings if finding.kind == "volume-kept"} == made.keys()
    node = serve(cache_bytes=0)
    node.upload()
    assert volumes(tmp_path) == made


@pytest.mark.slow
def test_a_new_index_is_made_of_the_store_and_another_archive_is_refused(serve: Serve) -> None:
    node = serve(cache_bytes=0)
    series = node.take_away(*make.ct_series(3))
    node.close()
    lose_index(node.root)
    other = serve(cache_bytes=0)  # with an empty index
    assert "is of another archive" in str(other.upload())
    other.close()
    rebuild_index(node.settings)
    node = serve(cache_bytes=0)
    assert node.upload() is None
    assert node.places() == ["store"] * 3
    node.forget()
    assert [node.content(ds) for ds in series] == [data_set_bytes(ds) for ds in series]


def test_a_store_that_became_that_of_another_archive_makes_a_node_not_ready(serve: Serve, tmp_path: Path) -> None:
    node = serve()
    node.take(*make.ct_series(1))
    assert node.upload() is None
    marker = tmp_path / "store" / "voxelnode-archive.json"
    own = marker.read_bytes()
    for content, reason in ((b'{"archive": "other"}', "is of another archive"), (None, "is of no archive")):
        marker.unlink()
        if content is not None:
            marker.write_bytes(content)
        node = serve()
        for role in (None, "convert"):
            assert reason in str(node.upload())
            assert reason in reasons_not_ready(node.repository.ingest, {}, role)["object store"]
        marker.write_bytes(own)
    node = serve()
    assert node.upload() is None
    assert reasons_not_ready(node.repository.ingest, {}) == {}


@pytest.mark.slow
def test_everything_moves_back_to_the_folder(serve: Serve, tmp_path: Path) -> None:
    node = serve(cache_bytes=0)
    series = node.take_away(*make.ct_series(3))
    node.take(*make.ct_series(1))
    node.close()
    stored = tmp_path / "store" / node.key_of(series[0])
    content = stored.read_bytes()
    stored.unlink()
    marked = "SELECT sop_instance_uid FROM v_images WHERE file_missing"
    assert copy_archive(node.settings, "folder") == Copied(2, 1)
    assert node.rows(marked) == [{"sop_instance_uid": series[0].SOPInstanceUID}]
    stored.write_bytes(content)
    assert copy_archive(node.settings, "folder") == Copied(1, 0)
    assert node.rows(marked) == []
    Repository(Settings(storage=Storage(root=node.root))).close()
    assert check_repository(Settings(storage=Storage(root=node.root)), digests=True, repair=False) == []
    assert len(node.local()) == 4
    assert copy_archive(node.settings, "store") == Copied(4, 0)
    assert copy_archive(node.settings, "store") == Copied(0, 0)


@pytest.mark.slow
@pytest.mark.sqlite("in PostgreSQL, claims end unless a whole node keeps them")
def test_a_conversion_fetches_its_series_and_waits_for_a_store_that_is_away(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = serve(cache_bytes=0)
    node.take_away(*make.ct_series(3))
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    monkeypatch.setattr("node.conversion.series.wait_seconds", lambda attempts: 0.5)
    worker = Worker(node.repository.archive, node.repository.index, ConvertSettings())
    worker.start()
    query = "SELECT state, attempts, error FROM v_series"
    until(lambda: node.rows(query)[0]["error"] is not None, 60, "postponed")
    [row] = node.rows(query)
    assert row["attempts"] == 0
    assert row["error"].startswith("waits: object store: file://")
    (tmp_path / "elsewhere").rename(tmp_path / "store")
    until(lambda: node.rows("SELECT state FROM v_series") == [{"state": "converted"}], 60, "converted")
    worker.stop()


@pytest.mark.slow
def test_a_bucket_has_the_digest_of_each_object_and_no_credentials_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys_file = tmp_path / "keys"
    keys_file.write_text("[default]\naws_access_key_id = AKIATEST\naws_secret_access_key = hidden\n")
    series = make.ct_series(4)
    with object_store() as server, ExitStack() as opened:
        node = Served(
            tmp_path / "root", "s3://scans/archive", endpoint=server.url, region="us-east-1",
            credentials_file=keys_file, storage_class="STANDARD_IA", cache_bytes=0, store_seconds=5,
        )  # fmt: skip
        opened.callback(node.close)
        node.take(*series)
        place = f"s3://scans at {server.url}"
        assert node.upload() == f"{place}: NoSuchBucket: create the bucket, or correct its name"
        server.ask("PUT", "/scans")
        monkeypatch.setattr("node.extensions.object_store.uploads.MAX_WHOLE_BYTES", 1000)  # in parts
        assert node.upload() is None
        monkeypatch.undo()
        for file in node.files():
            stored = server.ask("GET", f"/scans/archive/{file.key}")
            assert hashlib.sha256(stored.content[file.data_set_offset :]).hexdigest() == file.sha256
            assert stored.headers["x-amz-meta-sha256"] == file.sha256
            assert stored.headers["x-amz-storage-class"] == "STANDARD_IA"
        node.convert()
        made = node.revision()
        monkeypatch.setattr("node.extensions.object_store.uploads.MAX_WHOLE_BYTES", 1000)
        assert node.upload() is None
        monkeypatch.undo()
        for volume in node.kept():
            stored = server.ask("GET", f"/scans/archive/{volume.key}")
            assert stored.content == made[volume.key]
            assert stored.headers["x-amz-meta-sha256"] == volume.sha256
            assert stored.headers["content-type"] == "application/octet-stream"
        node.forget()
        assert node.revision() == {}
        assert {volume.key: node.repository.archive.local(volume).read_bytes() for volume in node.kept()} == made
        node.take(*make.ct_series(1))
        [waiting] = [file for file in node.files() if file.place == "spool"]
        server.ask("PUT", f"/scans/archive/{waiting.key}", "something else")
        assert node.upload() is None
        node.forget()
        assert node.local() == []
        assert node.content(series[0]) == data_set_bytes(series[0])
        assert try_store(node.remote.store, node.remote.identity, has_used_store=True) is None
        assert try_store(node.remote.store, None, has_used_store=False) == (
            f"{place} is of another archive: choose another prefix"
        )
        server.ask("DELETE", f"/scans/archive/{waiting.key}")
        found = check_repository(node.settings, digests=True, repair=False)
        assert [(one.kind, one.path) for one in found] == [("object-missing", waiting.key)]
        node.take(*make.ct_series(1))
        with Receiver(lambda received: Answer(500)) as broken:
            node.remote.store = configured_store(
                node.settings.table(StoreSettings).model_copy(update={"endpoint": broken.url.removesuffix("/told")})
            )
            assert str(node.upload()).endswith(": status 500")
        node.remote.store = configured_store(node.settings.table(StoreSettings))
        server.kill()
        assert node.upload() == f"{place}: no answer"
        with pytest.raises(StoreAway):
            node.content(series[1])
    said = caplog.text + "".join(capfd.readouterr())
    assert "hidden" not in said
    assert "AKIATEST" not in said


@pytest.mark.slow
def test_volumes_move_to_the_store_and_come_back_when_they_are_read(serve: Serve, tmp_path: Path) -> None:
    node = serve(cache_bytes=0)
    node.take(*make.ct_series(3))
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    node.convert()  # while the store is away
    made = node.revision()
    assert {Path(key).name for key in made} == {"volume.nii.gz", "volume.mhd", "volume.zraw", "volume.json"}
    assert {file.place for file in node.kept()} == {"spool"}
    assert node.upload() is not None
    (tmp_path / "elsewhere").rename(tmp_path / "store")
    assert node.upload() is None
    assert volumes(tmp_path) == made
    node.forget()
    assert node.revision() == {}
    archive, index = node.repository.archive, node.repository.index
    assert check_repository(node.settings, digests=True, repair=False) == []
    assert {file.key: archive.local(file).read_bytes() for file in node.kept()} == made

    node.forget()
    index.series.reopen([key_of(node)], NOW)
    node.convert()
    assert node.rows("SELECT DISTINCT revision FROM v_volumes") == [{"revision": 1}]  # nothing to do again
    assert node.revision() == {}

    altered, lost = (tmp_path / "store" / file.key for file in node.kept()[:2])
    altered.write_bytes(altered.read_bytes()[::-1])
    lost.unlink()
    with pytest.raises(OSError, match="has the SHA-256"):
        archive.local(node.kept()[0])
    with pytest.raises(FileNotFoundError):
        archive.local(node.kept()[1])
    with pytest.raises(OSError, match="has the SHA-256"), archive.held(node.kept()[:1]):
        pass
    stray = tmp_path / "store" / "volumes" / "1" / "2" / "1-01234567" / "volume.json"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"{}")
    node.close()
    found = check_repository(node.settings, digests=True, repair=True)
    assert [(one.kind, one.repair) for one in found] == [
        ("volume-object", "to be converted again"),
        ("volume-object", "to be converted again"),
        ("object-unknown", "to be removed"),
    ]
    node = serve(cache_bytes=0)
    node.convert()
    assert node.rows("SELECT DISTINCT revision FROM v_volumes WHERE NOT superseded") == [{"revision": 2}]
    node.upload()
    assert not stray.exists()
    [first] = node.repository.index.conversions.superseded_before(node.repository.index.now() + dt.timedelta(days=1))
    node.repository.index.conversions.record_files_removed(first, NOW)
    node.upload()
    assert {key.split("/")[3][0] for key in volumes(tmp_path)} == {"2"}

    delete(node.repository, key_of(node)[0])
    node.upload()
    assert volumes(tmp_path) != {}
    empty_trash(node.repository)
    node.upload()
    assert volumes(tmp_path) == node.revision() == {}
    assert node.rows("SELECT * FROM revision_files") == node.rows("SELECT * FROM object_removals") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("altered", "lost"), [("volume.json", "volume.mhd"), (None, "volume.zraw")], ids=["two files", "voxels of a header"]
)
def test_volumes_lost_before_they_move_are_remade(serve: Serve, tmp_path: Path, altered: str | None, lost: str) -> None:
    node = serve()
    node.take(*make.ct_series(3))
    node.convert()
    first = {Path(file.key).name: node.root / file.key for file in node.kept()}
    if altered is not None:
        flip(first[altered])
    first[lost].unlink()
    node.upload()
    assert [row["state"] for row in node.rows("SELECT state FROM v_series")] == ["receiving"]
    node.convert()
    node.upload()
    assert [row["state"] for row in node.rows("SELECT state FROM v_series")] == ["converted"]
    current = {key: content for key, content in node.revision().items() if key.split("/")[3][0] == "2"}
    assert len(current) == 4
    assert current.items() <= volumes(tmp_path).items()
    assert {file.place for file in node.kept()} == {"store"}


def test_an_object_stays_until_the_file_that_came_instead_is_in_the_store(serve: Serve, tmp_path: Path) -> None:
    node = serve(cache_bytes=0)
    [ds] = make.ct_series(1)
    node.take_away(ds)
    first = tmp_path / "store" / node.key_of(ds)
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    node.upload()
    assert node.take(ds) == [Outcome.STORED]  # its object cannot be compared now
    (tmp_path / "elsewhere").rename(tmp_path / "store")
    node.uploads.remove_objects()
    assert first.exists()
    node.upload()
    assert (tmp_path / "store" / node.key_of(ds)).exists()
    assert not first.exists()


@pytest.mark.slow
def test_a_version_that_is_still_to_be_fetched_from_the_store_is_not_missing(serve: Serve) -> None:
    node = serve(cache_bytes=0, overwrite_policy="replace")
    [ds] = make.ct_series(1)
    node.take_away(ds)
    first = data_set_bytes(ds)
    ds.PatientComments = "second version"
    assert node.take(ds) == [Outcome.REPLACED]
    node.close()
    assert check_repository(node.settings, digests=False, repair=True) == []
    node = serve(cache_bytes=0)
    node.upload()
    [kept] = (node.root / "quarantine").glob("*.*")
    assert kept.read_bytes().endswith(first)


@pytest.mark.slow
def test_volumes_from_before_the_store_move_as_well_and_everything_back(serve: Serve, tmp_path: Path) -> None:
    node = serve()
    node.take(*make.ct_series(3))
    remote, node.repository.archive.remote = node.repository.archive.remote, None
    node.convert()
    node.repository.archive.remote = remote
    made = node.revision()
    assert node.kept() == []
    node.close()
    assert copy_archive(node.settings, "store") == Copied(3, 0, 4, 0)
    assert volumes(tmp_path) == made
    empty_folder(tmp_path / "root" / "volumes")
    lost = tmp_path / "store" / sorted(made)[0]
    lost.rename(tmp_path / "lost")
    assert copy_archive(node.settings, "folder") == Copied(3, 0, 3, 1)
    (tmp_path / "lost").rename(lost)

    (tmp_path / "store" / "volumes" / "stray").write_bytes(b"of a conversion that the old index does not know")
    assert rebuild_index(node.settings).salvaged.rows["revision_files"] == 4
    node = serve()
    assert node.rows("SELECT state FROM v_series") == [{"state": "converted"}]
    node.upload()
    assert volumes(tmp_path) == made
    assert check_repository(node.settings, digests=True, repair=False) == []
    node.close()
    assert copy_archive(node.settings, "folder") == Copied(3, 0, 4, 0)
    assert check_repository(Settings(storage=Storage(root=node.root)), digests=True, repair=False) == []
    assert node.revision() == made


def key_of(node: Served) -> tuple[str, str]:
    [row] = node.rows("SELECT study_instance_uid, series_instance_uid FROM v_series")
    return row["study_instance_uid"], row["series_instance_uid"]


def volumes(folder: Path) -> dict[str, bytes]:
    """Return the objects of revisions by their keys."""
    store = folder / "store"
    return {str(path.relative_to(store)): path.read_bytes() for path in store.glob("volumes/**/*") if path.is_file()}


def objects(folder: Path) -> set[str]:
    store = folder / "store"
    return {str(path.relative_to(store)) for path in store.glob("objects/*/*")}


def keys(node: Served) -> set[str]:
    return {file.key for file in node.files()}


def sidecars(node: Served) -> list[RevisionFile]:
    return [file for file in node.kept() if file.key.endswith(".json")]


def write_verdicts(node: Served) -> None:
    day = dt.timedelta(days=1)
    index = node.repository.index
    assert not Housekeeping(node.repository.archive, index, day, day, index.now).write_verdicts()


@pytest.mark.sample(1)
@pytest.mark.parametrize("step", JUDGING)
def test_a_verdict_that_changes_has_its_sidecars_moved_to_the_store_again_also_after_a_crash(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    node = serve(cache_bytes=0)
    node.take(*make.ct_series(3))
    node.convert()
    node.upload()
    node.forget()
    before = {file.key: (tmp_path / "store" / file.key).read_bytes() for file in node.kept()}
    index = node.repository.index
    index.series.record_reported(key_of(node), Reported(3, 5), index.now())

    def die(name: str) -> None:
        if name == step:
            raise KeyError(name)

    monkeypatch.setattr("node.conversion.volume_files.reached", die)
    with pytest.raises(KeyError):
        write_verdicts(node)
    monkeypatch.undo()
    node.upload()
    assert check_repository(node.settings, digests=True, repair=False) == []
    node = serve(cache_bytes=0)
    write_verdicts(node)
    assert node.upload() is None
    node.forget()
    assert [file.place for file in node.kept()] == ["store"] * len(before)
    [sidecar] = sidecars(node)
    after = {file.key: (tmp_path / "store" / file.key).read_bytes() for file in node.kept()}
    assert {key for key in before if before[key] != after[key]} == {sidecar.key}
    assert json.loads(after[sidecar.key])["completeness"]["missing"] == 2
    assert node.repository.archive.local(sidecar).read_bytes() == after[sidecar.key]
    assert hashlib.sha256(after[sidecar.key]).hexdigest() == sidecar.sha256
    assert check_repository(node.settings, digests=True, repair=False) == []
    assert [row["revision"] for row in node.rows("SELECT revision FROM v_series")] == [1]


@pytest.mark.slow
def test_a_sidecar_that_changes_while_it_is_uploaded_is_not_taken_for_the_new_one(serve: Serve, tmp_path: Path) -> None:
    node = serve(cache_bytes=0)
    node.take(*make.ct_series(3))
    node.convert()
    node.uploads.begin()
    [old] = sidecars(node)
    index = node.repository.index
    index.series.record_reported(key_of(node), Reported(3, 5), index.now())
    write_verdicts(node)
    assert node.uploads._put(old) is False  # as of a batch that was read before
    index.objects.record_stored([old.key], index.now(), [old.sha256])
    [new] = sidecars(node)
    assert (new.place, new.sha256 != old.sha256) == ("spool", True)
    assert node.upload() is None
    assert (tmp_path / "store" / new.key).read_bytes() == (tmp_path / "root" / new.key).read_bytes()
    assert node.rows("SELECT state, revision FROM v_series") == [{"state": "converted", "revision": 1}]
    assert check_repository(node.settings, digests=True, repair=False) == []
