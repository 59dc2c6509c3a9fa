"""HTTP is served by a process of its own: what happens to it stops nobody else, and it ends with the node."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage

from node.control import web
from tests import make
from tests.acceptance.served import Served
from tests.make import as_file
from tests.waiting import until
from tests.web.conftest import DEADLINE_SECONDS, Site, StartSite
from tests.web.test_jobs import bearer, begin, mask_of
from tests.web.test_stow import body_of, post

API = "/api/v1/series"


@pytest.fixture
def beside(start_site: StartSite) -> Iterator[tuple[Site, httpx2.Client]]:
    """A root, and a client of the process that serves it."""
    site = start_site()
    bound = web.listening(site.services.settings.web)
    url = "http://{}:{}".format(*bound.getsockname()[:2])
    site.beside.start(bound)
    with httpx2.Client(base_url=url, timeout=DEADLINE_SECONDS) as client:
        site._plain = client
        yield site, client


def pid_of(log: Path) -> int:
    """The number of the process that serves HTTP, by the last line of a log that names it."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return int([line["pid"] for line in lines if line["event"] == "web_started"][-1])


def is_there(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_sender_notices_nothing_of_its_end_and_pages_come_back(tmp_path: Path) -> None:
    with Served(tmp_path / "root", VOXELNODE_SERIES__QUIET_SECONDS="3600") as served:
        url = served.process.stdout.readline().strip().rpartition(" ")[2]
        log = tmp_path / "serve.log"
        first, second = make.ct_series(2)
        ae = AE("SENDER")
        ae.add_requested_context(CTImageStorage, first.file_meta.TransferSyntaxUID)
        association = ae.associate("127.0.0.1", served.port, ae_title="VOXELNODE")
        assert association.send_c_store(first).Status == 0x0000
        killed = pid_of(log)
        os.kill(killed, signal.SIGKILL)
        assert association.send_c_store(second).Status == 0x0000
        association.release()
        with httpx2.Client(base_url=url, timeout=DEADLINE_SECONDS) as client:
            until(lambda: pid_of(log) != killed)  # who connects before may lose the connection once more
            [series] = client.get(API).json()["items"]
            assert series["instances"] == 2
            assert "voxelnode_web_restarts_total 1.0" in client.get("/metrics").text
            assert client.get("/readyz").status_code == 200
        last = pid_of(log)
        served.kill()
        until(lambda: not is_there(last))


@pytest.mark.slow
def test_one_that_stands_still_is_started_again(
    beside: tuple[Site, httpx2.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, client = beside
    assert client.get("/healthz").text == "ok\n"
    before = site.beside._process
    monkeypatch.setattr(web, "HANG_SECONDS", 6.0)
    os.kill(before.pid, signal.SIGSTOP)
    assert site.store.index.accounts.any() is False  # nobody here waits for it
    until(lambda: site.beside._process is not before and site.beside.is_alive)
    with httpx2.Client(base_url=client.base_url, timeout=DEADLINE_SECONDS) as again:
        assert again.get("/healthz").text == "ok\n"


def test_what_is_stored_and_changed_goes_the_way_of_the_node(beside: tuple[Site, httpx2.Client]) -> None:
    site, client = beside
    large = make.ct_series(1, rows=2048, columns=1200)[0]  # by a file in the work folder
    small = make.ct_series(1, study_uid=large.StudyInstanceUID)[0]
    answer = post(site, body_of(as_file(large), as_file(small), b"no DICOM"))
    assert (answer.status_code, len(answer.json()["00081199"]["Value"])) == (202, 2)
    assert [path for path in (site.root / "work").glob("stow-*")] == []
    study = f"/api/v1/studies/{large.StudyInstanceUID}"
    seen = client.get(study)
    etag = seen.headers["etag"]
    assert seen.json()["instances"] == 2
    assert post(site, body_of(as_file(make.ct_series(1, study_uid=large.StudyInstanceUID)[0]))).status_code == 200
    assert client.delete(study, headers={"If-Match": etag}).status_code == 412
    etag = client.get(study).headers["etag"]
    assert client.delete(study, headers={"If-Match": etag}).status_code == 200
    assert client.get(study).status_code == 404
    until(lambda: len(site.audited("DICOM Study Deleted")) == 2)


def test_a_result_with_its_labels_goes_the_way_of_the_node(beside: tuple[Site, httpx2.Client], tmp_path: Path) -> None:
    site, client = beside
    instances = make.ct_series(5)
    site.take(*instances)
    site.convert()
    path, token = begin(site, (instances[0].StudyInstanceUID, instances[0].SeriesInstanceUID))
    client.headers.update(bearer(token))
    assert client.put(f"{path}/files/lungs.nii.gz", content=mask_of(site, tmp_path)).status_code == 200
    said = [{"file": "lungs.nii.gz", "labels": {"1": "Lungs", "2": {"name": "Left"}}}]
    outcome = {"state": "succeeded", "results": said, "algorithm": {"name": "threshold"}}
    answer = client.post(f"{path}/outcome", json=outcome)
    assert (answer.status_code, len(answer.json()["results"])) == (200, 1)


def test_it_writes_nowhere_but_where_it_has_to(beside: tuple[Site, httpx2.Client]) -> None:
    site, client = beside
    file = Path(str(get_testdata_file("JPEG2000.dcm")))
    assert post(site, body_of(file.read_bytes())).status_code == 200
    site.store.metrics.started_at = site.store.ingest.now()  # as if the node had been started again
    assert [client.get("/status").status_code for _ in range(2)] == [200, 200]
    assert sum(span.instances for span in site.store.metrics.last_day.spans()) == 2  # as it came, and of its row
    instance = dcmread(file, stop_before_pixels=True)
    study, series, uid = instance.StudyInstanceUID, instance.SeriesInstanceUID, instance.SOPInstanceUID
    path = f"/dicom-web/studies/{study}/series/{series}/instances/{uid}"
    plain = 'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.1'
    answer = client.get(path, headers={"Accept": plain})  # a file that a child writes into the work folder
    assert answer.status_code == 200, answer.text
    assert client.get(f"{path}/rendered", headers={"Accept": "image/png"}).status_code == 200
    assert "NoNewPrivs:\t1" in Path(f"/proc/{site.beside._process.pid}/status").read_text()
    denied = f"import pathlib; pathlib.Path({str(site.root / 'objects' / 'x')!r}).touch()"
    program = f"from node.children.confinement import confine_writes; confine_writes([]); {denied}"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "PermissionError" in ended.stderr


@pytest.mark.slow
def test_it_has_no_library_that_only_associations_need() -> None:
    program = (
        "import sys; from node.web.application import routes_of; import node.control.web_process; "
        "from node.settings.model import Settings; routes_of(Settings()); sys.exit('pynetdicom' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=DEADLINE_SECONDS)
