"""Stores that confirm and keep nothing, keep less, or return other bytes: no last copy goes on one answer."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from node.archive.intact import problem_with
from node.conversion.scheduler import Worker
from node.extensions.object_store.stores import try_store
from node.index.looking import looking
from node.index.rows.place import place_of
from node.receive.readiness import reasons_not_ready
from node.receive.stored_files import report_damage
from node.settings.section import Convert as ConvertSettings
from tests import make
from tests.integration.conftest import data_set_bytes, doctor_finds
from tests.integration.test_objects import NOW, Served
from tests.lying_store import FLIPS, FLIPS_ONCE, KEEPS_NOTHING, ON_WRITING, RETURNS_OLD, TRUNCATES, Lying, lying_store
from tests.object_store import ObjectStore, object_store
from tests.trash import delete
from tests.waiting import until


@pytest.fixture(scope="module")
def running() -> Iterator[ObjectStore]:
    with object_store() as server:
        yield server


@pytest.fixture
def server(running: ObjectStore) -> ObjectStore:
    """A server with an empty bucket."""
    running.ask("POST", "/moto-api/reset")
    running.ask("PUT", "/scans")
    return running


@pytest.fixture
def lying(server: ObjectStore) -> Iterator[Lying]:
    with lying_store(server.url) as lying:
        yield lying


@pytest.fixture
def node(lying: Lying, tmp_path: Path) -> Iterator[Served]:
    keys_file = tmp_path / "keys"
    keys_file.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    with ExitStack() as opened:
        node = Served(
            tmp_path / "root", "s3://scans/archive", endpoint=lying.url, region="us-east-1",
            credentials_file=keys_file, cache_bytes=0, store_seconds=5,
        )  # fmt: skip
        opened.callback(node.close)
        yield node


def marks(node: Served) -> int:
    return int(node.rows("SELECT count(*) AS marked FROM v_images WHERE file_missing")[0]["marked"])


@pytest.mark.slow
def test_no_local_file_goes_before_its_object_was_read_back(node: Served, lying: Lying) -> None:
    first = make.ct_series(1)[0]
    node.take(first)
    assert node.upload() is None
    node.forget()
    assert node.content(first) == data_set_bytes(first)  # what `RETURNS_OLD` returns
    for fault in ON_WRITING:
        series = make.ct_series(2)
        node.take(*series)
        lying.fault = fault
        assert node.upload() is None
        why = reasons_not_ready(node.repository.ingest, {})["object store"]
        assert "it cannot be relied on: " in why, fault
        node.forget()
        moved = {node.key_of(ds) for ds in series} - {str(path.relative_to(node.root)) for path in node.local()}
        assert moved == set(), fault
        assert node.places()[-2:] == ["spool", "spool"], fault
        lying.fault = None
        assert node.upload() is None
        assert reasons_not_ready(node.repository.ingest, {}) == {}
        node.forget()
        assert node.local() == [], fault
        assert [node.content(ds) for ds in series] == [data_set_bytes(ds) for ds in series], fault
        node.forget()
    assert marks(node) == 0


def test_a_store_is_tried_before_anything_moves_there(node: Served, lying: Lying) -> None:
    [ds] = make.ct_series(1)
    node.take(ds)
    store, place = node.remote.store, node.remote.store.place
    said = {
        KEEPS_NOTHING: "confirms an object and does not keep it",
        TRUNCATES: "returns 16 bytes of an object of 32",
        FLIPS: "returns other bytes than it was given",
    }
    node.uploads.begin()  # its marker is there
    for fault, problem in said.items():
        lying.fault = fault
        assert try_store(store, node.remote.identity, has_used_store=True) == f"{place} {problem}"
    lying.fault = RETURNS_OLD
    assert "returns" in str(try_store(store, node.remote.identity, has_used_store=True))
    node.uploads._has_begun = False  # as after a start
    lying.fault = KEEPS_NOTHING
    assert node.upload() == f"{place} {said[KEEPS_NOTHING]}"
    assert said[KEEPS_NOTHING] in reasons_not_ready(node.repository.ingest, {})["object store"]
    assert len(node.local()) == 1
    lying.fault = None
    assert node.upload() is None
    assert node.places() == ["store"]


@pytest.mark.slow
def test_a_store_that_looks_at_no_checksum_is_named_and_every_upload_is_read_back(
    node: Served, lying: Lying, capfd: pytest.CaptureFixture[str]
) -> None:
    """moto takes every checksum; each way in which a store can look at them is enough."""
    problem = "takes an object whose checksum is wrong: uploads are verified by reading back"

    def reported() -> tuple[str, str]:
        """Return what the doctor and the status tell of the store, after a start."""
        node.uploads._has_begun = False
        assert node.upload() is None
        checks = [found for state, found in doctor_finds(node.settings, "object store") if state == "warning"]
        with looking(place_of(node.root, None)) as index:
            return "".join(checks), index.store_checksums or ""

    for looks_at, names in (({"x-amz-checksum-sha256"}, False), ({"content-md5"}, True), (set(), True)):
        lying.looks_at = frozenset(looks_at)
        capfd.readouterr()
        expected = f"{node.remote.store.place} {problem}" if names else ""
        assert reported() == (expected, expected), looks_at
        assert ("object_store_ignores_checksums" in "".join(capfd.readouterr())) is names
    [ds] = make.ct_series(1)
    node.take(ds)
    lying.fault = TRUNCATES
    assert node.upload() is None
    node.forget()
    assert node.places() == ["spool"]
    assert len(node.local()) == 1


@pytest.mark.slow
def test_a_copy_stays_if_its_object_was_lost_since(
    node: Served, server: ObjectStore, lying: Lying, capfd: pytest.CaptureFixture[str]
) -> None:
    series = make.ct_series(3)
    node.take(*series)
    assert node.upload() is None
    lost, cut, _ = (node.key_of(ds) for ds in series)
    server.ask("DELETE", f"/scans/archive/{lost}")
    server.ask("PUT", f"/scans/archive/{cut}", "short")
    node.forget()
    assert {str(path.relative_to(node.root)) for path in node.local()} == {lost, cut}
    assert node.upload() is None
    assert node.places() == ["store"] * 3
    node.forget()
    assert node.local() == []
    assert [node.content(ds) for ds in series] == [data_set_bytes(ds) for ds in series]
    assert marks(node) == 0
    assert "objects_lost" in "".join(capfd.readouterr())
    [deleted] = make.ct_series(1)
    node.take(deleted)
    assert node.upload() is None
    server.ask("DELETE", f"/scans/archive/{node.key_of(deleted)}")
    delete(node.repository, deleted.SOPInstanceUID, "instance", erases=True)
    node.forget()
    assert node.upload() is None
    assert "objects_lost" not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_one_bad_read_marks_nothing_and_a_mark_goes_when_the_object_is_right_again(node: Served, lying: Lying) -> None:
    series = make.ct_series(4)
    node.take(*series)
    assert node.upload() is None
    node.forget()
    lying.forget_reads()
    lying.fault = FLIPS_ONCE
    assert [node.content(ds) for ds in series] == [data_set_bytes(ds) for ds in series]
    node.forget()

    def read() -> list[bool]:
        """Read all as every reader does; return what of it was recorded as damaged and is whole now."""
        healed = []
        for file in node.files():
            path = node.repository.archive.local(file)
            problem = problem_with(path, file.data_set_offset, file.bytes, file.sha256)
            if problem is not None:
                archive, index = node.repository.archive, node.repository.index
                healed.append(report_damage(archive, index, file.key, problem, NOW))
        return healed

    lying.fault = FLIPS
    assert read() == [False] * 4
    assert marks(node) == 4
    lying.fault = None
    assert read() == [True] * 4  # by the next read
    assert marks(node) == 0
    node.forget()
    lying.fault = FLIPS
    read()
    assert marks(node) == 4
    lying.fault = None
    assert node.upload() is not None or marks(node) == 0  # by the uploads, without a read
    assert marks(node) == 0


@pytest.mark.slow
def test_a_series_that_was_damaged_on_its_way_is_converted_when_it_is_right_again(node: Served, lying: Lying) -> None:
    node.take(*make.ct_series(4))
    assert node.upload() is None
    node.forget()
    states = "SELECT state, error FROM v_series"
    lying.fault = FLIPS
    worker = Worker(node.repository.archive, node.repository.index, ConvertSettings())
    worker.start()
    until(lambda: node.rows(states)[0]["state"] == "failed", 60, "set aside")
    assert node.rows(states)[0]["error"].startswith("damaged: ")
    assert marks(node) == 4
    lying.fault = None
    assert node.upload() is None
    assert marks(node) == 0
    until(lambda: node.rows(states) == [{"state": "converted", "error": None}], 60, "converted")
    worker.stop()
