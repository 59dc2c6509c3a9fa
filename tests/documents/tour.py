"""Record the moving picture of the README from the pages of a running node, in Chromium.

``python -m tests.documents.tour docs/images/tour.webp`` starts a node on an empty root, sends it series of heads, of
which one lacks a slice, and looks at what a person would: the list while images arrive, the studies, the volumes. It
takes a minute. Run it again when the pages have changed.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from time import monotonic

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from pydicom import FileDataset
from pydicom.uid import generate_uid

from node.extensions.demo.known_series import head_phantom
from tests import make
from tests.acceptance.served import Served
from tests.programs import needs
from tests.web.pages import ARGUMENTS, CHROMIUM

SIZE = {"width": 1080, "height": 680}
MAX_BYTES = 3_000_000
SECONDS = 120.0
"""Longest wait for anything that the pages are to show."""


class Recording:
    """Frames of a page with the time for which each is shown."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._frames: list[tuple[Image.Image, int]] = []

    def show(self, milliseconds: int) -> None:
        """Take a frame; one that is like the frame before makes that one longer."""
        frame = Image.open(BytesIO(self._page.screenshot(animations="disabled"))).convert("RGB")
        if self._frames and self._frames[-1][0].tobytes() == frame.tobytes():
            last, shown = self._frames.pop()
            self._frames.append((last, shown + milliseconds))
        else:
            self._frames.append((frame, milliseconds))

    def show_until(self, is_done: Callable[[], bool], milliseconds: int = 200, most: int = 2000) -> None:
        """Take frames until something is done; what does not change is shown for `most` milliseconds at most."""
        deadline = monotonic() + SECONDS
        while not is_done():
            if monotonic() > deadline:
                raise TimeoutError(f"{self._page.url}: not within {SECONDS} s")
            self.show(milliseconds)
            self._page.wait_for_timeout(milliseconds)
        self._frames = [(frame, min(shown, most)) for frame, shown in self._frames]

    def write(self, path: Path) -> int:
        """Write the frames as WebP that repeats, with the words of the last one; return its size in bytes."""
        frames, shown = zip(*self._frames, strict=True)
        words = self._page.locator("body").inner_text().encode()
        durations = list(shown)
        frames[0].save(
            path, save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=60, method=6, xmp=words
        )
        return path.stat().st_size


def head_without_a_slice() -> list[FileDataset]:
    """Another head, of which one slice got lost."""
    study, series = generate_uid(), generate_uid()
    instances = head_phantom().instances
    for ds in instances:
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.PatientName, ds.PatientID, ds.StudyDate = "Phantom^Gap", "VOXELNODE-GAP", "20240301"
        ds.SeriesDescription = "Head, a slice is lost"
    return [*instances[:30], *instances[31:]]


def small_series() -> list[FileDataset]:
    """Series of other patients, for the list."""
    others = (
        ("Doe^Jane", "Thorax", "20240214"),
        ("Roe^Richard", "Abdomen", "20240215"),
        ("Poe^Pat", "Pelvis", "20240216"),
    )
    return [
        ds
        for number, (patient, study, date) in enumerate(others, start=1)
        for ds in make.ct_series(
            5, PatientName=patient, PatientID=f"P-{number}", StudyDescription=study, StudyDate=date
        )
    ]


def send(node: Served, instances: Sequence[FileDataset], folder: Path) -> subprocess.Popen[bytes]:
    """Send instances with DCMTK, as a scanner does."""
    make.saved(instances, folder)
    command = [needs("dcmsend"), "-aec", "VOXELNODE", "+sd", "127.0.0.1", str(node.port), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def tour(page: Page, node: Served, folder: Path) -> Recording:
    """Visit the pages while series arrive."""
    recording = Recording(page)
    rows = page.locator("main tbody tr")
    send(node, small_series(), folder / "others").wait()
    node.wait_until_idle()
    page.goto("/")
    for name, instances in (("gap", head_without_a_slice()), ("head", head_phantom().instances)):
        recording.show(600)
        before = rows.count()
        sender = send(node, instances, folder / name)
        recording.show_until(lambda before=before: rows.count() > before)
        sender.wait()
    recording.show_until(lambda: not node.rows("SELECT 1 FROM v_series WHERE state IN ('receiving', 'converting')"))
    page.wait_for_timeout(1500)
    recording.show(2000)
    series = {
        row["series_description"]: f"/studies/{row['study_instance_uid']}/series/{row['series_instance_uid']}"
        for row in node.rows("SELECT * FROM v_series")
    }
    for description, slices in (("Oblique head phantom", 14), ("Head, a slice is lost", 0)):
        page.goto(series[description].partition("/series/")[0])
        page.wait_for_load_state("networkidle")
        recording.show(1500)
        page.goto(series[description])
        look_through(page, recording, slices)
    return recording


def look_through(page: Page, recording: Recording, slices: int) -> None:
    """Turn the wheel over the volume of a series, then show bones, a slab, and the volume in space."""
    page.wait_for_selector("#viewer[data-shown]")
    page.wait_for_load_state("networkidle")
    recording.show(1500)
    page.locator("canvas").first.hover(position={"x": 60, "y": 60})
    for _ in range(slices):
        page.mouse.wheel(0, -120)
        page.wait_for_timeout(100)
        recording.show(180)
    if slices:
        for keys, milliseconds in (("7", 1200), ("m", 1500)):
            page.keyboard.press(keys)
            page.wait_for_timeout(300)
            recording.show(milliseconds)
        page.keyboard.press("v")
        page.get_by_role("button", name="Draw it").click()
        page.wait_for_selector(".pane[data-plane=space][data-shown]")
        page.wait_for_timeout(1500)  # the processor renders the volume here
    recording.show(1500)


def record(path: Path) -> None:
    """Record the tour.

    Raises ValueError: the file is too large for a README.
    """
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        with Served(folder / "root", VOXELNODE_SERIES__QUIET_SECONDS="5") as node:
            found = re.search(r"http://\S+:\d+", node.process.stdout.readline())
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            page = browser.new_page(viewport=SIZE, base_url=found[0], color_scheme="dark")
            page.set_default_timeout(SECONDS * 1000)
            size = tour(page, node, folder).write(path)
            browser.close()
    if size > MAX_BYTES:
        raise ValueError(f"{path} has {size} bytes, more than {MAX_BYTES}: take fewer frames")
    print(f"{path}: {size} bytes")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
