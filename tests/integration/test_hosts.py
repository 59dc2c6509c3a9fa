"""Hosts that share an index in PostgreSQL: claims, leases, the clock, and cursors behind what several commit."""

import datetime as dt
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from math import inf
from pathlib import Path
from time import monotonic

import pytest
from pydicom import FileDataset
from sqlalchemy import Connection
from structlog.testing import capture_logs

from node.api import Audit, Index, OutOfResources, Settings, UsageError
from node.archive.filesystem import Archive
from node.conversion.scheduler import Worker
from node.conversion.volume_files import revision_folder, sweep, sweep_unknown
from node.dicom.attributes import instance_attributes
from node.errors import VoxelnodeError
from node.extensions.channels.settings import WebhookSettings
from node.extensions.postgresql import servers
from node.extensions.postgresql.hosts import Forgotten, HostRepository, JoiningHost
from node.extensions.postgresql.membership import ACTIVITY_SECONDS, LeaseWatch, Membership, digests
from node.extensions.postgresql.several import Leases
from node.index.rows.about_keys import REVISION
from node.index.rows.backend import IndexUnusable, ServerPlace
from node.index.rows.models.levels import STORE
from node.index.rows.place import check, upgrade
from node.index.rows.records import ClaimedSeries, Lane, Received, StoredFile
from node.index.rules.series.waits import OPEN_SECONDS
from node.index.rules.work.events import record_event
from node.index.rules.work.routes import lane_to
from node.lifecycle.retention import Retention, confirm, uptime
from node.runtime.metrics import Metrics
from node.settings.core import RetentionSettings
from node.settings.section import Convert
from tests import make
from tests.ingest import opened_ingest
from tests.integration.conftest import Clock, data_set_bytes
from tests.newer import NEWER, newer
from tests.postgresql import Server
from tests.processes import children
from tests.silent_line import Line, line_to
from tests.waiting import until

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")

pytestmark = pytest.mark.sqlite("has databases of its own")

LEASE = dt.timedelta(seconds=60)


class Host:
    """A host of an index, without its services."""

    def __init__(self, index: Index, name: str) -> None:
        self.index, self.leases = index, Leases()
        self.member = JoiningHost(name, ["convert"], "1", [], LEASE)

    def beat(
        self, now: dt.datetime, *wanted: str, is_behind: bool = False, clock_ahead_seconds: float = 0.0
    ) -> frozenset[str]:
        self.index.sharing.join(self.leases)
        says = {"is_behind": is_behind, "clock_ahead_seconds": clock_ahead_seconds}
        return self.index.repository(HostRepository).beat(self.member, wanted, now, now, **says)


Hosts = Callable[[str], Host]


@pytest.fixture
def hosts(server: Server, tmp_path: Path) -> Iterator[Hosts]:
    """Open the index of a test as another host."""
    url = server.create(tmp_path.name, "migrated")
    with ExitStack() as opened:

        def host(name: str) -> Host:
            return Host(
                opened.enter_context(closing(Index(tmp_path, Metrics(), url=url, host=name, has_roots=True))), name
            )

        yield host


@pytest.fixture
def line(server: Server) -> Iterator[Line]:
    with line_to(server) as line:
        yield line


SOON = {"tcp_user_timeout": "300", "connect_timeout": "2"}
"""Parameters of libpq with which a silent line is noticed soon."""


def add(index: Index, now: dt.datetime, ds: FileDataset | None = None, association: str = "") -> None:
    """Add an instance, in the store already, whose series has been due for a while."""
    if ds is None:
        [ds] = make.ct_series(1)
    syntax, data = str(ds.file_meta.TransferSyntaxUID), data_set_bytes(ds)
    key = f"objects/00000000/{ds.SOPInstanceUID}.dcm"
    received_at = now - dt.timedelta(seconds=10)
    file = StoredFile(
        key, f"quarantine/{key}", len(data), "0" * 64, 0, syntax, "dicom", "CT", "", "", received_at, STORE
    )
    index.instances.add([Received(instance_attributes(data, syntax), file, 1.0, association=association)])


@pytest.mark.slow
def test_a_series_is_claimed_by_one_host_and_taken_over_when_that_one_vanishes(hosts: Hosts) -> None:
    a, b = hosts("a"), hosts("b")
    now = a.index.now()
    a.beat(now), b.beat(now)
    add(a.index, now)
    claimed = a.index.series.claim_due(now)
    assert claimed is not None
    assert b.index.series.claim_due(now) is None
    # Neither a start of another host, nor its look for stalled claims, nor one before the end of the lease takes it.
    assert b.index.series.release_all_claims(now) == b.index.series.release_stalled_claims([], now) == 0
    assert b.index.series.take_over(now + LEASE / 2) is None
    later = now + LEASE + dt.timedelta(seconds=1)
    b.beat(later)
    assert a.index.series.take_over(later) is None  # its own: it knows what it does
    taken, of = b.index.series.take_over(later) or (None, "")
    assert (taken and taken.id, of) == (claimed.id, "a")
    assert a.index.series.is_claimed(claimed) is False
    assert b.index.series.record_crash(taken, "host a vanished", 3, later) is True
    with b.index.reading() as view:
        [row] = view.series.under_way(10)
        assert (row["state"], row["error"]) == ("receiving", "host a vanished")
    again = b.index.series.claim_due(later + dt.timedelta(hours=1))
    a.index.series.release_claim(claimed, later)  # of a claim that was lost
    assert b.index.series.claims() == [again.claim]
    assert b.index.series.release_all_claims(later) == 1  # a start of the host itself


@pytest.mark.slow
def test_hosts_that_claim_at_once_claim_each_series_once(hosts: Hosts) -> None:
    both = hosts("a"), hosts("b")
    now = both[0].index.now()
    for _ in range(20):
        add(both[0].index, now)
    claims: list[ClaimedSeries] = []

    def claim(host: Host) -> None:
        while (claimed := host.index.series.claim_due(now)) is not None:
            claims.append(claimed)

    threads = [threading.Thread(target=claim, args=(host,)) for host in both for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    claims += [claimed for host in both if (claimed := host.index.series.claim_due(now)) is not None]
    assert len({claimed.id for claimed in claims}) == len(claims) == 20


@pytest.mark.slow
def test_what_exists_once_is_done_by_one_living_host(hosts: Hosts) -> None:
    a, b = hosts("a"), hosts("b")
    now, name = a.index.now(), "deliver/hook/hook"
    a.index.deliveries.begin("hook", {Lane("hook", "hook"): ("series-quiet",)})
    assert a.beat(now, name, "scrub") == {name, "scrub"}
    assert b.beat(now, name, "retention") == {"retention"}
    b_later = now + LEASE + dt.timedelta(seconds=1)
    assert b.beat(b_later, name) == {name, "retention"}
    with pytest.raises(VoxelnodeError, match="another host"):  # it was slow, and does not know
        a.index.deliveries.record(Lane("hook", "hook"), [], [], now)
    b.index.deliveries.record(Lane("hook", "hook"), [], [], now)
    with pytest.raises(UsageError, match="b was seen 0 s ago: stop it first"):
        a.index.repository(HostRepository).forget("b", b_later)
    b.index.repository(HostRepository).leave("b", b_later)
    add(b.index, now)
    assert b.index.series.claim_due(b_later) is not None
    assert a.beat(b_later, name) == {name, "scrub"}
    b.member = replace(b.member, subscribers=["hook/hook", "route/only/b"])
    b.beat(now, "b's", is_behind=True)
    a.member = replace(a.member, subscribers=["hook/hook"])
    a.beat(b_later)
    assert a.index.repository(HostRepository).forget("b", b_later) == Forgotten(["route/only/b"], ["b's"], 1, True, [])
    with a.index.reading() as view:
        [row] = view.hosts.all(b_later)
        assert (row["name"], row["state"], row["leases"]) == ("a", "alive", [name, "scrub"])


def test_a_lease_is_not_used_after_its_end_and_asked_for_by_its_use() -> None:
    leases = Leases()
    assert leases.holds("scrub") is False
    assert leases.wanted == {"scrub"}
    assert leases.renew(frozenset({"scrub"}), float("inf")) is True
    assert leases.holds("scrub") is True
    assert leases.renew(frozenset({"scrub"}), float("-inf")) is False
    assert leases.holds("scrub") is False


@pytest.mark.slow
def test_a_start_deletes_no_hook_of_another_host(hosts: Hosts) -> None:
    a, b = hosts("a"), hosts("b")
    a.member = JoiningHost("a", ["receive"], "1", ["hook/mine", "route/route/to"], LEASE)
    a.beat(a.index.now())
    a.index.deliveries.begin("hook", {Lane("hook", "mine"): ("series-quiet",)})
    a.index.deliveries.begin("route", {lane_to("route", "to"): ("series-quiet",)})
    b.beat(b.index.now())
    b.index.deliveries.begin("hook", {})
    b.index.deliveries.begin("route", {})
    assert a.index.deliveries.work(Lane("hook", "mine"), ["series-quiet"], a.index.now())
    assert a.index.deliveries.work(lane_to("route", "to"), ["series-quiet"], a.index.now())
    a.index.repository(HostRepository).leave("a", a.index.now())
    b.index.repository(HostRepository).forget("a", b.index.now())
    b.index.deliveries.begin("hook", {})
    with b.index.reading() as view:
        assert "mine" not in view.hooks.progress()


@pytest.mark.slow
def test_files_of_a_conversion_of_another_host_are_no_strays(hosts: Hosts, tmp_path: Path) -> None:
    a, b = hosts("a"), hosts("b")
    now = a.index.now()
    add(a.index, now)
    claimed = a.index.series.claim_due(now)
    archive = Archive(tmp_path / "archive", host="b")
    copies = archive.root / "objects/00000007-a"
    published, stray = archive.root / revision_folder(claimed), archive.root / "volumes/1.2/3.4/1-01234567"
    for folder in (published, stray, archive.work / "x", copies):
        folder.mkdir(parents=True)
    assert archive.new_key().startswith("objects/00000000-b/")
    sweep(archive, b.index)
    sweep_unknown(archive, b.index)
    assert (published.exists(), stray.exists(), list(archive.work.iterdir())) == (True, False, [])
    assert (archive.folders(), archive.local_folders()) == (["00000000-b"], ["00000000-b", "00000007-a"])


@pytest.mark.slow
def test_an_open_association_of_another_host_keeps_its_series_waiting(hosts: Hosts, tmp_path: Path) -> None:
    a, b = hosts("a"), hosts("b")
    now = a.index.now()
    add(a.index, now, association="open")
    with opened_ingest(Archive(tmp_path), a.index, Metrics(), lambda sender: 1.0, 1 << 20) as ingest:
        with b.index.reading() as view:
            [row] = view.series.under_way(10)
        series = row["study_instance_uid"], row["series_instance_uid"]
        ingest.open_associations.brought("open", "CT", series)
        assert b.index.series.claim_due(now) is None
        later = now + dt.timedelta(seconds=OPEN_SECONDS)
        assert b.index.series.is_due(later)
        ingest.open_associations.brought_by("open").active_at += 2 * ACTIVITY_SECONDS  # bytes came since
        Membership(a.index, ingest, a.member).step()
        assert not b.index.series.is_due(now + dt.timedelta(seconds=OPEN_SECONDS - 5))
        ingest.association_ended("open", "released")
        assert ingest.applier.catch_up()
    assert b.index.series.claim_due(now) is not None


@pytest.mark.slow
def test_a_gap_of_the_journal_that_another_host_accepted_is_reported_no_more(hosts: Hosts, tmp_path: Path) -> None:
    a, b = hosts("a"), hosts("b")
    a.index.lost.note_gap("the journal is gone", a.index.now())
    with opened_ingest(Archive(tmp_path), b.index, Metrics(), lambda sender: 1.0, 1 << 20) as ingest:
        ingest.gaps = b.index.lost.gaps()
        assert ingest.gaps
        a.index.lost.accept_gaps()
        Membership(b.index, ingest, b.member).step()
        assert not ingest.gaps


@pytest.mark.slow
def test_no_host_claims_while_another_one_is_behind(hosts: Hosts) -> None:
    a, b = hosts("a"), hosts("b")
    now = a.index.now()
    a.beat(now, is_behind=True)
    assert (a.index.sharing.must_wait(now), b.index.sharing.must_wait(now)) == (False, True)
    assert not b.index.sharing.must_wait(now + LEASE)  # it vanished: its instances reopen the series when they come


@pytest.mark.slow
def test_a_cursor_passes_no_event_that_is_still_to_be_committed_and_a_hook_misses_none(hosts: Hosts) -> None:
    a, b = hosts("a"), hosts("b")
    a.index.deliveries.begin("hook", {Lane("hook", "hook"): ("study-quiet",)})
    is_written, may_commit = threading.Event(), threading.Event()

    def record(index: Index, detail: str, *, slowly: bool = False) -> None:
        def write(connection: Connection) -> None:
            record_event(connection, "study-quiet", index.now(), study_instance_uid="1.2", detail=detail)
            if slowly:
                is_written.set()
                assert may_commit.wait(30)

        index._writer.run(write)

    def followed() -> list[str]:
        with a.index.reading(wait=False, following=True) as view:
            return [row["detail"] for row in view.events.since(0, 10)]

    def owed() -> list[str | None]:
        work = a.index.deliveries.work(Lane("hook", "hook"), ["study-quiet"], a.index.now())
        return [pending.detail for pending in work.new]

    record(b.index, "before")
    assert followed() == ["before"]
    slow = threading.Thread(target=record, args=(a.index, "first"), kwargs={"slowly": True})
    slow.start()
    assert is_written.wait(30)
    record(b.index, "second")
    with a.index.reading(wait=False) as view:  # a cursor that passes it would never see the first one
        assert [row["detail"] for row in view.events.since(0, 10)] == ["before", "second"]
    assert followed() == ["before"]
    assert owed() == ["before", "second"]
    may_commit.set()
    slow.join()
    assert followed() == owed() == ["before", "first", "second"]


@pytest.mark.slow
def test_a_wrong_clock_of_one_host_changes_no_wait(hosts: Hosts, tmp_path: Path) -> None:
    a, b = hosts("a"), hosts("b")
    now = dt.datetime.now(dt.UTC)
    moment = a.index.now()
    assert abs(moment - b.index.now()) < dt.timedelta(minutes=1)
    assert abs(moment - now) < dt.timedelta(minutes=1)  # both are of this machine, so the clock of the server is right
    add(a.index, moment)
    with a.index.reading() as view:
        [due_at] = [row["due_at"] for row in view.series.under_way(10)]

    clock = Clock(now)
    worker = Worker(Archive(tmp_path), b.index, Convert(), clock)
    worker._follow_clock()
    clock.move(3600)  # as if the machine of this host were set
    worker._follow_clock()
    with a.index.reading() as view:
        assert [row["due_at"] for row in view.series.under_way(10)] == [due_at]


@pytest.mark.slow
def test_hosts_that_differ_say_so_and_nothing_is_deleted_meanwhile(hosts: Hosts, tmp_path: Path) -> None:
    a, b = hosts("a"), hosts("b")
    now = a.index.now()
    of_a = digests(Settings(retention=RetentionSettings(days=1, only_converted=False)))
    of_b = digests(Settings(retention=RetentionSettings(days=1)))
    assert [name for name in of_a if of_a[name] != of_b[name]] == ["retention"]

    def tell(host: Host, configuration: Mapping[str, str], ahead: float) -> None:
        host.member = replace(host.member, configuration=configuration)
        host.beat(now, "retention", clock_ahead_seconds=ahead)

    def problems() -> dict[str, str]:
        with a.index.reading() as view:
            return view.hosts.problems()

    tell(a, of_a, 0.4), tell(b, of_a, -1.0)
    add(a.index, now - dt.timedelta(days=3))
    a.leases.holds("retention")
    a.leases.renew(frozenset({"retention"}), inf)
    assert problems() == {}
    rules = RetentionSettings(days=1, only_converted=False)
    audit = Audit(tmp_path, "VOXELNODE", now=a.index.now)
    retention = Retention(Archive(tmp_path), a.index, audit, Metrics(), Settings(retention=rules), a.index.now)

    tell(b, of_b, -600.2)
    assert problems() == {
        "clock_differs": "host b: its clock is 600 s behind that of PostgreSQL: synchronize both (NTP)",
        "configuration_differs": "host b: [retention] not as host a has it: give both one configuration, and start "
        "them again",
    }
    retention.step()
    waits_for = a.index.retention.state().waits_for or ""
    assert waits_for.startswith("host b: its clock is 600 s behind")
    assert waits_for.endswith("nothing is deleted until the hosts agree")
    assert confirm(a.index, now, uptime(), rules) == ""
    assert studies_of(a) == 1

    tell(b, of_a, 0.0)
    retention.step()
    assert (a.index.retention.state().waits_for, studies_of(a)) == (None, 0)


def studies_of(host: Host) -> int:
    with host.index.reading() as index:
        return index.studies.count()


def test_what_differs_between_machines_is_no_different_configuration(tmp_path: Path) -> None:
    hook = WebhookSettings(on=["series-failed"], url="https://a.example.org", secret_file=tmp_path / "one")
    one = Settings(hooks={"h": hook}, convert=Convert(workers=1))
    other = Settings(hooks={"h": hook.model_copy(update={"secret_file": tmp_path / "two"})}, convert=Convert(workers=4))
    assert digests(one) == digests(other) != digests(Settings())


def test_standbys_are_counted_by_how_they_follow(hosts: Hosts, server: Server) -> None:
    a = hosts("a")
    with a.index.reading(wait=False) as view:
        assert view.standbys().counts == {}
    [(position,)] = server.run("SELECT pg_current_wal_flush_lsn()::text")
    with closing(psycopg.connect(f"host={server.folder} user=voxelnode replication=true")) as standby:
        standby.pgconn.send_query(f"START_REPLICATION {position}".encode())

        def standbys() -> dict[str, int]:
            with a.index.reading(wait=False) as view:
                return view.standbys().counts

        until(lambda: standbys() == {"async": 1}, 30, "the standby")


@pytest.mark.slow
def test_a_second_host_without_an_object_store_is_refused_while_one_lives(server: Server, tmp_path: Path) -> None:
    url = server.create("roots", "migrated")
    with closing(Index(tmp_path / "one", Metrics(), url=url, host="a")) as index:
        Host(index, "a").beat(index.now())
        with pytest.raises(IndexUnusable, match=r"in use by a: hosts .* share an object store"):
            Index(tmp_path / "two", Metrics(), url=url, host="b")
        with pytest.raises(IndexUnusable, match="in use by a"):  # on another machine, where its root has the same path
            Index(tmp_path / "one", Metrics(), url=url, host="b")
        index.repository(HostRepository).leave("a", index.now())
    Index(tmp_path / "two", Metrics(), url=url, host="b").close()


@pytest.mark.slow
def test_a_host_writes_again_after_silence_though_the_server_still_knows_its_old_session(
    server: Server, line: Line, tmp_path: Path
) -> None:
    server.create("silence", "migrated")
    with closing(Index(tmp_path, Metrics(), url=line.url("silence", **SOON), host="a", has_roots=True)) as index:
        host = Host(index, "a")
        host.beat(index.now())
        line.silence()
        with capture_logs(), pytest.raises(OutOfResources):  # and does not wait for ever
            host.beat(dt.datetime.now(dt.UTC))
        line.heal()
        host.beat(index.now())
        [(locks,)] = server.run("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2")
        assert locks == 1  # of its name


class Converting:
    """A host that converts, with a child process that has been stopped: its conversion goes on until it is ended."""

    def __init__(self, host: Host, root: Path) -> None:
        self.index, self.host = host.index, host
        self.worker = Worker(Archive(root), host.index, Convert(), host.index.now)
        known = children()
        self.worker._converters.start()
        [child] = children() - known
        self._child = os.pidfd_open(child)
        signal.pidfd_send_signal(self._child, signal.SIGSTOP)

    def begin(self) -> None:
        """Have it claim a series."""
        self.worker.start()
        until(lambda: bool(self.worker._under_way) or self.has_ended(0), 60, "a conversion")

    def has_ended(self, seconds: float = 60) -> bool:
        """Whether the child has, which by itself it cannot."""
        return bool(select.select([self._child], [], [], seconds)[0])

    def stop(self) -> None:
        self.worker.stop(0)
        os.close(self._child)


@pytest.mark.long
def test_a_conversion_ends_with_its_claim_or_its_host_cut_off(server: Server, line: Line, tmp_path: Path) -> None:
    url = server.create("claims", "migrated")
    with ExitStack() as opened, capture_logs() as lines:
        a = Host(opened.enter_context(closing(Index(tmp_path, Metrics(), url=url, host="a", has_roots=True))), "a")
        b = Host(opened.enter_context(closing(Index(tmp_path, Metrics(), url=url, host="b", has_roots=True))), "b")
        c = Host(
            opened.enter_context(
                closing(Index(tmp_path, Metrics(), url=line.url("claims", **SOON), host="c", has_roots=True))
            ),
            "c",
        )
        now = a.index.now()
        a.beat(now), b.beat(now)
        add(a.index, now)
        first = Converting(a, tmp_path)
        opened.callback(first.stop)
        first.begin()
        claims = a.index.series.claims()
        assert a.index.series.held(claims) == set(claims) == set(first.worker._under_way)
        later = now + LEASE + dt.timedelta(seconds=1)
        b.beat(later)
        taken, _ = b.index.series.take_over(later) or (None, "")
        assert taken is not None
        first.worker.wake()
        assert first.has_ended()
        until(lambda: not first.worker._under_way, 30, "the end of the conversion")
        assert "claim_lost" in [line["event"] for line in lines]
        assert b.index.series.claims() == [taken.claim]  # the lost claim took nothing with it
        first.worker.stop(0)

        b.index.series.release_claim(taken, now)
        second = Converting(c, tmp_path)
        opened.callback(second.stop)
        ingest = opened.enter_context(opened_ingest(Archive(tmp_path), c.index, Metrics(), lambda sender: 1.0, 1 << 20))
        member = JoiningHost("c", ["convert"], "1", [], dt.timedelta(seconds=2))
        membership = Membership(c.index, ingest, member, second.worker.interrupt)
        membership.start()
        opened.callback(membership.watch.stop)
        opened.callback(membership.begin_stop)
        second.begin()
        line.silence()
        assert second.has_ended()
        until(lambda: membership.trouble is not None, 30, "that the host knows that it is cut off")
        assert "cut_off" in [line["event"] for line in lines]
        line.heal()
        until(lambda: membership.trouble is None, 60, "an answer")


@pytest.mark.slow
def test_a_host_without_an_answer_for_half_of_its_lease_is_reported_until_it_has_one() -> None:
    reported: list[bool] = []
    watch = LeaseWatch(dt.timedelta(seconds=60), lambda: reported.append(True))
    assert watch.step() > 25
    watch.renewed(monotonic() - 31)
    with capture_logs() as lines:
        watch.step(), watch.step()
    assert (len(reported), [line["event"] for line in lines]) == (2, ["cut_off"])
    watch.renewed(monotonic())
    assert watch.step() > 25
    assert len(reported) == 2


@pytest.mark.slow
def test_a_claim_that_is_given_up_leaves_a_series_that_has_grown_quiet_first(hosts: Hosts) -> None:
    a = hosts("a")
    now = a.index.now()
    add(a.index, now)
    claimed = a.index.series.claim_due(now)
    assert a.index.series.release_claim(claimed, now) is True
    assert a.index.series.release_claim(claimed, now) is False
    claimed = a.index.series.claim_due(now)
    [ds] = make.ct_series(1)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = claimed.study_instance_uid, claimed.series_instance_uid
    add(a.index, now + dt.timedelta(hours=1), ds)
    assert a.index.series.release_claim(claimed, now) is True
    assert a.index.series.claim_due(now) is None


CHANGES = """\
op.add_column("images", sa.Column("colour", sa.String(8)))
op.create_index("ix_images_colour", "images", ["colour"])
"""


@pytest.mark.long
def test_an_index_is_migrated_when_all_hosts_have_stopped_and_none_goes_on_with_another_schema(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, place = server.create("newer", "migrated"), ServerPlace(server.url("newer"), tmp_path, "b")
    monkeypatch.setitem(servers._SESSION, "lock_timeout", "0.2s")
    index = Index(tmp_path, Metrics(), url=url, host="a", has_roots=True)
    now = index.now()
    Host(index, "a").beat(now)
    add(index, now)
    with newer(tmp_path / "newer", CHANGES):
        with pytest.raises(IndexUnusable, match=r"in use by host a \(voxelnode 1\): .* stop all hosts, then try again"):
            upgrade(place)
        add(index, now)

        server.run("SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE datname = 'newer'")
        with psycopg.connect(url.replace("+psycopg", ""), application_name="nightly report") as reader:
            reader.execute("SELECT count(*) FROM images")
            reason = (
                r"others have locked.*process \d+ \(nightly report of role voxelnode, since .* UTC\).*"
                r"pg_terminate_backend.*then start again"
            )
            with pytest.raises(IndexUnusable, match=reason) as refused:
                upgrade(place)
            assert "backup" not in str(refused.value)
        assert upgrade(place) == (REVISION, NEWER)  # while the other host has lost its connection
        assert upgrade(place) == (NEWER, NEWER)
        assert check(place) != [], "the models lack the new column"
    for _ in range(2):  # the second one finds another schema when it connects
        with pytest.raises(OutOfResources):
            add(index, now)
    index.close()
    with pytest.raises(IndexUnusable, match="install the newer one"):
        upgrade(place)
    assert server.run("SELECT count(*) FROM v_images", "newer") == [(2,)]
