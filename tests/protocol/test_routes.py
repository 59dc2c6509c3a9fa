"""Routes over real associations and folders: what is sent, in which order, what waits, and what proves arrival."""

import base64
import datetime as dt
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, FileDataset, dcmread
from pydicom.uid import RLELossless

from node.api import Audit, Correction, DestinationSettings, PersonRepository, Route, Settings
from node.children.pseudonyms import new_key_file
from node.extensions.deidentify.settings import DeidentifySettings
from node.extensions.destinations.settings import DicomwebSettings, FolderSettings
from node.extensions.object_store.settings import BucketSettings
from node.index.rows.models.history import EventKind
from node.index.rules.work.events import record_series_event
from node.index.rules.work.routes import lane_to
from node.receive.ingest import Origin
from node.routing.router import RouteWorkers
from node.routing.worker import RouteWorker
from node.settings.peers import Dicom, Peer
from tests import make
from tests.integration.conftest import bring
from tests.made_once import decoder
from tests.object_store import object_store
from tests.peers import Pacs, Proxy, Stow
from tests.programs import free_port
from tests.protocol.conftest import Running, StartNode
from tests.receivers import Answer, Receiver
from tests.rows import view_rows
from tests.waiting import until

pytestmark = pytest.mark.postgresql

CT = make.ct_series


class Clock:
    def __init__(self) -> None:
        self.moment = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.moment


class Source:
    """A node that has instances and routes; a test calls the steps of its workers."""

    def __init__(self, node: Running, settings: Settings, opened: ExitStack) -> None:
        self.node, self.settings, self.clock = node, settings, Clock()
        self.audit = Audit(node.root, "SOURCE")
        opened.callback(self.audit.close)
        self.opened = opened
        self.router = self.start()

    def start(self) -> RouteWorkers:
        """Begin routes, as a start of the node does."""
        index = self.node.ingest.index
        router = RouteWorkers(
            self.settings, self.node.ingest.archive, index, self.node.metrics, self.audit, decoder(), lambda name: None
        )
        self.dropped = index.deliveries.begin("route", {worker.lane: worker.events for worker in router.workers})
        for worker in router.workers:
            worker._now = self.clock  # type: ignore[assignment]
            self.opened.callback(worker._rest)
        return router

    def worker(self, name: str) -> RouteWorker:
        return next(worker for worker in self.router.workers if str(worker.lane) == f"route/{name}")

    def run(self, name: str) -> None:
        """Take the steps that are due now."""
        while self.worker(name).step() == 0.0:
            pass

    def take(self, series: list[FileDataset], title: str = "MODALITY", source: Any = "dicom") -> None:
        bring(self.node.ingest, *series, origin=Origin(source, title, "SOURCE", "127.0.0.1:1"))

    def rows(self, query: str) -> list[dict[str, Any]]:
        return view_rows(self.node.root, query)

    def state(self, name: str = "all/PACS") -> dict[str, Any]:
        route, _, destination = name.partition("/")
        [row] = self.rows(f"SELECT * FROM v_routes WHERE route = '{route}' AND destination = '{destination}'")
        return row

    def later(self, name: str, times: int = 1) -> None:
        """Take the steps that are due when the waits are over."""
        for _ in range(times):
            self.clock.moment += dt.timedelta(hours=2)
            self.run(name)

    def quiet(self, ds: FileDataset, kind: EventKind = "series-quiet") -> None:
        """Let the series of an instance become quiet, without converting it, or anything else happen to it."""
        series, moment = (str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID)), dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        self.node.ingest.index._writer.run(
            lambda connection: record_series_event(connection, kind, series, moment, None)
        )


StartSource = Callable[..., Source]


@pytest.fixture(scope="module")
def listening() -> Iterator[Pacs]:
    with Pacs() as peer:
        yield peer


@pytest.fixture
def pacs(listening: Pacs) -> Pacs:
    listening.forget()
    return listening


@pytest.fixture
def source(start_node: StartNode, tmp_path: Path) -> Iterator[StartSource]:
    with ExitStack() as opened:

        def begin(
            routes: dict[str, Route],
            port: int = 1,
            destinations: dict[str, DestinationSettings] | None = None,
            peers: dict[str, Peer] | None = None,
            deidentify: dict[str, DeidentifySettings] | None = None,
            ae_title: str = "SOURCE",
            response_seconds: float = 10,
            listens: int = 0,
        ) -> Source:
            peers = peers or {"PACS": Peer(ae_title="PACS", host="127.0.0.1", port=port)}
            node = start_node(peers=peers, ae_title=ae_title, port=listens)
            settings = Settings(
                dicom=Dicom(ae_title=ae_title, response_seconds=response_seconds),
                peers=peers,
                routes=routes,
                destinations=destinations or {},
                deidentify=deidentify or {},
            )
            return Source(node, settings, opened)

        yield begin


def uids(series: list[FileDataset]) -> list[str]:
    return [str(ds.SOPInstanceUID) for ds in series]


def test_instances_are_sent_in_order_on_one_association_each_once(source: StartSource, pacs: Pacs) -> None:
    node = source({"all": Route(when="instance-stored", to=("PACS",))}, pacs.port)
    series = CT(5)
    node.take(series)
    node.run("all/PACS")
    assert pacs.taken == uids(series)
    assert pacs.associations == 1
    node.router = node.start()  # a restart sends nothing again, not even what a person replays
    key = (series[0].StudyInstanceUID, series[0].SeriesInstanceUID)
    assert node.node.ingest.index.routes.replay(lane_to("all", "PACS"), [key], False, node.clock()).delivered == 1
    node.run("all/PACS")
    assert len(pacs.taken) == 5
    assert len(node.node.ingest.index.routes.replay(lane_to("all", "PACS"), [key], True, node.clock()).queued) == 1
    node.run("all/PACS")
    assert pacs.taken == uids(series) * 2
    assert node.state()["delivered"] == 6
    assert "110104" in (node.node.root / "audit.jsonl").read_text() or node.worker("all/PACS")._transfers


def test_what_a_destination_that_is_down_misses_waits_and_is_sent_later(source: StartSource, pacs: Pacs) -> None:
    node = source({"all": Route(when="instance-stored", to=("PACS",), attempts=1)}, pacs.port)
    pacs.down()
    one, two = CT(3), CT(2)
    node.take(one)
    node.run("all/PACS")
    state = node.state()
    assert "does not answer" in state["trouble"]
    assert state["given_up"] == state["waiting"] == 0
    assert state["instances_behind"] == 3
    node.take(two)
    pacs.up()
    node.run("all/PACS")
    assert pacs.taken == []  # its wait is not over
    assert node.node.ingest.index.deliveries.retry([lane_to("all", "PACS")], None, node.clock()) == 0
    node.run("all/PACS")
    assert pacs.taken == uids(one) + uids(two)
    assert node.state()["trouble"] is None


def test_what_waits_for_a_destination_that_is_down_or_paused_says_so(source: StartSource, pacs: Pacs) -> None:
    node = source({"all": Route(when="instance-stored", to=("PACS",))}, pacs.port)
    pacs.down()
    series, index, lane = CT(1), node.node.ingest.index, lane_to("all", "PACS")
    node.take(series)
    key = (series[0].StudyInstanceUID, series[0].SeriesInstanceUID)
    assert len(index.routes.replay(lane, [key], False, node.clock()).queued) == 1
    node.run("all/PACS")
    with index.reading() as read:
        [waits] = read.routes.messages(9, {}, state="waiting")
        [study] = read.routes.sent_of_study(key[0])
        [other] = read.routes.sent_of_study("1.2.3")
    assert "does not answer" in waits["reason"]
    assert (study["sent"], study["waiting"], other["waiting"], other["reason"]) == (0, 1, 0, None)
    assert "does not answer" in study["reason"]
    assert dt.datetime.fromisoformat(str(waits["due_at"])).replace(tzinfo=dt.UTC) > node.clock()
    index.deliveries.pause([lane], True)
    with index.reading() as read:
        [waits] = read.routes.messages(9, {}, state="waiting")
    assert (waits["reason"], waits["due_at"]) == ("the route is paused", None)


def test_series_that_wait_for_a_destination_that_is_down_are_counted(source: StartSource, pacs: Pacs) -> None:
    node = source({"all": Route(when="series-quiet", to=("PACS",))}, pacs.port)
    pacs.down()
    for series in (CT(2), CT(3)):
        node.take(series)
        node.quiet(series[0])
    node.run("all/PACS")
    state = node.state()
    assert (state["waiting"], state["instances_behind"], state["series_behind"]) == (0, None, 2)
    pacs.up()
    node.later("all/PACS")
    assert (len(pacs.taken), node.state()["series_behind"]) == (5, 0)
    node.quiet(series[0], "series-converted")  # what the route does not wait for is not counted
    assert (len(pacs.taken), node.state()["series_behind"]) == (5, 0)


@pytest.mark.slow
def test_an_instance_that_is_refused_for_now_holds_its_study_and_a_final_refusal_is_a_dead_letter(
    source: StartSource, pacs: Pacs
) -> None:
    node = source({"all": Route(when="instance-stored", to=("PACS",))}, pacs.port)
    one, two = CT(3), CT(1)
    busy = [True]
    pacs.answer = lambda uid: 0xA700 if uid == one[0].SOPInstanceUID and busy else 0xC001 if uid in uids(two) else 0
    node.take(one)
    node.take(two)
    node.run("all/PACS")
    assert pacs.taken == []
    [dead] = node.rows("SELECT * FROM v_route_messages WHERE state = 'given-up'")
    assert "0xC001" in dead["reason"]
    assert "retry" in dead["reason"]
    busy.clear()
    node.clock.moment += dt.timedelta(seconds=60)
    node.run("all/PACS")
    assert pacs.taken == uids(one)  # in order, although the second could have been sent before
    pacs.answer = lambda uid: 0
    node.node.ingest.index.deliveries.retry([lane_to("all", "PACS")], None, node.clock())
    node.run("all/PACS")
    assert pacs.taken == uids(one) + uids(two)


def dying_at(pacs: Pacs, ds: Dataset) -> Callable[[str], int]:
    """Answers of a peer that ends the association at an instance."""

    def answer(uid: str) -> int:
        if uid != ds.SOPInstanceUID:
            return 0
        for assoc in pacs._server.active_associations:
            assoc.abort()
        return 0xC001

    return answer


@pytest.mark.slow
def test_a_series_that_was_sent_in_part_goes_on_where_it_was_cut(source: StartSource, pacs: Pacs) -> None:
    node = source({"all": Route(when="series-quiet", to=("PACS",))}, pacs.port)
    series = CT(6)
    node.take(series)
    node.quiet(series[0])

    pacs.answer = dying_at(pacs, series[3])
    node.run("all/PACS")
    assert node.state()["waiting"] == 1
    pacs.answer = lambda uid: 0
    node.clock.moment += dt.timedelta(seconds=60)
    node.run("all/PACS")
    assert pacs.taken[:3] == uids(series)[:3]
    assert set(pacs.taken) == set(uids(series))
    assert pacs.taken[-3:] == uids(series)[3:]
    assert len(pacs.taken) <= 8  # the one that was under way arrived at each attempt
    late = CT(7)[-1]
    late.StudyInstanceUID, late.SeriesInstanceUID, late.InstanceNumber = (
        series[0].StudyInstanceUID, series[0].SeriesInstanceUID, 7,
    )  # fmt: skip
    late.FrameOfReferenceUID = series[0].FrameOfReferenceUID
    before = len(pacs.taken)
    node.take([late])
    node.quiet(late)
    node.run("all/PACS")
    assert pacs.taken[before:] == [str(late.SOPInstanceUID)]


def test_a_route_omits_what_came_from_its_destination_or_is_not_selected(source: StartSource, pacs: Pacs) -> None:
    routes = {
        "all": Route(when="instance-stored", to=("PACS",)),
        "MR": Route(when="instance-stored", to=("PACS",), where='modality == "MR"'),
        "rest": Route(when="instance-stored", to=("PACS",), otherwise=("MR",)),
    }
    node = source(routes, pacs.port)
    node.take(CT(2), title="PACS")
    for name in ("all/PACS", "rest/PACS"):
        node.run(name)
    node.take(CT(2))
    node.run("MR/PACS")
    assert pacs.taken == []
    assert node.rows("SELECT * FROM v_route_messages") == []
    node.run("rest/PACS")
    assert len(pacs.taken) == 2


@pytest.mark.slow
def test_copies_are_changed_on_their_way_and_the_archive_keeps_what_came(
    source: StartSource, pacs: Pacs, tmp_path: Path
) -> None:
    changes = {"set": {"InstitutionName": "Köln", "PatientID": "S1-{PatientID}"}, "remove": ("StudyDescription",)}
    folder = tmp_path / "out"
    folder.mkdir()
    routes = {
        "all": Route(when="series-quiet", to=("PACS",), **changes),  # type: ignore[arg-type]
        "files": Route(when="series-quiet", to=("SHARE",), confirm=True, **changes),  # type: ignore[arg-type]
    }
    node = source(routes, pacs.port, {"SHARE": FolderSettings(folder=folder)})
    series = CT(2)
    for ds in series:
        ds.PatientID, ds.StudyDescription, ds.SeriesDescription = "../../etc", "secret", "a/b"
    node.take(series)
    stored = node.node.stored_data_sets()
    node.quiet(series[0])
    node.run("all/PACS")
    node.run("files/SHARE")
    files = [dcmread(path) for path in sorted(folder.rglob("*.dcm"))]
    assert len(files) == 2
    assert all(path.is_relative_to(folder) for path in folder.rglob("*"))
    for ds in [*pacs.data_sets, *files]:
        assert (ds.InstitutionName, ds.PatientID) == ("Köln", "S1-../../etc")
        assert "StudyDescription" not in ds
    assert node.node.stored_data_sets() == stored
    assert node.node.part_files() == []
    states = node.rows("SELECT DISTINCT state FROM v_sent_instances WHERE route = 'files'")
    assert states == [{"state": "confirmed"}]


def test_pauses_and_hours_hold_a_route_and_survive_a_restart(source: StartSource, pacs: Pacs) -> None:
    node = source({"all": Route(when="instance-stored", to=("PACS",))}, pacs.port)
    deliveries = node.node.ingest.index.deliveries
    assert deliveries.pause([lane_to("all", "PACS")], True) == 1
    node.take(CT(2))
    node.router = node.start()
    node.run("all/PACS")
    assert pacs.taken == []
    assert node.state()["paused"] == 1
    assert deliveries.pause([lane_to("all", "PACS")], False) == 1
    node.run("all/PACS")
    assert len(pacs.taken) == 2


@pytest.mark.slow
def test_storage_commitment_proves_arrival_and_what_is_not_kept_is_sent_again(
    source: StartSource, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.association.services.commitment.LEAVE_SECONDS", 0.2)
    asking = Peer(ae_title="SOURCE", host="127.0.0.1", port=1)  # reports come on the association that asked
    there = start_node(ae_title="PACS", peers={"asking": asking})
    peers = {"PACS": Peer(ae_title="PACS", host="127.0.0.1", port=there.port)}
    node = source({"all": Route(when="series-quiet", to=("PACS",), confirm=True)}, peers=peers)
    series = CT(3)
    node.take(series)
    node.quiet(series[0])
    while node.worker("all/PACS").work():
        pass
    (there.root / there.rows()[0]["path"]).unlink()
    node.run("all/PACS")  # asks, hears that one is not kept, and sends it again
    states = {row["sop_instance_uid"]: row["state"] for row in node.rows("SELECT * FROM v_sent_instances")}
    assert set(states.values()) == {"confirmed"}
    assert len(states) == 3
    with node.node.ingest.index.reading() as read:
        [study] = read.routes.sent_of_study(series[0].StudyInstanceUID)
    assert {name: study[name] for name in ("route", "destination", "sent", "confirmed", "waiting", "given_up")} == {
        "route": "all", "destination": "PACS", "sent": 3, "confirmed": 3, "waiting": 0, "given_up": 0,
    }  # fmt: skip
    assert len(there.stored_data_sets()) == 3
    assert node.state()["unconfirmed"] == 0
    until(lambda: there.count("commitment_reports_total{outcome=reported}") >= 2)


@pytest.mark.slow
def test_a_report_that_comes_later_on_an_association_of_the_peer_counts_also_with_other_uids(
    source: StartSource, start_node: StartNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("node.association.client.commitment.REPORT_SECONDS", 0.0)
    there_port = free_port()
    peers = {"PACS": Peer(ae_title="PACS", host="127.0.0.1", port=there_port)}
    new_key_file(tmp_path / "key")
    trial = {"trial": DeidentifySettings(key=tmp_path / "key")}
    route = Route(when="series-quiet", to=("PACS",), confirm=True, deidentify="trial")
    node = source({"all": route}, peers=peers, deidentify=trial)
    us = {"US": Peer(ae_title="SOURCE", host="127.0.0.1", port=node.node.port)}
    there = start_node(peers=us, ae_title="PACS", port=there_port)
    series = CT(2)
    node.take(series)
    node.quiet(series[0])
    node.run("all/PACS")
    until(lambda: node.rows("SELECT DISTINCT state FROM v_sent_instances") == [{"state": "confirmed"}])
    unknown = {one.sop_instance_uid for one in node.node.ingest.index.routes.owed(lane_to("all", "PACS"), node.clock())}
    assert unknown == set()
    assert not node.node.ingest.index.routes.note_commitment("2.25.1", set(), {}, node.clock())
    assert {row["sop_instance_uid"] for row in there.rows()}.isdisjoint(uids(series))


@pytest.mark.slow
def test_a_bucket_has_each_instance_once_with_its_checksum_and_what_is_wrong_with_it_is_reported(
    source: StartSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "credentials"
    keys.write_text("[default]\naws_access_key_id = AKIATEST\naws_secret_access_key = hidden\n")
    with object_store() as store, Receiver(lambda received: Answer(503)) as busy:
        destinations = {
            name: BucketSettings(s3="s3://scans/node/one", endpoint=url, credentials_file=keys, region="us-east-1")
            for name, url in (("BUCKET", store.url), ("BUSY", busy.url.removesuffix("/told")))
        }
        routes = {
            "all": Route(when="series-quiet", to=("BUCKET",), confirm=True),
            "none": Route(when="series-quiet", to=("BUSY",)),
        }
        node = source(routes, destinations=destinations)
        index = node.node.ingest.index
        series = CT(12)
        for ds in series:
            ds.PatientID = "MRN4711Q"
        node.take(series)
        node.quiet(series[0])

        def troubled(name: str) -> str:
            node.run(name)
            row = node.state(name)
            assert row["given_up"] == 0
            return str(row["trouble"])

        def objects() -> list[str]:
            return re.findall("<Key>(.*?)</Key>", store.ask("GET", "/scans?versions").text)

        reported = [troubled("all/BUCKET"), troubled("none/BUSY")]
        assert reported[0] == f"s3://scans at {store.url}: NoSuchBucket: create the bucket, or correct s3"
        assert reported[1].endswith(": status 503")
        assert {one.headers["x-amz-checksum-sha256"] for one in busy.received} == {
            base64.b64encode(hashlib.sha256(one.body).digest()).decode() for one in busy.received
        }

        store.ask("PUT", "/scans")
        store.ask("PUT", "/scans?versioning", VERSIONED)
        index.deliveries.retry([lane_to("all", "BUCKET")], None, node.clock())
        assert troubled("all/BUCKET") == "None"
        names = objects()
        assert len(names) == len(set(names)) == 12
        assert {name.rpartition("/")[0].startswith("node/one/MRN4711Q/") for name in names} == {True}
        sent = [dcmread(BytesIO(store.ask("GET", f"/scans/{name}").content)) for name in names]
        assert sorted(ds.SOPInstanceUID for ds in sent) == sorted(uids(series))
        assert all(ds == next(other for other in series if other.SOPInstanceUID == ds.SOPInstanceUID) for ds in sent)
        assert node.rows("SELECT DISTINCT state FROM v_sent_instances") == [{"state": "confirmed"}]

        key = (series[0].StudyInstanceUID, series[0].SeriesInstanceUID)
        versions = Counter(names)
        for number, length in ((3, 1000), (5, 16_000_000)):  # first in parts, as what is large
            monkeypatch.setattr("node.extensions.object_store.destination.MAX_WHOLE_BYTES", length)
            store.ask("PUT", f"/scans/{names[number]}", "something else")
            index.routes.replay(lane_to("all", "BUCKET"), [key], True, node.clock())
            assert troubled("all/BUCKET") == "None"
            versions[names[number]] += 2  # only that one was written again
            assert Counter(objects()) == versions

        index.routes.replay(lane_to("all", "BUCKET"), [key], True, node.clock())
        store.ask("POST", "/moto-api/reset-auth", "0")  # from now on, only known keys may do anything
        reported.append(troubled("all/BUCKET"))
        assert reported[-1].endswith("InvalidAccessKeyId: correct the credentials")
        store.kill()
        index.deliveries.retry([lane_to("all", "BUCKET")], None, node.clock())
        reported.append(troubled("all/BUCKET"))
        assert reported[-1].endswith("no answer")
        assert not [one for one in reported if "hidden" in one or "MRN4711Q" in one]


VERSIONED = (
    '<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>Enabled</Status>'
    "</VersioningConfiguration>"
)


@pytest.mark.slow
def test_an_instance_refused_for_now_keeps_its_series_in_order_and_others_pass(source: StartSource, pacs: Pacs) -> None:
    node = source({"all": Route(when="study-quiet", to=("PACS",), attempts=2)}, pacs.port)
    one, two = CT(4, study_uid="1.2.3", series_uid="1.2.3.1"), CT(2, study_uid="1.2.3", series_uid="1.2.3.2")
    node.take(one + two)
    node.node.ingest.index.routes.send(lane_to("all", "PACS"), "1.2.3", None, node.clock())
    pacs.answer = lambda uid: 0x0110 if uid == one[1].SOPInstanceUID else 0
    node.run("all/PACS")
    assert pacs.taken == [uids(one)[0], *uids(two)]
    pacs.answer = lambda uid: 0
    node.later("all/PACS")
    assert pacs.taken == [uids(one)[0], *uids(two), *uids(one)[1:]]


@pytest.mark.slow
def test_an_instance_at_which_a_peer_ends_the_association_is_given_up_and_holds_no_other_for_ever(
    source: StartSource, pacs: Pacs
) -> None:
    node = source({"all": Route(when="series-quiet", to=("PACS",), attempts=2)}, pacs.port)
    series = CT(6)
    node.take(series)
    node.quiet(series[0])

    pacs.answer = dying_at(pacs, series[2])
    node.run("all/PACS")
    assert pacs.taken == uids(series)[:2]
    node.later("all/PACS")  # the last attempt: the others pass, which is progress
    assert pacs.taken == uids(series)[:2] + uids(series)[3:]
    assert node.state()["waiting"] == 1
    node.later("all/PACS", 2)
    assert (node.state()["waiting"], node.state()["given_up"]) == (0, 1)


@pytest.mark.slow
def test_a_peer_that_hangs_costs_no_attempt_and_an_answer_to_another_request_does_not_count(
    source: StartSource, pacs: Pacs
) -> None:
    number = b"\x00\x00\x20\x01\x02\x00\x00\x00"  # Message ID Being Responded To

    def wrong_once(answer: bytes) -> bytes:
        at = answer.find(number) + len(number)
        if at < len(number) or proxy.changed is not wrong_once:
            return answer
        proxy.changed = lambda same: same
        return answer[:at] + b"\x63\x00" + answer[at + 2 :]

    with Proxy(pacs.port) as proxy:
        node = source({"all": Route(when="instance-stored", to=("PACS",), attempts=1)}, proxy.port, response_seconds=2)
        one, two = CT(2), CT(2)
        node.take(one)
        node.run("all/PACS")
        proxy.changed = wrong_once
        node.take(two)
        node.run("all/PACS")
        assert pacs.taken == [*uids(one), uids(two)[0], *uids(two)]  # sent again: its answer was to nothing
        three = CT(2)
        node.take(three)
        proxy.is_frozen = True
        node.run("all/PACS")
        state = node.state()
        assert "did not answer" in state["trouble"]
        assert (state["given_up"], state["waiting"], state["instances_behind"]) == (0, 0, 2)
        proxy.is_frozen = False
        node.later("all/PACS")
        assert pacs.taken[-2:] == uids(three)


@pytest.mark.slow
def test_a_web_server_gets_many_instances_in_a_request_and_its_answer_counts_for_each(source: StartSource) -> None:
    with Stow() as web:
        cloud = {"CLOUD": DicomwebSettings(url=web.url, timeout_seconds=5)}
        node = source({"all": Route(when="instance-stored", to=("CLOUD",), attempts=3)}, destinations=cloud)
        name = "all/CLOUD"

        def sent() -> set[str]:
            return {row["sop_instance_uid"] for row in node.rows("SELECT * FROM v_sent_instances")}

        one = CT(5)
        busy, bad = one[2].SOPInstanceUID, one[3].SOPInstanceUID
        failed = {busy: 0xA700, bad: 0xC000}
        web.answer = lambda asked: (202, web.stored(asked, {uid: why for uid, why in failed.items() if uid in asked}))
        node.take(one)
        node.run(name)
        assert web.requests == [uids(one)]
        assert sent() == set(uids(one)) - {busy, bad}
        del failed[busy]
        node.later(name)
        assert sent() == set(uids(one)) - {bad}
        assert node.state(name)["given_up"] == 1

        two = CT(4)  # at one of which the server fails
        web.requests.clear()
        web.answer = lambda asked: (500, None) if two[1].SOPInstanceUID in asked else (200, web.stored(asked))
        node.take(two)
        node.run(name)
        assert sent() & set(uids(two)) == {two[0].SOPInstanceUID}  # the later ones wait
        node.later(name, 3)
        assert sent() >= set(uids(two)) - {two[1].SOPInstanceUID}
        assert node.state(name)["given_up"] == 2
        assert node.state(name)["waiting"] == 0

        [three] = CT(1)  # of which the server says what is not true, or nothing
        node.take([three])
        for status, content, words in (
            (200, web.stored(["1.2.3"]), "stored other instances"),
            (200, {"error": "login"}, "not one of STOW-RS"),
            (302, None, "redirect"),
            (503, None, "503"),
            (500, None, "searches, too"),
        ):
            web.search, web.answer = 500, lambda asked, said=(status, content): said  # type: ignore[misc]
            node.later(name)
            troubles = [
                node.state(name)["trouble"],
                *(r["reason"] for r in node.rows("SELECT * FROM v_route_messages")),
            ]
            assert any(words in trouble for trouble in troubles if trouble), (words, troubles)
            assert three.SOPInstanceUID not in sent()
        assert node.state(name)["given_up"] == 2
        web.answer = lambda asked: (200, web.stored(asked))
        node.later(name)
        assert three.SOPInstanceUID in sent()


@pytest.mark.slow
def test_what_is_deleted_or_in_the_way_while_it_waits_holds_nothing_else(source: StartSource, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    routes = {"files": Route(when="instance-stored", to=("SHARE",), attempts=1)}
    node = source(routes, destinations={"SHARE": FolderSettings(folder=folder, layout="archive")})
    gone, hindered, fine = CT(1), CT(1), CT(2)
    node.take(gone + hindered + fine)
    [path] = [row["path"] for row in node.node.rows() if row["sop_instance_uid"] == hindered[0].SOPInstanceUID]
    (folder / Path(path).relative_to(node.node.root)).mkdir(parents=True)
    worker = node.worker("files/SHARE")
    taken = worker._preparer.take

    def taken_before_its_end(due: Any) -> Any:
        prepared = taken(due)
        if due.sop_instance_uid == gone[0].SOPInstanceUID:
            (node.node.root / due.key).unlink()
        return prepared

    worker._preparer.take = taken_before_its_end  # type: ignore[method-assign]
    node.run("files/SHARE")
    state = node.state("files/SHARE")
    assert (state["trouble"], state["given_up"]) == (None, 2)
    assert len([path for path in folder.rglob("*.dcm") if path.is_file()]) == 2


@pytest.mark.slow
def test_a_file_that_is_whole_again_before_its_message_is_given_up_is_sent(
    source: StartSource, pacs: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scrub finds it whole between the report of the route and the end of its step."""
    node = source({"all": Route(when="instance-stored", to=("PACS",))}, pacs.port)
    [ds] = make.ct_series(1)
    node.take([ds])
    [row] = node.rows("SELECT key, path FROM images JOIN v_images USING (sop_instance_uid)")
    content = Path(row["path"]).read_bytes()
    Path(row["path"]).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    index = node.node.ingest.index
    record = index.deliveries.record

    def record_late(*arguments: Any) -> None:
        if node.rows("SELECT 1 FROM v_images WHERE file_missing"):
            Path(row["path"]).write_bytes(content)
            index.instances.mark_files([row["key"]], missing=False, now=node.clock.moment)
        record(*arguments)

    monkeypatch.setattr(index.deliveries, "record", record_late)
    node.run("all/PACS")
    node.later("all/PACS")
    assert pacs.taken == uids([ds])


def test_a_folder_that_is_away_costs_no_attempt(source: StartSource, pacs: Pacs) -> None:
    node = source({"all": Route(when="instance-stored", to=("PACS",), attempts=1)}, pacs.port)
    series = CT(2)
    node.take(series)
    objects = node.node.root / "objects"
    objects.rename(node.node.root / "disk")
    node.run("all/PACS")
    state = node.state()
    assert (state["given_up"], "objects was removed" in state["trouble"]) == (0, True)
    (node.node.root / "disk").rename(objects)
    node.later("all/PACS")
    assert pacs.taken == uids(series)


@pytest.mark.slow
def test_no_room_for_copies_holds_a_route_and_costs_no_attempt(source: StartSource, pacs: Pacs) -> None:
    routes = {
        "decompressed": Route(when="instance-stored", to=("PACS",), attempts=1),
        "changed": Route(when="instance-stored", to=("PACS",), attempts=1, set={"InstitutionName": "Here"}),
    }
    node = source(routes, pacs.port)
    series = CT(2)
    for ds in series:
        ds.compress(RLELossless)
    node.take(series)
    incoming = node.node.root / "incoming"
    incoming.rename(node.node.root / "elsewhere")
    for name in ("decompressed/PACS", "changed/PACS"):
        node.run(name)
        state = node.state(name)
        assert "copies cannot be made here now" in state["trouble"]
        assert (state["given_up"], state["instances_behind"]) == (0, 2)
    (node.node.root / "elsewhere").rename(incoming)
    for name in ("decompressed/PACS", "changed/PACS"):
        node.later(name)
    assert pacs.taken == uids(series) * 2


def test_what_waits_is_judged_by_a_new_configuration_and_goes_with_its_route(source: StartSource, pacs: Pacs) -> None:
    node = source({"all": Route(when="instance-stored", to=("PACS",))}, pacs.port)
    pacs.answer = lambda uid: 0xA700
    node.take(CT(1))
    node.run("all/PACS")
    pacs.answer = lambda uid: 0
    where = Route(when="instance-stored", to=("PACS",), where='modality == "MR"')
    node.settings = node.settings.model_copy(update={"routes": {"all": where}})
    node.router = node.start()
    node.later("all/PACS")
    assert (pacs.taken, node.dropped, node.state()["waiting"]) == ([], 0, 0)
    node.settings = node.settings.model_copy(update={"routes": {"all": Route(when="instance-stored", to=("PACS",))}})
    node.router = node.start()
    pacs.answer = lambda uid: 0xA700
    node.take(CT(1))
    node.run("all/PACS")
    pacs.answer = lambda uid: 0
    node.settings = node.settings.model_copy(update={"routes": {"new": Route(when="instance-stored", to=("PACS",))}})
    node.router = node.start()
    assert node.dropped == 1
    new = CT(2)
    node.take(new)
    node.later("new/PACS")
    assert pacs.taken == uids(new)


@pytest.mark.slow
def test_two_nodes_that_route_to_each_other_do_not_send_for_ever(source: StartSource) -> None:
    ports = {"ONE": free_port(), "TWO": free_port()}
    both = {}
    for name, other in (("ONE", "TWO"), ("TWO", "ONE")):
        peers = {other: Peer(ae_title=other, host="127.0.0.1", port=ports[other])}
        routes = {"on": Route(when="instance-stored", to=(other,))}
        both[name] = source(routes, peers=peers, ae_title=name, listens=ports[name])
    both["ONE"].take(CT(2))
    for _ in range(3):
        both["ONE"].run("on/TWO")
        both["TWO"].run("on/ONE")
    assert both["ONE"].state("on/TWO")["delivered"] == 2
    assert both["TWO"].state("on/ONE")["delivered"] == 0


def test_copies_have_the_identity_that_somebody_has_corrected_and_are_sent_again(
    source: StartSource, pacs: Pacs, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    to = {"all": Route(when="instance-stored", to=("PACS", "folder"))}
    node = source(to, pacs.port, {"folder": FolderSettings(kind="folder", folder=tmp_path / "there")})
    series = make.ct_series(2, PatientID="C-7", PatientName="Wrong^Name")
    node.take(series[:1])
    node.run("all/PACS")
    index = node.node.ingest.index
    persons, [row] = index.repository(PersonRepository), node.rows("SELECT id FROM v_patients")
    node.clock.moment += dt.timedelta(hours=2)
    persons.correct(row["id"], Correction("C-1", patient_name="Müller^Änne"), node.clock.moment)
    node.take(series[1:])
    key = (str(series[0].StudyInstanceUID), str(series[0].SeriesInstanceUID))
    node.clock.moment += dt.timedelta(hours=2)
    assert len(index.routes.replay(lane_to("all", "PACS"), [key], False, node.clock()).queued) == 1
    for name in ("all/PACS", "all/folder"):
        node.run(name)
    assert sorted(pacs.taken) == sorted([*uids(series), uids(series)[0]])
    written = [dcmread(path) for path in (tmp_path / "there").rglob("*") if path.is_file()]
    sent = pacs.data_sets[1:] + written
    assert written
    assert {(ds.PatientID, str(ds.PatientName)) for ds in sent} == {("C-1", "Müller^Änne")}
    assert {ds.PixelData for ds in sent} == {ds.PixelData for ds in series}
    persons.separate(row["id"], node.clock.moment)
    index.routes.send(lane_to("", "PACS"), key[0], None, node.clock())
    node.run("/PACS")
    assert pacs.data_sets[-1].PatientID == "C-7"
    assert "OriginalAttributesSequence" not in pacs.data_sets[-1]
