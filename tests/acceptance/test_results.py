"""The worked example of docs/results.md, from a C-STORE to what is stored: as a webhook, a command and a plugin."""

import json
import sys
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from node.control.node import Endpoints, Node
from node.extensions.channels.settings import CommandSettings, PluginSettings, WebhookSettings
from node.extensions.reports.report import read_document
from node.files.reading import read_instance
from node.settings.core import SeriesSettings, Storage, Web
from node.settings.model import Settings
from node.volume.segmentation import volumes
from tests import make
from tests.acceptance.served import send
from tests.preloaded import run
from tests.rows import view_rows
from tests.waiting import until
from tests.web.pages import Visitor, start_browser

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "lung"
SLICES, SIZE, PIXEL_MM, STEP_MM = 10, 40, 9.0, 20.0
LUNGS = {"Left lung": 75.0, "Right lung": -75.0}
"""Centres of the lungs, in mm to the left of the middle of the patient."""


def thorax() -> NDArray[np.int16]:
    """A chest in stored values (slices, rows, columns) of an axial CT: a body with two lungs, the left one smaller."""
    z, y, x = np.meshgrid(*(np.arange(size) - size / 2 for size in (SLICES, SIZE, SIZE)), indexing="ij")
    x, y, z = x * PIXEL_MM, y * PIXEL_MM, z * STEP_MM
    hounsfield = np.full(x.shape, -1000.0)
    hounsfield[(x / 170) ** 2 + (y / 120) ** 2 < 1] = 40
    for name, centre in LUNGS.items():
        radius = 45 if name == "Left lung" else 55
        hounsfield[((x - centre) / radius) ** 2 + (y / 80) ** 2 + (z / 90) ** 2 < 1] = -850
    return (hounsfield + 1024).astype(np.int16)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Settings, Endpoints]]:
    """A node with the example as its hooks, each for CT alone."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.syspath_prepend(str(tmp_path))  # the plugin, as pip would install it
    information = tmp_path / "lung_example-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: lung_example\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[voxelnode.plugins]\nlung = lung_plugin\n")
    from webhook import Webhook  # type: ignore[import-not-found]

    server = Webhook(0, "")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    common: dict[str, Any] = {"on": ("volume-written",), "where": {"modality": "CT"}, "results": True}
    command = (sys.executable, str(EXAMPLE / "lung.py"), "{path}", "{out}")
    settings = Settings(
        storage=Storage(root=tmp_path / "root", reserve_bytes=0, journal_bytes=16_777_216),
        series=SeriesSettings(quiet_seconds=0.2),
        web=Web(port=0),
        dicom={"port": 0},  # type: ignore[arg-type]
        hooks={
            "webhook": WebhookSettings(url=f"http://127.0.0.1:{server.server_port}/", **common),
            "command": CommandSettings(command=command, **common),
            "plugin": PluginSettings(plugin="lung", **common),
        },
    )
    node = Node(settings)
    endpoints = node.start()
    server.node = endpoints.web
    yield settings, endpoints
    node.stop(5)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.long
@pytest.mark.timeout(240)
def test_lungs_come_back_as_segmentations_and_measurements(served: tuple[Settings, Endpoints]) -> None:
    settings, endpoints = served
    root, phantom = settings.storage.root, thorax()
    series = make.ct_series(SLICES, pixels=phantom, rows=SIZE, columns=SIZE, pixel_spacing=(PIXEL_MM, PIXEL_MM),
        spacing=STEP_MM, origin=(-SIZE / 2 * PIXEL_MM, -SIZE / 2 * PIXEL_MM, -SLICES / 2 * STEP_MM))  # fmt: skip
    send(endpoints.dicom.port, *series)
    client = httpx2.Client(base_url=endpoints.web or "", timeout=20)

    def jobs() -> list[dict[str, Any]]:
        return list(client.get("/api/v1/work?kind=job").json()["items"])

    until(lambda: len(jobs()) == 3 and all(job["ended_at"] for job in jobs()), 120, "three jobs")
    assert {job["name"]: (job["state"], job["reason"]) for job in jobs()} == {
        name: ("succeeded", None) for name in settings.hooks
    }
    for job in jobs():
        found = client.get(f"/api/v1/jobs/{job['key']}").json()["results"]
        results = {result["kind"]: result for result in found}
        assert {result["source_series_instance_uid"] for result in found} == {series[0].SeriesInstanceUID}
        labels = segmented(root, results["segmentation"]["sop_instance_uid"])
        assert np.array_equal(labels != 0, phantom == -850 + 1024)
        columns = np.arange(SIZE)
        assert np.average(columns, weights=(labels == 1).sum((0, 1))) > np.average(
            columns, weights=(labels == 2).sum((0, 1))
        )  # in an axial image, columns grow to the left of the patient
        document = read_document(read_instance(path_of(root, results["report"]["sop_instance_uid"])))
        measured = {
            each["concept"]["meaning"]: each["value"]
            for group in document.record["groups"]
            for each in group["measurements"]
        }
        assert measured == {
            f"Volume of {name}": pytest.approx((labels == label).sum() * PIXEL_MM**2 * STEP_MM / 1000, rel=1e-4)
            for label, name in ((1, "left lung"), (2, "right lung"))
        }
    shown = run("hooks", "jobs", "show", job["key"], "--json", "--root", root, check=True).stdout
    assert [result["kind"] for result in json.loads(shown)["results"]] == ["segmentation", "report"]
    assert "the job has succeeded" in run("hooks", "jobs", "cancel", job["key"], "--root", root).stderr
    kinds = view_rows(root, "SELECT modality, count(*) AS n FROM v_series GROUP BY modality")
    assert {row["modality"]: row["n"] for row in kinds} == {"CT": 1, "SEG": 3, "SR": 3}
    assert not list((root / "jobs").iterdir())
    of_command = next(job["key"] for job in jobs() if job["name"] == "command")
    results = client.get(f"/api/v1/jobs/{of_command}").json()["results"]
    uid = next(result["series_instance_uid"] for result in results if result["kind"] == "segmentation")
    converted = f"SELECT 1 FROM v_series WHERE series_instance_uid = '{uid}' AND state = 'converted'"
    until(lambda: view_rows(root, converted), 120, "a label volume")
    path = f"studies/{series[0].StudyInstanceUID}/series/{series[0].SeriesInstanceUID}"
    with sync_playwright() as playwright:
        for browser in start_browser(playwright):
            visitor = Visitor(browser, endpoints.web or "")
            lungs_are_shown(visitor.open(path), uid)
            visitor.close()
            assert visitor.complaints == []


def lungs_are_shown(page: Page, segmentation: str) -> None:
    """The viewer lays the lungs over the CT in the colours of its legend; the left one is on the right of the image."""
    page.wait_for_selector("#viewer[data-shown]")
    for overlay in page.locator(f"[data-overlay]:not([data-series='{segmentation}'])").all():
        overlay.uncheck()
    expect(page.locator("#legend li")).to_have_text(["All labels", *LUNGS])
    page.keyboard.press("x")  # without the cross-hair
    shown = pixels_of(page)
    page.keyboard.press("o")  # without overlays
    tint = shown - (plain := pixels_of(page))
    is_tinted = np.abs(tint).max(2) > 20
    on_right = np.arange(tint.shape[1]) > tint.shape[1] / 2
    for name, side in zip(LUNGS, (on_right, ~on_right), strict=True):
        swatch = page.locator("#legend li", has_text=name).locator(".swatch")
        colour = swatch.evaluate("(one) => getComputedStyle(one).backgroundColor.match(/\\d+/g).map(Number)")
        coloured = tint[is_tinted & side]
        assert len(coloured) > 500
        assert np.argmax(coloured.mean(0)) == np.argmax(colour)
    page.keyboard.press("o")
    page.locator("#legend").get_by_label("Right lung").uncheck()
    assert not (np.abs(pixels_of(page) - plain).max(2) > 20)[:, ~on_right].any()


def pixels_of(page: Page) -> NDArray[Any]:
    """What the axial plane looks like, (rows, columns, RGB), once what was asked for is drawn: in the next frame."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    shot = page.locator(".pane[data-plane=axial] canvas").first.screenshot()
    return np.asarray(Image.open(BytesIO(shot)).convert("RGB"), dtype=int)


def path_of(root: Path, sop_instance_uid: str) -> Path:
    [row] = view_rows(root, f"SELECT path FROM v_images WHERE sop_instance_uid = '{sop_instance_uid}'")
    return Path(row["path"])


def segmented(root: Path, sop_instance_uid: str) -> NDArray[Any]:
    """The labels of a segmentation on the grid of the phantom: planes without a label are not stored."""
    [volume] = volumes(read_instance(path_of(root, sop_instance_uid)), 0)
    assert volume.affine_lps is not None
    labels = np.zeros((SLICES, SIZE, SIZE), np.uint8)
    for number, plane in enumerate(volume.voxels[0]):
        z = (volume.affine_lps @ (0, 0, number, 1))[2]
        labels[round(z / STEP_MM + SLICES / 2)] = plane
    return labels


LEFT = {
    "a mask one column short": "save(voxels[1:], volume.affine)",
    "what is no NIfTI": "(out / 'mask.nii.gz').write_bytes(b'not gzip')",
    "what is right": "save(voxels + 1, volume.affine)",
    "nothing": "pass",
}
"""What a hook leaves, by a line of its program; tests/unit/extensions/results has all that is refused."""

PROGRAM = """\
import sys
from pathlib import Path
import nibabel as nib
import numpy as np
volume, out = nib.load(sys.argv[1]), Path(sys.argv[2])
voxels = np.zeros(volume.shape[:3], np.uint8)
def save(mask, affine):
    nib.save(nib.Nifti1Image(mask, affine), out / "mask.nii.gz")
print("a word of the hook")
"""


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_test_of_a_hook_refuses_with_the_words_of_the_node(tmp_path: Path) -> None:
    """The control: what the node stores, and a hook that leaves nothing, pass the test too."""
    names = {f"h{number}": what for number, what in enumerate(LEFT)}
    series = make.ct_series(3)
    hooks = {}
    for name, what in names.items():
        program = tmp_path / f"{name}.py"
        program.write_text(PROGRAM + LEFT[what])
        command = (sys.executable, str(program), "{path}", "{out}")
        common: dict[str, Any] = {"on": ("volume-written",), "where": {"modality": "CT"}, "results": True}
        hooks[name] = CommandSettings(command=command, timeout_seconds=120, **common)
    root = tmp_path / "root"
    settings = Settings(
        storage=Storage(root=root, reserve_bytes=0, journal_bytes=16_777_216),
        series=SeriesSettings(quiet_seconds=0.2),
        web=Web(port=0),
        dicom={"port": 0},  # type: ignore[arg-type]
        hooks=hooks,
    )
    node = Node(settings)
    try:
        endpoints = node.start()
        send(endpoints.dicom.port, *series)
        client = httpx2.Client(base_url=endpoints.web or "", timeout=60)

        def ended() -> dict[str, dict[str, Any]]:
            items = client.get("/api/v1/work?kind=job").json()["items"]
            return {job["name"]: job for job in items if job["ended_at"]}

        until(lambda: len(ended()) == len(hooks), 240, "the jobs")
        jobs = ended()
    finally:
        node.stop(5)
    assert {what: jobs[name]["state"] for name, what in names.items()} == {
        what: "succeeded" if what in ("what is right", "nothing") else "failed" for what in LEFT
    }
    configuration = {
        f"VOXELNODE_HOOKS__{name}__{key}": value
        for name, hook in hooks.items()
        for key, value in (
            ("KIND", "command"), ("ON", '["volume-written"]'), ("RESULTS", "true"), ("TIMEOUT_SECONDS", "120"),
            ("COMMAND", json.dumps(hook.command)), ("WHERE", '{"modality": "CT"}'),
        )
    }  # fmt: skip
    for name, what in names.items():
        uid = series[0].SeriesInstanceUID
        done = run("hooks", "test", name, "--series", uid, "--root", root, environment=configuration)
        assert done.stdout.startswith("the hook printed:\n    a word of the hook\n")
        if jobs[name]["state"] == "failed":
            assert (done.returncode, jobs[name]["reason"] in done.stderr) == (1, True), (what, done.stderr)
            assert "accepted" not in done.stdout
        else:
            assert done.returncode == 0, done.stderr
    assert jobs[next(name for name, what in names.items() if what == "nothing")]["reason"] == "the hook left no results"
    assert f"hook {name} left no results" in done.stdout
    assert list(root.glob("jobs/*")) == []
