"""Jobs over HTTP: the token of a message is good for its own job; results are stored, or refused with a reason."""

import datetime as dt
import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import nibabel
import numpy as np
import pydicom
import pytest
from playwright.sync_api import expect

from node.extensions.results.command import JOBS
from node.extensions.results.listed import JobViews
from node.index.rows.records import Lane
from node.index.rules.people.accounts import Role
from node.index.rules.work.ledger import Ended, Postponed
from node.index.rules.work.messages import Attempt, PendingEvent
from tests import make
from tests.rows import read_rows, view_rows
from tests.trash import empty_trash
from tests.web.conftest import Site
from tests.web.pages import TABLET, WIDE, Visitor, cut_texts, greys

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def series(site: Site) -> tuple[str, str]:
    """A converted CT; study and series."""
    instances = make.ct_series(5, ProtocolName="Thorax")
    site.take(*instances)
    site.convert()
    return str(instances[0].StudyInstanceUID), str(instances[0].SeriesInstanceUID)


def begin(site: Site, series: tuple[str, str], message: str = "m") -> tuple[str, str]:
    """A job of hook `lung` for the series: its path and its token, as in a message."""
    pending = PendingEvent(message, "volume-written", NOW, *series, None, 1)
    job, token = site.store.index.jobs.begin("lung", pending, NOW, dt.timedelta(days=1))
    return f"/api/v1/jobs/{job.job_id}", token


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def work_of(client: httpx2.Client, path: str) -> str:
    """The same job as work of the node."""
    rows = client.get("/api/v1/work?kind=job").json()["items"]
    return next(f"/api/v1/work/{row['id']}" for row in rows if path.endswith(row["key"]))


def mask_of(site: Site, folder: Path, series_instance_uid: str = "", *, shifted: float = 0.0) -> bytes:
    """A mask on the grid of the volume, of a series if there are several, or beside it."""
    of = f"AND series_instance_uid = '{series_instance_uid}'" if series_instance_uid else ""
    [row] = view_rows(site.root, f"SELECT path FROM v_volumes WHERE format = 'nifti' AND kind = 'volume' {of}")
    volume = nibabel.load(row["path"])
    affine = volume.affine.copy()
    affine[2, 3] += shifted
    mask = np.zeros(volume.shape, np.uint8)
    mask[volume.shape[0] // 2 :] = 1
    nibabel.save(nibabel.Nifti1Image(mask, affine), folder / "mask.nii.gz")
    return (folder / "mask.nii.gz").read_bytes()


def report(site: Site, job: tuple[str, str], content: bytes, **manifest: object) -> dict[str, Any]:
    """Report a mask as the result of a job; return what became of it."""
    (path, token), results = job, [{"file": "mask.nii.gz", **manifest}]
    site.client().put(f"{path}/files/mask.nii.gz", headers=bearer(token), content=content)
    outcome = {"state": "succeeded", "results": results}
    done = site.client().post(f"{path}/outcome", headers=bearer(token), json=outcome).json()
    site.convert()
    return done["results"][0]


def outcome_of_instances(site: Site, series: tuple[str, str], path: str, token: str, folder: Path) -> None:
    """Of instances that are DICOM already, one of the study of the job is stored, and no other."""
    client, headers = site.client(), bearer(token)

    def outcome(referred: str | None = None, **uids: str) -> httpx2.Response:
        ds = make.rgb_capture(study_uid=uids.get("study_uid", series[0]), series_uid=uids.get("series_uid"))
        if referred is not None:
            ds.ReferencedSeriesSequence = [make.dataset(SeriesInstanceUID=referred)]
        ds.save_as(folder / "capture.dcm", enforce_file_format=True)
        client.put(f"{path}/files/capture.dcm", headers=headers, content=(folder / "capture.dcm").read_bytes())
        return client.post(f"{path}/outcome", headers=headers, json={"state": "succeeded"})

    assert "StudyInstanceUID is not that of the source" in outcome(study_uid="1.2.3").json()["detail"]
    assert "in the series of its source" in outcome(series_uid=series[1]).json()["detail"]
    assert "refers to other series than that of the job" in outcome(referred="1.2.3").json()["detail"]
    assert outcome(referred=series[1]).json()["results"][0]["kind"] == "instance"


@pytest.mark.slow
def test_a_receiver_reports_all_with_its_token_alone(site: Site, series: tuple[str, str], tmp_path: Path) -> None:
    site.account("reader", Role.READ, None)
    (path, token), (other, other_token) = begin(site, series), begin(site, series, "another")
    client, headers = site.client(), bearer(token)

    def status(method: str, address: str, **options: object) -> int:
        return client.request(method, address, headers=headers, **options).status_code  # type: ignore[arg-type]

    assert [status("GET", address) for address in (other, "/api/v1/work", "/api/v1/studies")] == [401] * 3
    assert status("POST", f"{work_of(client, path)}/cancel") == 401
    assert status("POST", f"{path}/progress", json={"percent": 101}) == 422
    assert status("PUT", f"{path}/files/..%2Fx.pdf", content=b"") in (404, 422)
    reader = bearer(site.token("reader"))
    [written] = read_rows(site.root, "SELECT id, path FROM volumes WHERE format = 'nifti'")
    volume = f"/api/v1/volumes/{written['id']}/file/{Path(written['path']).name}"
    assert status("GET", volume) == 401
    assert client.get(volume, headers=reader).status_code == 200
    assert client.post(f"{path}/progress", headers=reader, json={"percent": 1}).status_code == 403
    reported = client.post(f"{path}/progress", headers=headers, json={"percent": 40, "detail": "half"}).json()
    assert (reported["percent"], reported["detail"], reported["state"]) == (40, "half", "waiting")

    wrong = client.put(f"{path}/files/mask.nii.gz", headers=headers, content=mask_of(site, tmp_path, shifted=1.0))
    assert wrong.json()["file"] == "mask.nii.gz"
    refused = client.post(f"{path}/outcome", headers=headers, json={"state": "succeeded"})
    assert refused.json()["type"].endswith("/result-refused")
    assert "mask.nii.gz: the mask is up to 0.4 voxels away" in refused.json()["detail"]
    assert view_rows(site.root, "SELECT 1 FROM v_series WHERE modality = 'SEG'") == []
    detail = client.get(path, headers=headers).json()["detail"]
    assert detail.startswith("refused: mask.nii.gz: the mask is up to 0.4 voxels away")

    client.put(f"{path}/files/mask.nii.gz", headers=headers, content=mask_of(site, tmp_path))
    done = client.post(f"{path}/outcome", headers=headers, json={"state": "succeeded"})
    [result] = done.json()["results"]
    assert (done.status_code, result["kind"], result["source_series_instance_uid"]) == (200, "segmentation", series[1])
    uid = result["sop_instance_uid"]
    assert view_rows(site.root, f"SELECT source FROM v_images WHERE sop_instance_uid = '{uid}'") == [
        {"source": "result"}
    ]
    assert client.post(f"{path}/outcome", headers=headers, json={"state": "succeeded"}).json() == done.json()
    for method, address, body in (
        ("POST", "progress", {"percent": 1}), ("PUT", "files/a.pdf", {}), ("POST", "outcome", {"state": "failed"})
    ):  # fmt: skip
        assert status(method, f"{path}/{address}", json=body) == 409
    outcome_of_instances(site, series, other, other_token, tmp_path)
    assert done.json()["percent"] is None, "40 % is not how far it is"
    assert done.json()["detail"] is None, "what was refused before is none of an outcome that succeeded"
    page = client.get("/work").text
    assert f'/series/{result["series_instance_uid"]}">segmentation</a>' in page


@pytest.mark.slow
def test_the_pages_show_what_a_hook_made_and_lay_it_over_its_source(
    site: Site, series: tuple[str, str], tmp_path: Path
) -> None:
    """A segmentation that somebody sent lies over the images only if it is asked for."""
    client, result = site.client(), report(site, begin(site, series), mask_of(site, tmp_path))
    uid, made = result["sop_instance_uid"], result["series_instance_uid"]
    [stored] = view_rows(site.root, f"SELECT path FROM v_images WHERE sop_instance_uid = '{uid}'")
    sent = pydicom.dcmread(stored["path"])
    sent.SeriesInstanceUID, sent.SOPInstanceUID = "1.2.3.4", "1.2.3.4.1"
    sent.file_meta.MediaStorageSOPInstanceUID = sent.SOPInstanceUID
    site.take(sent)
    site.convert()

    assert client.get(f"/studies/{series[0]}").text.count("made by hook lung") == 1
    page = client.get(f"/studies/{series[0]}/series/{series[1]}").text
    overlays = re.findall(r"<input [^>]*data-overlay[^>]*>", page)
    assert [made in one for one in overlays if " checked" in one] == [True]
    assert ["1.2.3.4" in one for one in overlays if " checked" not in one] == [True]

    pages = (f"/studies/{series[0]}", f"/studies/{series[0]}/series/{series[1]}", "/work?kind=job")
    assert [client.get(one).text.count(">of revision 1<") for one in pages] == [0, 0, 0]
    [first] = view_rows(site.root, f"SELECT path FROM v_images WHERE series_instance_uid = '{series[1]}' LIMIT 1")
    another = pydicom.dcmread(first["path"])
    another.SOPInstanceUID = another.file_meta.MediaStorageSOPInstanceUID = "1.2.3.5"
    another.ImagePositionPatient = [*another.ImagePositionPatient[:2], -100]
    site.take(another)
    site.convert()
    assert [client.get(one).text.count(">of revision 1<") for one in pages] == [1, 1, 1]
    with site.store.index.reading() as index:
        [job] = index.views(JobViews).newest(1)
    assert [JOBS[name](job) for name in ("series", "revision")] == ["CT Thorax", "1 (outdated)"]


@pytest.mark.long
def test_of_two_versions_of_a_result_the_newest_lies_over_the_images_and_both_can_be_told_apart(
    site: Site, series: tuple[str, str], tmp_path: Path, visit: Callable[[str], Visitor]
) -> None:
    made = []
    for message in ("first", "again"):
        mask = mask_of(site, tmp_path, series[1])
        result = report(site, begin(site, series, message), mask, description="Lungs", labels={"1": "Lung"})
        made.append(result["series_instance_uid"])

    visitor = visit(site.url)
    for scheme in ("light", "dark"):
        page = visitor.open(f"/studies/{series[0]}/series/{series[1]}", scheme)
        page.wait_for_selector("#viewer[data-shown]")
        overlays = {uid: page.locator(f"[data-overlay][data-series='{uid}']") for uid in made}
        expect(overlays[made[0]]).not_to_be_checked()
        expect(overlays[made[1]]).to_be_checked()
        expect(page.locator("#legend li")).to_have_text(["Lung"])
        overlays[made[0]].check()
        groups = page.locator("#legend > li")
        expect(groups).to_have_count(2)
        for group in groups.all():
            expect(group).to_contain_text(re.compile(r"Lungs.*hook lung, \S+.*Lung"))
        colours = [
            one.evaluate("(one) => getComputedStyle(one).backgroundColor") for one in groups.locator(".swatch").all()
        ]
        assert len(set(colours)) == 2
    for size in (WIDE, TABLET):
        page = visitor.open("/work", size=size)
        expect(page.get_by_role("columnheader", name="Results")).to_be_visible()
        assert cut_texts(page) == []


@pytest.mark.slow
def test_a_label_that_is_switched_off_is_not_drawn_in_space(
    site: Site, series: tuple[str, str], tmp_path: Path, visit: Callable[[str], Visitor]
) -> None:
    half = nibabel.Nifti1Image.from_bytes(gzip.decompress(mask_of(site, tmp_path, series[1])))
    both = nibabel.Nifti1Image(np.asarray(half.dataobj) + np.uint8(1), half.affine)
    labels = {"1": "Left", "2": "Right"}
    made = report(site, begin(site, series), gzip.compress(both.to_bytes()), labels=labels)
    page = visit(site.url).open(
        f"/studies/{series[0]}/series/{made['series_instance_uid']}", size={"width": 330, "height": 300}
    )
    page.wait_for_selector("#viewer[data-shown]")
    page.keyboard.press("v")
    page.get_by_role("button", name="Draw it").click()
    page.wait_for_selector(".pane[data-plane=space][data-shown]")
    canvas, lit = page.locator(".pane[data-plane=space] canvas"), []
    for label in ("Left", "Right"):
        lit.append((greys(canvas) > 20).mean())
        page.locator("#legend").get_by_label(label).uncheck()
    assert lit[0] > lit[1] > (greys(canvas) > 20).mean()


@pytest.mark.long
def test_a_mask_of_uneven_slices_lies_over_the_resampled_copy_and_says_where_it_has_no_label(
    site: Site, tmp_path: Path, visit: Callable[[str], Visitor]
) -> None:
    instances = make.ct_series(8)
    del instances[4]
    site.take(*instances)
    site.convert()
    series = str(instances[0].StudyInstanceUID), str(instances[0].SeriesInstanceUID)
    [row] = view_rows(site.root, "SELECT path FROM v_volumes WHERE format = 'nifti' AND kind = 'volume'")
    volume = nibabel.load(row["path"])
    mask = np.ones(volume.shape, np.uint8)
    mask[..., -1] = 0  # the segmentation has as many planes as the volume, though others
    nibabel.save(nibabel.Nifti1Image(mask, volume.affine), tmp_path / "mask.nii.gz")
    report(site, begin(site, series), (tmp_path / "mask.nii.gz").read_bytes(), labels={"1": "Lung"})

    page = visit(site.url).open(f"/studies/{series[0]}/series/{series[1]}")
    page.wait_for_selector("#viewer[data-shown]")
    problem = page.locator("#overlay-problem")
    expect(problem).to_contain_text(
        "cannot be laid over: the slices of the volume are uneven; choose its resampled copy."
    )
    expect(page.locator("#legend li")).to_have_count(0)
    resampled = page.locator("#volume option[data-kind=resampled]").get_attribute("value")
    page.locator("#volume").select_option(resampled)
    expect(problem).to_have_text(re.compile(r"^\S+ mask: slice 5 has no label: its image was interpolated\.$"))
    expect(page.locator("#legend li")).to_have_text(["Lung"])


@pytest.mark.slow
def test_a_segmentation_of_unevenly_spaced_images_is_no_problem_to_settle(site: Site, tmp_path: Path) -> None:
    instances = make.ct_series(6)
    for image, height in zip(instances, (0, 1.0, 2.3, 3.1, 4.9, 6.0), strict=True):
        image.ImagePositionPatient = [0, 0, height]
    site.take(*instances)
    site.convert()
    series = str(instances[0].StudyInstanceUID), str(instances[0].SeriesInstanceUID)
    client = site.client()
    before = client.get("/problems").text.count("Acknowledge…")
    made = report(site, begin(site, series), mask_of(site, tmp_path, series[1]))
    page = client.get(f"/studies/{series[0]}/series/{made['series_instance_uid']}").text
    assert "uneven-segmentation" in page
    assert "check the scanner" not in page
    assert client.get("/problems").text.count("Acknowledge…") == before
    assert "uneven-segmentation" in client.get("/problems/unconvertible").text


def test_a_cancelled_job_takes_nothing_and_a_deleted_study_keeps_nothing_of_what_was_said(
    site: Site, series: tuple[str, str]
) -> None:
    path, token = begin(site, series)
    client, headers = site.client(), bearer(token)
    client.post(f"{path}/progress", headers=headers, json={"detail": "Voxel^Test"})
    client.put(f"{path}/files/a.pdf", headers=headers, content=b"%PDF-1.4 %%EOF")
    assert (site.root / "jobs").exists()
    assert client.post(f"{work_of(client, path)}/cancel").json()["state"] == "cancelled"
    assert list((site.root / "jobs").iterdir()) == []
    assert client.post(f"{path}/outcome", headers=headers, json={"state": "succeeded"}).status_code == 409
    other, _ = begin(site, series, "another")
    assert client.delete(f"/api/v1/studies/{series[0]}").status_code == 200
    assert client.get(other).json()["state"] == "cancelled"
    empty_trash(site.store)  # until then, an undo has it as it was
    assert client.get(path).json()["detail"] is None


@pytest.mark.parametrize("way", ["REST", "page"])
def test_a_message_that_a_hook_never_took_is_tried_again_by_hand(site: Site, way: str) -> None:
    hook, deliveries, client = Lane("hook", "one"), site.store.index.deliveries, site.client()
    deliveries.begin("hook", {hook: ()})
    pending = PendingEvent("m", "volume-written", NOW, "1.2")
    deliveries.record(hook, [Attempt(pending, Postponed(NOW, "exit status 3"), 1, "no licence")], [], NOW)
    with site.store.index.reading() as index:
        assert index.hooks.progress()["one"]["trouble"] == "exit status 3; it printed: no licence"
    deliveries.record(hook, [Attempt(pending, Ended("failed", "status 500"), 9)], [], NOW)
    [row] = client.get("/api/v1/work?kind=hook").json()["items"]
    assert (row["state"], row["attempts"]) == ("failed", 9)
    if way == "REST":
        assert client.post(f"/api/v1/work/{row['id']}/retry").status_code == 200
    else:
        assert 'value="retry"' in client.get("/work?kind=hook").text
        assert client.post(f"/work/{row['id']}", data={"action": "retry"}).status_code == 303
    [row] = client.get("/api/v1/work?kind=hook").json()["items"]
    assert (row["state"], row["attempts"]) == ("waiting", 0)


def test_a_job_that_failed_is_one_row_of_work_and_a_problem_until_retried(site: Site, series: tuple[str, str]) -> None:
    """The message of a job says less than the job, and is what is tried again."""
    hook, client, why = Lane("hook", "lung"), site.client(), "mask.nii.gz: the axes of the mask are others"
    site.store.index.deliveries.begin("hook", {hook: ()})
    begin(site, series)
    [job] = client.get("/api/v1/work?kind=job").json()["items"]
    site.store.index.jobs.end(job["key"], "failed", why, NOW)
    pending = PendingEvent("m", "volume-written", NOW, *series, None, 1)
    refused = Attempt(pending, Ended("failed", "a result was refused"), 1)
    later = NOW + dt.timedelta(minutes=1)
    dropped = Attempt(PendingEvent("n", "volume-written", NOW, *series, None, 1), Ended("dropped", "filtered out"), 0)
    site.store.index.deliveries.record(hook, [dropped], [], later)
    site.store.index.deliveries.record(hook, [refused], [], NOW)

    def rows(path: str) -> list[str]:
        """The rows of a page, the cells of each as one text."""
        return [re.sub(r"<[^>]+>|\s+", " ", row) for row in client.get(path).text.split("<tr>")[2:]]

    first, second = rows("/work")  # the last changed first
    assert ("filtered out" in first, "Retry" in first) == (True, False)
    assert (why in second, "Retry" in second, "a result was refused" in second) == (True, True, False)
    assert re.search(r"failed +1 +mask", second)
    [problem] = rows("/problems/hooks")
    assert why in problem
    assert "voxelnode hooks retry lung" in problem
    page = client.get(f"/studies/{series[0]}/series/{series[1]}").text
    assert (why in page, 'value="retry"' in page) == (True, True)

    [message] = re.findall(r'action="(/work/\d+)"', client.get("/problems/hooks").text)
    assert client.post(message, data={"action": "retry"}).status_code == 303
    assert rows("/problems/hooks") == []
    assert why not in client.get(f"/studies/{series[0]}/series/{series[1]}").text


@pytest.mark.slow
def test_a_job_that_its_receiver_calls_failed_is_a_problem_with_the_command_that_asks_again(
    site: Site, series: tuple[str, str]
) -> None:
    (path, token), client = begin(site, series), site.client()
    failed = {"state": "failed", "detail": "no lungs in the image"}
    assert client.post(f"{path}/outcome", headers=bearer(token), json=failed).status_code == 200
    page = client.get("/problems/hooks").text
    assert "no lungs in the image" in page
    assert "voxelnode hooks replay lung" in page
    badge = r'id="badge-wrong" class="badge (\w+)".*?</span>(\d+)<'
    assert re.findall(badge, client.get("/badges").text) == [("bad", "1")]
    client.get("/problems")
    assert re.findall(badge, client.get("/badges").text) == [("seen", "1")]
    assert client.delete(f"/api/v1/studies/{series[0]}").status_code == 200
    assert "no lungs in the image" not in client.get("/problems/hooks").text


@pytest.mark.slow
def test_the_page_of_a_report_has_the_values_that_a_hook_gave(site: Site, series: tuple[str, str]) -> None:
    (path, token), client = begin(site, series), site.client()
    lung = {"value": "39607008", "scheme": "SCT", "meaning": "Lung"}
    measured = [
        {"name": "Volume <b>", "value": 12.5, "unit": "mL", "site": lung},
        {"name": "Nodules", "value": 3, "unit": "1"},
    ]
    client.put(f"{path}/files/a.json", headers=bearer(token), json={"measurements": measured})
    done = client.post(f"{path}/outcome", headers=bearer(token), json={"state": "succeeded"})
    [result] = done.json()["results"]
    site.convert()
    page = client.get(f"/studies/{series[0]}/series/{result['series_instance_uid']}").text
    table = page.partition('id="measurements"')[2].partition("</table>")[0]
    rows = [re.findall(r"<bdi>(.*?)</bdi>|tabular\">(.*?)<", row) for row in table.split("<tr>")[2:]]
    assert [["".join(cell) for cell in row] for row in rows] == [
        ["Volume &lt;b&gt;", "12.5", "mL", "Lung"],
        ["Nodules", "3.0", "1", ""],
    ]
