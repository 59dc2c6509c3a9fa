"""Take the pictures of the README and of ``docs/pages.md`` from a running node and a command, in Chromium.

``python -m tests.documents.pictures docs/images`` starts a node on an empty root and sends it a study: a head, the same
without some slices, contours, a dose and a report. It takes half a minute. Run it again when the pages have changed.
"""

import html
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import Browser, Page, expect, sync_playwright
from pydicom import Dataset, FileDataset
from pydicom.uid import RTDoseStorage, generate_uid

from node.api import shipped_with_pydicom
from node.extensions.demo.known_series import head_phantom
from tests import make
from tests.acceptance.served import Served
from tests.documents.tour import send
from tests.preloaded import run
from tests.web.pages import ARGUMENTS, CHROMIUM

STUDY_SIZE, SERIES_SIZE = {"width": 1180, "height": 842}, {"width": 1180, "height": 860}
FOLDER_SIZE = {"width": 1180, "height": 100}
COLUMNS = "130"
"""Of the terminal that the picture of the command shows."""
TERMINAL = '<pre style="margin: 1.2rem; font: 14px/1.5 monospace; white-space: pre-wrap">'
REGIONS = {"Right hemisphere": (62, 92, 18, 34), "Cerebellum": (88, 148, 24, 12)}
"""Middle (column, row) and radii of ellipses on the slices of the head, in pixels."""
COLOURS = ([230, 80, 70], [90, 210, 130])
SECONDS = 120
"""Longest wait for the volume in space, which the processor renders."""
DOSE_MM, DOSE_GRID, DOSE_RADIUS_MM = 4.0, 30, 15.0


def study() -> list[Dataset]:
    """Return the instances of the study."""
    head = sorted(head_phantom().instances, key=lambda ds: float(ds.ImagePositionPatient[2]))
    for ds in head:
        ds.SeriesNumber = 1
    about = {name: head[0][name].value for name in ("PatientName", "PatientID", "PatientSex", "StudyDate", "StudyTime")}
    about |= {"StudyDescription": "Head, plan", "study_uid": head[0].StudyInstanceUID}
    for ds in head:
        ds.StudyDescription = about["StudyDescription"]
    contours = make.structure_set(
        head,
        {name: [make.contour(_ellipse(ds, *where), [ds]) for ds in head[22:40]] for name, where in REGIONS.items()},
        **about | {"SeriesNumber": 3, "SeriesDescription": "Contours"},
    )
    for drawn, colour in zip(contours.ROIContourSequence, COLOURS, strict=True):
        drawn.ROIDisplayColor = colour
    return [
        *head,
        *_without_slices(head),
        contours,
        _dose(head, **about | {"SeriesNumber": 4, "SeriesDescription": "Plan dose"}),
        make.structured_report(**about | {"SeriesNumber": 9, "SeriesDescription": "Dose report"}),
    ]


def _without_slices(head: Sequence[Dataset]) -> list[Dataset]:
    """Return the head as another series, of which three slices got lost."""
    again = sorted(head_phantom().instances, key=lambda ds: float(ds.ImagePositionPatient[2]))
    series = generate_uid()
    for ds in again:
        ds.StudyInstanceUID, ds.SeriesInstanceUID = head[0].StudyInstanceUID, series
        ds.FrameOfReferenceUID, ds.StudyDescription = head[0].FrameOfReferenceUID, head[0].StudyDescription
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.SeriesNumber, ds.SeriesDescription = 2, "Head 3.4 B30s, contrast"
    return [*again[:28], *again[31:]]


def _ellipse(image: Dataset, column: float, row: float, wide: float, high: float) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return make.on_slice(image, np.stack([column + wide * np.cos(turn), row + high * np.sin(turn)], axis=1))


def _dose(head: Sequence[Dataset], **about: object) -> FileDataset:
    """Return a dose that falls off from the middle of the head."""
    first, last = (np.array(ds.ImagePositionPatient, float) for ds in (head[0], head[-1]))
    rows, columns = (
        np.array(head[0].ImageOrientationPatient, float).reshape(2, 3)
        * np.array([[head[0].Columns], [head[0].Rows]])
        * float(head[0].PixelSpacing[0])
    )
    middle = (first + last + rows + columns) / 2
    offsets = (np.arange(DOSE_GRID) - (DOSE_GRID - 1) / 2) * DOSE_MM
    z, y, x = np.meshgrid(offsets, offsets, offsets, indexing="ij")
    gray = 60 * np.exp(-(x**2 + y**2 + z**2) / (2 * DOSE_RADIUS_MM**2))
    ds = make.instance(
        sop_class_uid=RTDoseStorage,
        modality="RTDOSE",
        DoseUnits="GY",
        DoseType="PHYSICAL",
        DoseSummationType="PLAN",
        DoseGridScaling="1e-6",
        GridFrameOffsetVector=[float(offset) for offset in offsets - offsets[0]],
        ImagePositionPatient=[round(float(part), 3) for part in middle + offsets[0]],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        PixelSpacing=[DOSE_MM, DOSE_MM],
        FrameOfReferenceUID=head[0].FrameOfReferenceUID,
        **about,
    )
    return make.set_pixels(ds, (gray * 1e6).astype(np.uint32))


def take(page: Page, path: Path) -> None:
    """Write what a page shows, with its words."""
    page.wait_for_load_state("networkidle")
    words = PngInfo()
    words.add_text("Description", page.locator("body").inner_text())
    shown = Image.open(BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    shown.save(path, optimize=True, pnginfo=words)
    print(f"{path}: {path.stat().st_size} bytes")


def words_of(path: Path) -> list[str]:
    """Return the lines that a picture shows, without what differs from one taking to the next."""
    with Image.open(path) as picture:
        words = picture.info.get("Description") or picture.info.get("xmp", b"").decode()
    return re.sub(r"\b\d[\d.:]*(dev\d+\+\w+)?", "#", words).splitlines()


def take_study(browser: Browser, url: str, path: Path) -> None:
    page = browser.new_page(viewport=STUDY_SIZE, color_scheme="light")
    page.goto(url)
    take(page, path)


def take_series(browser: Browser, url: str, path: Path) -> None:
    page = browser.new_page(viewport=SERIES_SIZE, color_scheme="dark")
    page.set_default_timeout(SECONDS * 1000)
    page.goto(url)
    page.wait_for_selector("#viewer[data-shown]")
    for overlay in (*REGIONS, "4 Plan dose"):
        page.get_by_role("checkbox", name=overlay).check()
    for name in (*REGIONS, "Plan dose"):
        expect(page.locator("#legend")).to_contain_text(name)
    page.locator("#layout").select_option("four")
    page.get_by_role("button", name="Draw it").click()
    page.wait_for_selector(".pane[data-plane=space][data-shown]")
    page.wait_for_timeout(1500)  # the processor renders the volume here
    page.evaluate("scrollTo(0, 0)")
    take(page, path)


def take_folder(browser: Browser, scans: Path, path: Path) -> None:
    """Write a picture of what `voxelnode convert` says about three patients among the test files of pydicom."""
    for name in ("77654033", "98892001", "TINY_ALPHA"):
        [folder] = (file for file in shipped_with_pydicom("dicomdirtests") if file.name == name)
        shutil.copytree(folder, scans / "scans" / name)
    done = run("convert", "scans", "-o", "volumes", folder=scans, environment={"COLUMNS": COLUMNS})
    page = browser.new_page(viewport=FOLDER_SIZE, color_scheme="dark")
    text = html.escape(f"$ voxelnode convert scans -o volumes\n{done.stdout}")
    page.set_content(f'<body style="margin: 0; background: #10141a; color: #dbe4ec">{TERMINAL}{text}</pre>')
    page.set_viewport_size({**FOLDER_SIZE, "height": page.evaluate("document.documentElement.scrollHeight")})
    take(page, path)


def record(folder: Path) -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright, Served(Path(name) / "root") as node:
        found = re.search(r"http://\S+:\d+", node.process.stdout.readline())
        send(node, study(), Path(name) / "study").wait()
        node.wait_until_idle()
        [row] = node.rows("SELECT * FROM v_series WHERE series_number = 1")
        url = f"{found[0]}/studies/{row['study_instance_uid']}"
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        take_folder(browser, Path(name), folder / "folder.png")
        take_study(browser, url, folder / "study.png")
        take_series(browser, f"{url}/series/{row['series_instance_uid']}", folder / "series.png")
        browser.close()


if __name__ == "__main__":
    record(Path(sys.argv[1]))
