"""Searches at peers, and retrievals from them: DCMTK as a peer that behaves, and peers that do not."""

import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import expect
from pydicom import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE, evt

from node.api import Address, Role, send_files
from node.dicom.uids import STUDY_ROOT_FIND, STUDY_ROOT_GET
from node.extensions.peers.retrieving import Retrieving, outcome
from node.index.rows.states import Counts
from node.index.work_loop import RequestLoop
from tests import make
from tests.interop.conftest import is_answered
from tests.programs import free_port, needs
from tests.trash import empty_trash
from tests.web.conftest import Site, StartSite, until
from tests.web.pages import NARROW, Visitor, accessibility_faults, is_wider_than_window

STUDY, CT, MR = "1.2.90", "1.2.90.1", "1.2.90.2"
NAME = "Weiß^Änne"
MARKUP = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def dcmtk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """DCMTK's archive with a study of two series; its port."""
    folder = tmp_path_factory.mktemp("dcmqrscp")
    (folder / "db").mkdir()
    about = {"study_uid": STUDY, "PatientID": "P-90", "PatientName": NAME, "SpecificCharacterSet": "ISO_IR 192"}
    instances = [*make.ct_series(4, series_uid=CT, **about), *make.mr_series(3, series_uid=MR, **about)]
    paths = make.saved(instances, folder)
    peer, port = started(folder)
    with peer:
        try:
            send_files(paths, Address("DCMTK", "127.0.0.1", port), "VOXELNODE")
            yield port
        finally:
            peer.terminate()


def started(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start DCMTK's archive on a free port."""
    program, config, port = needs("dcmqrscp", "dcmtk"), folder / "dcmqrscp.cfg", free_port()
    config.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        "HostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nDCMTK {folder / 'db'} RW (9, 1024mb) ANY\nAETable END\n"
    )
    peer = subprocess.Popen([program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: is_answered(port))
    return peer, port


class Stranger:
    """A peer with 100 000 studies whose values are hostile, whose C-GET lasts until it is aborted."""

    def __init__(self) -> None:
        ae = AE("STRANGER")
        for sop_class in (STUDY_ROOT_FIND, STUDY_ROOT_GET):
            ae.add_supported_context(sop_class)
        ae.add_supported_context(CTImageStorage, scu_role=True, scp_role=True)
        handlers: Any = [(evt.EVT_C_FIND, self._find), (evt.EVT_C_GET, self._get)]
        self.asked, self.gone = threading.Event(), threading.Event()
        self._server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = int(self._server.server_address[1])

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset]]:
        for number in range(100_000):
            if event.is_cancelled:
                yield 0xFE00, Dataset()
                return
            ds = Dataset()
            ds.QueryRetrieveLevel = event.identifier.QueryRetrieveLevel
            ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.{number}" if number else None, "1.2.3"
            ds.SOPInstanceUID, ds.SOPClassUID = "1.2.3.4", CTImageStorage
            ds.SpecificCharacterSet, ds.PatientName, ds.StudyDescription = "ISO_IR 192", MARKUP, "\x07\u202egnp"
            ds.NumberOfStudyRelatedInstances = -1
            yield 0xFF00, ds
            if ds.QueryRetrieveLevel == "IMAGE":
                return

    def _get(self, event: Any) -> Iterator[Any]:
        self.asked.set()
        assert self.gone.wait(300)
        yield 0

    def close(self) -> None:
        self.gone.set()
        self._server.shutdown()


@pytest.fixture(scope="module")
def stranger() -> Iterator[Stranger]:
    peer = Stranger()
    yield peer
    peer.close()


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A socket that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)
        yield listening


def retrieving(site: Site) -> RequestLoop:
    store = site.store
    step = Retrieving(site.services.settings, store.index, store.ingest, store.audit)
    return RequestLoop("retrievals", store.index, {"retrieval": step}, store.ingest.now)


@pytest.fixture
def site(start_site: StartSite, dcmtk: int, stranger: Stranger, silent: socket.socket) -> Iterator[Site]:
    """A site with these peers, whose retriever runs; accounts send a token, and whoever sends none is local."""
    peers = {
        name: {"ae_title": name.upper(), "host": "127.0.0.1", "port": port}
        for name, port in (("dcmtk", dcmtk), ("stranger", stranger.port), ("silent", silent.getsockname()[1]))
    } | {"scanner": {"ae_title": "CT1"}}
    site = start_site({"peers": peers})
    for name, role in (("reader", Role.READ), ("writer", Role.WRITE)):
        site.account(name, role)
    retriever = retrieving(site)
    retriever.start()
    yield site
    retriever.stop()


@pytest.mark.slow
def test_a_study_is_found_at_a_peer_and_retrieved_series_by_series(site: Site, dcmtk: int) -> None:
    client = site.client(headers={"Authorization": f"Bearer {site.token('writer')}"})
    assert [peer["name"] for peer in client.get("/api/v1/peers").json()["items"]] == ["dcmtk", "stranger", "silent"]

    def found(**keys: str) -> list[dict[str, Any]]:
        answer = client.post("/api/v1/peers/dcmtk/search", json=keys)
        assert answer.json()["note"] is None
        return list(answer.json()["items"])

    [study] = found(patient_name="Weiß, Ä", first_date="2000-01-01", modality="ct")
    assert (study["study_instance_uid"], study["patient_name"], study["stored"]) == (STUDY, NAME, 0)
    assert found(patient_id="nobody") == []
    path = f"/api/v1/peers/dcmtk/studies/{STUDY}/series"
    assert {item["series_instance_uid"] for item in client.get(path).json()["items"]} == {CT, MR}

    def retrieved(*wanted: dict[str, str]) -> dict[str, Any]:
        asked = client.post("/api/v1/peers/dcmtk/retrievals", json={"items": wanted})
        assert asked.status_code == 202
        one = f"/api/v1/work/{asked.json()['items'][0]['id']}"
        until(lambda: client.get(one).json()["ended_at"] is not None, 60)
        return dict(client.get(one).json())

    series = retrieved({"study_instance_uid": STUDY, "series_instance_uid": CT})
    assert (series["state"], series["reason"]) == ("succeeded", "4 instances came")
    assert found()[0]["stored"] == 4
    whole = retrieved({"study_instance_uid": STUDY})
    assert (whole["state"], whole["stored"], whole["requested_by"]) == ("succeeded", 7, "writer")
    nothing = retrieved({"study_instance_uid": "1.2.99"})
    assert nothing["state"] == "failed"
    assert "has no instances of 1.2.99" in nothing["reason"]
    assert client.post(f"/api/v1/work/{whole['id']}/cancel").status_code == 409
    assert len(client.get("/api/v1/work", params={"kind": "retrieval", "state": "succeeded"}).json()["items"]) == 2

    [asked, *_] = [line["detail"] for line in site.audited("Query") if "C-FIND at dcmtk" in line["detail"]]
    assert '"PatientName": "Weiß^Ä*"' in asked
    assert asked.endswith("1 found")
    [line] = [one for one in site.audited("DICOM Instances Transferred") if "7 instances came" in one["detail"]]
    assert [one["user"] for one in line["participants"]] == ["writer", "DCMTK", "VOXELNODE"]
    assert [line["participants"][0]["user"] for line in site.audited("Begin Transferring DICOM Instances")] == [
        "writer"
    ] * 3

    assert site.client().delete(f"/api/v1/studies/{STUDY}").status_code == 200
    empty_trash(site.store)
    assert [item["study_instance_uid"] for item in client.get("/api/v1/work?kind=retrieval").json()["items"]] == [
        "1.2.99"
    ]

    reader = site.client(headers={"Authorization": f"Bearer {site.token('reader')}"})
    for method, address in (
        ("POST", "/api/v1/peers/dcmtk/search"), ("GET", path), ("POST", "/api/v1/peers/dcmtk/retrievals"),
        ("GET", "/peers"), ("POST", "/peers"), ("POST", "/peers/retrieve"),
    ):  # fmt: skip
        assert reader.request(method, address, json={}).status_code == 403
    assert client.post("/api/v1/peers/scanner/search", json={}).status_code == 404
    assert client.post("/api/v1/peers/dcmtk/search", json={"patient_id": "1\\2"}).status_code == 422
    wrong = {"peer": "dcmtk", "series": ["1.2", "1.2 ", "é 1.2", 65 * "1" + " 1"], "study": []}
    assert client.post("/peers/retrieve", data=wrong).status_code == 303
    assert client.post("/peers/retrieve", data={"peer": "dcmtk", "study": 65 * "1"}).status_code == 422
    assert len(client.get("/api/v1/work?kind=retrieval").json()["items"]) == 1


@pytest.mark.slow
def test_peers_that_misbehave_hold_up_nobody_else(site: Site, stranger: Stranger, silent: socket.socket) -> None:
    client = site.client(headers={"Authorization": f"Bearer {site.token('writer')}"})
    client.timeout = 60
    answers: list[httpx2.Response] = []

    def ask() -> None:
        answers.append(client.post("/api/v1/peers/silent/search", json={}))

    waiting = [threading.Thread(target=ask) for _ in range(2)]
    for thread in waiting:
        thread.start()
    accepted = [silent.accept()[0] for _ in waiting]
    ask()
    assert answers[0].status_code == 503
    assert "asked 2 times already" in answers[0].json()["detail"]
    page = client.post("/peers", data={"peer": "stranger"}).text
    assert len(answers) == 1  # the others still wait
    assert (page.count('name="study"'), page.count(">not here<")) == (499, 499)
    for text in ("more than 500 answers", "left out: 1.", "&lt;script&gt;", "[U+202E]gnp"):
        assert text in page
    assert MARKUP not in page
    for connection in accepted:
        connection.close()
    for thread in waiting:
        thread.join()
    assert [answer.status_code for answer in answers[1:]] == [502, 502]
    assert "the connection" in answers[1].json()["detail"]  # was closed, or reset

    wanted = {"items": [{"study_instance_uid": "1.2.3", "series_instance_uid": "1.2.3"}]}
    first, again = (
        client.post("/api/v1/peers/stranger/retrievals", json=wanted).json()["items"][0]["id"] for _ in range(2)
    )
    assert first == again
    assert stranger.asked.wait(60)
    later = {"items": [{"study_instance_uid": "1.2.4"}]}
    [waits] = client.post("/api/v1/peers/stranger/retrievals", json=later).json()["items"]
    assert client.post(f"/api/v1/work/{waits['id']}/cancel").json()["reason"] == ("cancelled by writer before it began")
    path = f"/api/v1/work/{first}"
    assert client.post(f"/work/{first}", data={"action": "cancel"}).status_code == 303
    until(lambda: client.get(path).json()["state"] == "cancelled", 60)
    assert client.get(path).json()["reason"] == "cancelled by writer; no instance came"


@pytest.mark.parametrize(
    ("counts", "problem", "state", "words"),
    [
        (Counts(5, stored=5), "", "succeeded", "5 instances came"),
        (Counts(), "", "failed", "no instance came"),
        (Counts(6, stored=1, refused=2, failed=3), "", "incomplete",
         "1 instance came; 2 refused by this node (disk); 3 failed at the peer"),
        (Counts(9, stored=1), "", "incomplete", "1 instance came; 8 more announced by the peer"),
        (Counts(3, stored=3), "it closed the connection", "incomplete", "it closed the connection; 3 instances came"),
        (Counts(), "it does not answer", "failed", "it does not answer"),
    ],
)  # fmt: skip
def test_the_outcome_is_reported_in_words(counts: Counts, problem: str, state: str, words: str) -> None:
    assert outcome(counts, problem, "disk", None) == (state, words)


def test_a_retrieval_that_ran_when_the_node_ended_is_repeated_but_not_for_ever(start_site: StartSite) -> None:
    site = start_site()
    rows, now = site.store.index.work, site.store.ingest.now()
    limit = Retrieving.max_attempts
    rows.add_retrievals("gone", [("1.2.3", None)], "writer", now)
    for _ in range(limit):
        [waiting] = rows.due(("retrieval",), now)
        assert rows.begin(waiting.id, now)
        assert not rows.begin(waiting.id, now)
        rows.resume({"retrieval": limit}, now)
    assert rows.due(("retrieval",), now) == []
    rows.add_retrievals("gone", [("1.2.4", None)], "writer", now)
    retriever = retrieving(site)
    retriever.start()
    until(lambda: not rows.due(("retrieval",), now) and all(row["ended_at"] for row in shown(site)))
    retriever.stop()
    assert [(row["state"], row["reason"]) for row in shown(site)] == [
        ("failed", "[peers] has no gone with a host any more"),
        ("failed", f"the node ended {limit} times while it ran: see the log"),
    ]


def shown(site: Site) -> list[dict[str, Any]]:
    with site.store.index.reading() as index:
        return list(index.work.newest(10, kind="retrieval"))


@pytest.mark.slow
def test_people_query_and_retrieve_by_the_page(site: Site, visit: Callable[[str], Visitor]) -> None:
    page = visit(site.url).open("/")
    page.get_by_role("link", name="Peers").click()
    form = page.get_by_role("search")
    form.get_by_label("Peer").select_option("dcmtk")
    form.get_by_label("Patient ID").fill("P-9*")
    form.get_by_role("button", name="Find").click()
    row = page.locator("#answers tbody tr").first
    expect(row).to_contain_text("Weiß, Änne")
    expect(row.locator(".chip")).to_have_text("not here")
    row.get_by_role("button", name="Show the series").click()
    page.locator(".expansion tr", has_text="MR").get_by_role("checkbox").check()
    page.get_by_role("button", name="Retrieve").click()
    expect(page.locator("#work tbody tr")).to_contain_text("3 instances came")
    expect(page.locator("#work")).not_to_have_attribute("hx-trigger", re.compile("."))
    assert accessibility_faults(page) == []
    page.set_viewport_size(NARROW)
    assert not is_wider_than_window(page)
