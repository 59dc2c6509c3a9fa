"""Hosts that share an index in PostgreSQL and an object store, each with a root of its own."""

import datetime as dt
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydicom import FileDataset

from node.api import Settings, UsageError
from node.archive.base import StoreAway
from node.archive.filesystem import is_key
from node.cli import main
from node.control.care import check_repository
from node.control.repository import Repository
from node.conversion.scheduler import Worker
from node.extensions.object_store.kind import copy_archive
from node.extensions.object_store.settings import StoreSettings
from node.extensions.object_store.uploads import ObjectUploads
from node.extensions.postgresql.hosts import HostRepository, JoiningHost
from node.index.rows.backend import IndexUnusable
from node.index.rows.records import InstanceFile, Outcome
from node.lifecycle.scrub import Scrub
from node.receive.custody import NotDecidable, compared
from node.receive.stored_files import report_damage
from node.settings.core import ClusterSettings, IndexSettings, SeriesSettings
from node.settings.section import Convert
from tests import make
from tests.integration.conftest import bring, data_set_bytes
from tests.peers import Pacs
from tests.postgresql import Server
from tests.trash import delete, empty_trash

pytest.importorskip("psycopg", reason="psycopg is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.sqlite("has databases of its own")]

LEASE = dt.timedelta(seconds=60)


class Host:
    """A host as a node opens it, whose uploads run when a test says so."""

    def __init__(self, folder: Path, url: str, name: str, **storage: Any) -> None:
        self.name, self.store = name, folder / "store"
        self.root = folder / name
        self.settings = Settings(
            storage=StoreSettings(root=self.root, url=f"file://{self.store}", reserve_bytes=0, **storage),
            index=IndexSettings(url=url),
            cluster=ClusterSettings(host=name),
            series=SeriesSettings(quiet_seconds=1),
        )
        self.open()

    def open(self) -> None:
        """Start, and say that it lives."""
        self.repository = repository = Repository(self.settings)
        self.index, self.archive = repository.index, repository.archive
        assert repository.archive.remote is not None
        self.remote = repository.archive.remote
        self.remote.hosts.seconds = 0.0
        self.uploads = ObjectUploads(self.archive, self.remote, self.index, repository.metrics)
        now = self.index.now()
        self.index.repository(HostRepository).beat(
            JoiningHost(self.name, ["receive"], "1", [], LEASE), (), now, now, is_behind=False
        )
        self.is_open = True

    def close(self) -> None:
        """Stop, and say so."""
        if self.is_open:
            self.is_open = False
            self.index.repository(HostRepository).leave(self.name, self.index.now())
            self.repository.close()

    def take(self, *instances: FileDataset) -> list[Outcome]:
        return bring(self.repository.ingest, *instances)

    def upload(self) -> None:
        """Do everything that is to be moved to the store, or removed."""
        while self.uploads.step() == 0.0:
            pass

    def file(self, ds: FileDataset) -> InstanceFile:
        found = self.index.instances.current(ds.SOPInstanceUID)
        assert found is not None
        return found

    def content(self, ds: FileDataset) -> bytes:
        """Read the data set of an instance as every reader does."""
        file = self.file(ds)
        return self.archive.local(file).read_bytes()[file.data_set_offset :]

    def spooled(self) -> dict[str, int]:
        """How many instances each host alone has."""
        with self.index.reading() as index:
            rows = index.hosts.all(index.hosts.now())
        return {row["name"]: row["spooled_instances"] for row in rows if row["spooled_instances"]}

    def claim(self) -> str | None:
        """The series that this host would convert, after the quiet time."""
        claimed = self.index.series.claim_due(self.index.now() + dt.timedelta(seconds=5))
        if claimed is None:
            return None
        self.index.series.release_claim(claimed, self.index.now())
        return claimed.series_instance_uid

    def row(self, query: str) -> dict[str, Any]:
        with self.index.reading() as index:
            return index.series._rows(query)[0]

    def volumes(self) -> dict[str, bytes]:
        """Files of volumes on its disk by their names."""
        return {path.name: path.read_bytes() for path in self.root.glob("volumes/*/*/*/*")}

    def copies(self) -> set[str]:
        """Names of the instances on its disk."""
        return {path.name for path in self.root.glob("objects/*/*.dcm")}


def require_agreement(*hosts: Host) -> None:
    """Index and files agree at each host."""
    for host in hosts:
        assert check_repository(host.settings, digests=True, repair=False) == []


Hosts = Callable[[str], Host]


@pytest.fixture
def hosts(server: Server, tmp_path: Path) -> Iterator[Hosts]:
    url = server.create(tmp_path.name, "migrated")
    (tmp_path / "store").mkdir()
    with ExitStack() as opened:

        def host(name: str) -> Host:
            made = Host(tmp_path, url, name)
            opened.callback(made.close)
            made.upload()  # the first one makes the store that of the index
            return made

        yield host


def test_a_series_waits_for_the_host_that_alone_has_its_instances(hosts: Hosts) -> None:
    r1, c1 = hosts("r1"), hosts("c1")
    series = make.ct_series(3)
    uid = series[0].SeriesInstanceUID
    r1.take(*series)
    file = r1.file(series[0])
    assert (file.place, file.holder, is_key(file.key)) == ("spool", "r1", True)
    assert (r1.claim(), c1.claim()) == (uid, None)
    r1.close()
    since = c1.index.now() + dt.timedelta(seconds=5)
    c1.index.repository(HostRepository).note_waits_for_hosts(since)
    waits = "waits: for host r1, which alone has 3 of its instances"
    assert c1.row("SELECT state, error FROM v_series") == {"state": "receiving", "error": waits}
    with pytest.raises(StoreAway, match="host r1 alone has the file"):
        c1.content(series[0])
    with c1.index.reading() as index:
        [of_r1] = [row for row in index.hosts.all(index.hosts.now()) if row["name"] == "r1"]
    assert (of_r1["state"], of_r1["spooled_instances"]) == ("stopped", 3)

    # What another host cannot read is neither missing nor damaged.
    report_damage(c1.archive, c1.index, file.key, "is missing", c1.index.now())
    scrub = Scrub(c1.archive, c1.index, c1.repository.metrics, 1e-9, c1.index.now)
    while scrub.step() == 0.0:
        pass
    c1.upload()
    assert check_repository(c1.settings, digests=True, repair=False) == []
    c1.close()
    assert check_repository(c1.settings, digests=True, repair=True) == []
    c1.open()
    assert (c1.spooled(), c1.file(series[0]).file_missing) == ({"r1": 3}, False)

    r1.open()
    r1.upload()
    assert (r1.spooled(), c1.file(series[0]).place) == ({}, "store")
    assert [c1.content(ds) for ds in series] == [data_set_bytes(ds) for ds in series]
    worker = Worker(c1.archive, c1.index, Convert(formats=("nifti",)), lambda: c1.index.now() + dt.timedelta(seconds=5))
    worker.step()
    worker.stop()
    assert c1.row("SELECT state, error FROM v_series") == {"state": "converted", "error": None}
    for host in (r1, c1):
        assert check_repository(host.settings, digests=True, repair=False) == []


def test_the_same_instance_through_another_host_takes_the_place_of_what_cannot_be_read(hosts: Hosts) -> None:
    r1, r2 = hosts("r1"), hosts("r2")
    series = make.ct_series(2)
    r1.take(*series)
    old = r1.file(series[0]).key
    assert r2.take(series[0]) == [Outcome.STORED]  # the file of r1 cannot be compared here
    assert r2.spooled() == {"r1": 1, "r2": 1}
    assert (r1.claim(), r2.claim()) == (None, None)
    r2.upload()
    assert r1.claim() == series[0].SeriesInstanceUID
    r1.upload()
    r2.upload()
    r1.upload()
    assert Path(old).name not in r1.copies()
    assert r1.take(series[0]) == [Outcome.ALREADY_THERE]
    assert r2.take(series[1]) == [Outcome.ALREADY_THERE]
    assert {path.name for path in r1.store.glob("objects/*/*.dcm")} == {Path(r1.file(ds).key).name for ds in series}
    require_agreement(r1, r2)


def test_versions_are_in_quarantine_of_the_host_that_has_them(hosts: Hosts) -> None:
    r1, r2 = hosts("r1"), hosts("r2")
    first, stored = make.ct_series(2)
    r1.take(stored)
    r1.upload()
    r1.take(first)
    r2.repository.ingest.overwrite_policy = "replace"
    replaced = {ds.SOPInstanceUID: r1.file(ds).key for ds in (first, stored)}
    for ds in (first, stored):
        ds.ImageComments = "again"
        assert r2.take(ds) == [Outcome.REPLACED]
    for host in (r2, r1, r2, r1):
        host.upload()
    aside = {host.name: {path.name for path in host.root.glob("quarantine/*.dcm")} for host in (r1, r2)}
    names = {uid: Path(key).name for uid, key in replaced.items()}
    assert aside == {"r1": {names[first.SOPInstanceUID]}, "r2": {names[stored.SOPInstanceUID]}}
    assert not (r1.copies() | r2.copies()) & set(names.values())
    assert [r2.content(ds) for ds in (first, stored)] == [data_set_bytes(ds) for ds in (first, stored)]
    require_agreement(r1, r2)
    r1.close()
    r1.open()
    with r1.index.reading() as index:
        assert len(index.files.losers()) == 2

    conflict = r1.row(f"SELECT id FROM conflicts WHERE sop_instance_uid = '{stored.SOPInstanceUID}'")["id"]
    with pytest.raises(NotDecidable, match="in the quarantine of r2: decide there"):
        r1.repository.actions.by_name["accept-conflict"](conflict=conflict, who="test")
    for host, problem in ((r1, "the file of the other version is in the quarantine of r2: compare there"), (r2, None)):
        with host.index.reading() as index:
            assert compared(host.root, index, conflict, host.archive.local).problem == problem

    # A deletion reaches every disk: rows at once, files with the objects.
    assert len([r1.content(ds) for ds in (first, stored)]) == len(r1.copies()) == 2
    delete(r2.repository, first.StudyInstanceUID)
    empty_trash(r2.repository)
    for host in (r1, r2, r1):
        host.upload()
    for host in (r1, r2):
        assert not [*host.root.glob("objects/*/*.dcm"), *host.root.glob("quarantine/*.dcm")]
    assert not list(r1.store.glob("objects/*/*.dcm"))


def test_what_was_deleted_while_a_host_was_away_is_gone_from_its_disk_when_it_is_back(hosts: Hosts) -> None:
    r1, r2 = hosts("r1"), hosts("r2")
    series = make.ct_series(2)
    r1.take(*series)
    r1.close()
    delete(r2.repository, series[0].StudyInstanceUID, erases=True)
    r2.upload()
    assert len(r1.copies()) == 2
    r1.open()
    assert r1.repository.recovered.adopted == 0
    r1.upload()
    assert (r1.copies(), r1.row("SELECT count(*) AS n FROM images")) == (set(), {"n": 0})


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("meanwhile", ["nothing", "one comes again", "a host is forgotten"])
def test_an_undo_at_one_host_brings_back_what_others_alone_have(hosts: Hosts, meanwhile: str) -> None:
    r1, r2 = hosts("r1"), hosts("r2")
    mine, other = make.ct_series(2)
    r1.take(mine), r2.take(other)
    delete(r2.repository, mine.StudyInstanceUID)
    if meanwhile == "one comes again":
        r2.take(mine)
    elif meanwhile == "a host is forgotten":
        r1.close()
        r2.repository.actions.by_name["forget-host"](host="r1", who="admin")
    done = r2.repository.actions.by_name["restore-trash"](number=1, who="somebody")
    counts = {"one comes again": (1, 0, 1), "a host is forgotten": (1, 1, 0)}.get(meanwhile, (2, 0, 0))
    assert (done["instances"], done["lost"], done["unread"]) == counts
    assert [r2.file(ds).file_missing for ds in (mine, other)] == [done["lost"] > 0, False]
    r1.close()
    r1.open()  # or its disk was found
    r1.upload(), r2.upload()
    for host in (r1, r2):
        assert [host.content(ds) for ds in (mine, other)] == [data_set_bytes(ds) for ds in (mine, other)]
    require_agreement(r1, r2)
    assert (r2.index.trash.restoring(), r2.spooled()) == ([], {})


@pytest.mark.long
def test_a_host_that_is_gone_is_forgotten_with_what_it_alone_had(hosts: Hosts) -> None:
    r1, r2 = hosts("r1"), hosts("r2")
    put, lost, sent_again = make.ct_series(3)
    forget = r2.repository.actions.by_name["forget-host"]
    r1.take(put, lost, sent_again)
    with pytest.raises(UsageError, match="stop it first"):
        forget(host="r1", who="admin")
    r2.remote.store.put(r1.file(put), r1.archive.path(r1.file(put).key).read_bytes())  # and r1 did not record it
    r1.close()
    away = r2.store.rename(r2.store.with_name("away"))
    with pytest.raises(UsageError, match="when the store tells"):
        forget(host="r1", who="admin")
    away.rename(r2.store)
    uids = {"study_instance_uid": put.StudyInstanceUID, "series_instance_uid": put.SeriesInstanceUID}
    assert forget(host="r1", who="admin")["lost"] == [uids | {"instances": 2}]
    assert r2.content(put) == data_set_bytes(put)
    assert [r2.file(ds).file_missing for ds in (put, lost, sent_again)] == [False, True, True]
    assert r2.claim() == put.SeriesInstanceUID  # nobody waits for r1 any more
    assert r2.take(sent_again) == [Outcome.STORED]
    r2.upload()
    r1.open()  # its disk was found
    r1.upload()
    r2.upload()
    r1.upload()
    assert r2.spooled() == {}
    assert [r2.content(ds) for ds in (put, lost, sent_again)] == [data_set_bytes(ds) for ds in (put, lost, sent_again)]
    require_agreement(r1, r2)


@pytest.mark.long
def test_volumes_are_read_on_every_host_and_made_again_if_the_host_that_has_them_is_gone(hosts: Hosts) -> None:
    r1, c1, ds, made = converted_elsewhere(hosts)
    assert (sorted(made), r1.volumes()) == (["volume.json", "volume.nii.gz"], {})
    with r1.index.reading() as index:
        volume = next(file for file in index.files.of_volumes() if file.key.endswith(".nii.gz"))
    assert (volume.place, volume.holder) == ("spool", "c1")
    with pytest.raises(StoreAway, match="host c1 alone has the file"):
        r1.archive.local(volume)
    r1.upload()
    assert check_repository(r1.settings, digests=True, repair=False) == []
    c1.upload()
    assert r1.archive.local(volume).read_bytes() == made["volume.nii.gz"]

    r1.index.series.reopen([(ds.StudyInstanceUID, ds.SeriesInstanceUID)], r1.index.now())
    convert(c1, nifti_extension=True)
    c1.close()
    lost = c1.root.rename(c1.root.with_name("gone"))
    r1.repository.actions.by_name["forget-host"](host="c1", who="admin")
    with r1.index.reading() as index:
        [current] = [file for file in index.files.of_volumes() if not file.superseded and file.key.endswith(".nii.gz")]
    with pytest.raises(FileNotFoundError):
        r1.archive.local(current)
    convert(r1, nifti_extension=True)
    r1.upload()
    assert check_repository(r1.settings, digests=True, repair=False) == []  # what is gone is superseded

    lost.rename(c1.root)
    delete(r1.repository, ds.StudyInstanceUID)
    empty_trash(r1.repository)
    r1.upload()
    c1.open()
    c1.upload()
    assert (r1.volumes(), c1.volumes()) == ({}, {})
    assert not [path for path in r1.store.glob("volumes/**/*") if path.is_file()]


@pytest.mark.long
def test_a_host_whose_disk_is_new_makes_again_what_it_alone_had(hosts: Hosts) -> None:
    r1, c1, _, made = converted_elsewhere(hosts)
    c1.close()
    c1.root.rename(c1.root.with_name("gone"))
    c1.open()
    c1.upload()  # which finds nothing to upload
    convert(c1)
    assert c1.volumes() == made
    c1.upload()
    assert check_repository(r1.settings, digests=True, repair=False) == []


def converted_elsewhere(hosts: Hosts) -> tuple[Host, Host, FileDataset, dict[str, bytes]]:
    """Return the host that received an instance, the host that converted it, the instance, and the files made of it."""
    r1, c1 = hosts("r1"), hosts("c1")
    [ds] = make.ct_series(1)
    r1.take(ds)
    r1.upload()
    convert(c1)
    return r1, c1, ds, c1.volumes()


def convert(host: Host, **options: Any) -> None:
    """Convert what is due on a host."""
    soon = host.index.now() + dt.timedelta(seconds=5)
    worker = Worker(host.archive, host.index, Convert(formats=("nifti",), thumbnails=False, **options), lambda: soon)
    worker.step()
    worker.stop()


def test_everything_comes_back_to_a_folder_only_if_no_host_needs_the_store(hosts: Hosts) -> None:
    r1, r2 = hosts("r1"), hosts("r2")
    r1.take(*make.ct_series(2))
    r2.close()
    with pytest.raises(UsageError, match="r1: stop all other hosts"):
        copy_archive(r2.settings, "folder")
    r1.close()
    with pytest.raises(UsageError, match="r1: has instances or volumes that are not in"):
        copy_archive(r2.settings, "folder")
    assert copy_archive(r1.settings, "store").left == 0
    assert copy_archive(r2.settings, "folder").instances == 2
    assert len(r2.copies()) == 2
    with pytest.raises(IndexUnusable, match="first start the host that has these files"):
        hosts("r3")


@pytest.mark.long
def test_commands_fetch_what_they_read_or_name_the_host_that_alone_has_it(
    hosts: Hosts, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("node.extensions.object_store.places.HOST_SECONDS", 0.0)
    r1, c1 = hosts("r1"), hosts("c1")
    stored, spooled = (make.ct_series(1, StationName=name)[0] for name in ("STORED", "SPOOLED"))
    r1.take(stored)
    r1.upload()
    r1.take(spooled)
    config = tmp_path / "c1.toml"
    config.write_text(
        f'[storage]\nroot = "{c1.root}"\nurl = "file://{c1.store}"\n'
        f'[index]\nurl = "{c1.settings.index.url}"\n[cluster]\nhost = "c1"\n'
    )

    capsys.readouterr()

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--config", str(config), "--json"])
        return ended.value.code, *capsys.readouterr()

    reason = "host r1 alone has the file, and has not moved it to the object store yet: try again when r1 runs"
    status, out, _ = run("dump", stored.SOPInstanceUID)
    dumped = json.loads(out)
    assert (status, dumped["path"]) == (0, str(c1.archive.path(c1.file(stored).key)))
    assert "'STORED'" in [element["text"] for element in dumped["elements"]]
    assert run("dump", spooled.SOPInstanceUID) == (1, "", f"voxelnode: {reason}\n")
    for level in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        headers = [json.loads(run("info", str(ds[level].value))[1])["header"] for ds in (stored, spooled)]
        assert headers[0].get("StationName") == (None if level == "StudyInstanceUID" else "STORED")
        assert "problem" not in headers[0]
        assert headers[1] == {"problem": reason}

    with Pacs() as pacs:
        both = stored.StudyInstanceUID, spooled.StudyInstanceUID
        status, out, _ = run("peers", "send", *both, "--to", f"PACS@127.0.0.1:{pacs.port}")
    failure = {"sop_instance_uid": spooled.SOPInstanceUID, "reason": f"its file cannot be read now: {reason}"}
    assert (status, json.loads(out)) == (1, {"sent": 1, "warnings": 0, "failed": [failure]})
    assert pacs.taken == [stored.SOPInstanceUID]

    c1.store.rename(c1.store.with_name("away"))
    status, _, reported = run("dump", stored.SOPInstanceUID)
    assert (status, reported.startswith("voxelnode: "), "Errno" in reported) == (1, True, False)
    assert str(c1.store) in json.loads(run("info", stored.SOPInstanceUID)[1])["header"]["problem"]
    assert not list(c1.root.glob("objects/*/*.dcm"))
