"""The viewer of a series in a real browser: what it shows, measures and lays over each other is what was sent."""

import re
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, Request, Route, expect

from tests import make
from tests.web.conftest import Site, open_site
from tests.web.pages import NARROW, Visitor, accessibility_faults, greys, is_wider_than_window

pytestmark = pytest.mark.slow


STUDY = "1.2.70"
CT, MR, REGIONS, STEADY, COLOUR, ELSEWHERE = (f"{STUDY}.{number}" for number in range(1, 7))
BONE_HU = 1000
FIRST_DOT, LAST_DOT = (10, 30), (50, 60)  # column and row of two bright voxels
PIXEL_MM = (0.5, 1.2)  # between rows, then between columns
MARGIN = 60
"""Pixels at the edges of a plane in which words may be."""
MAX_REQUESTS = 7
"""For the first picture of a series, without the icon of the page."""
APART_MM = float(np.hypot((50 - 10) * 1.2, (60 - 30) * 0.5))


def _ct() -> list[Any]:
    """Soft tissue in air, brighter from slice to slice, with two dots on slice 7 of 12, which no other slice has."""
    pixels = np.full((12, 90, 70), 1024, np.int16) + np.arange(12, dtype=np.int16)[:, None, None] * 10
    pixels[:, :5] = 0
    for column, row in (FIRST_DOT, LAST_DOT):
        pixels[6, row, column] = 1024 + BONE_HU
    about = {"study_uid": STUDY, "pixel_spacing": PIXEL_MM, "spacing": 3.0, "origin": (-40, -20, 100)}
    return make.ct_series(
        12, rows=90, columns=70, pixels=pixels, series_uid=CT, SeriesNumber=1, SeriesDescription="chest", **about
    )


View = Callable[..., Page]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A study with a CT, a sagittal MR and regions in one frame of reference, a time series and a colour picture."""
    with open_site(tmp_path_factory.mktemp("viewer") / "root") as site:
        ct = _ct()
        frame = ct[0].FrameOfReferenceUID
        mr = make.mr_series(
            20, rows=40, columns=40, study_uid=STUDY, series_uid=MR, orientation=(0, 1, 0, 0, 0, -1), spacing=4.0,
            pixel_spacing=(2.0, 2.0), origin=(22, -30, 150), SeriesNumber=2, SeriesDescription="t1",
        )  # fmt: skip
        for image in mr:
            image.FrameOfReferenceUID = frame
        square = [(20.0, 40.0), (40.0, 40.0), (40.0, 60.0), (20.0, 60.0)]
        contours = [make.contour(make.on_slice(image, square), [image]) for image in ct]
        regions = make.structure_set(ct, {"Heart": contours}, study_uid=STUDY, series_uid=REGIONS, SeriesNumber=3)
        steady = make.time_series(3, 4, study_uid=STUDY, series_uid=STEADY, SeriesNumber=4)
        colour = make.rgb_capture(60, 80, study_uid=STUDY, series_uid=COLOUR, SeriesNumber=5)
        elsewhere = make.ct_series(4, study_uid=STUDY, series_uid=ELSEWHERE, SeriesNumber=6)
        site.take(*ct, *mr, regions, *steady, colour, *elsewhere)
        site.convert()
        yield site


@pytest.fixture
def visitor(visit: Callable[[str], Visitor], site: Site) -> Visitor:
    return visit(site.url)


@pytest.fixture
def view(visitor: Visitor) -> View:
    def view(series: str, **options: Any) -> Page:
        page = visitor.open(f"/studies/{STUDY}/series/{series}", **options)
        page.wait_for_selector("#viewer[data-shown]")
        return page

    return view


def plane(page: Page, name: str, number: int = 0) -> Locator:
    return page.locator(f".pane[data-plane={name}]").nth(number)


def caption(page: Page, name: str, number: int = 0) -> Locator:
    return plane(page, name, number).locator("figcaption")


def drawn(page: Page) -> None:
    """Wait until what was asked for is drawn: the viewer draws in the next frame."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def tissue(element: Locator) -> np.ndarray[Any, Any]:
    """What a plane looks like, (rows, columns), without its `MARGIN` of letters, caption and slider."""
    drawn(element.page)
    return greys(element)[MARGIN:-MARGIN, MARGIN:-MARGIN]


def colours(element: Locator) -> np.ndarray[Any, Any]:
    drawn(element.page)
    return np.asarray(Image.open(BytesIO(element.screenshot())).convert("RGB"), dtype=int)


def test_slices_windows_and_slabs_are_chosen_by_keys_and_fields(view: View) -> None:
    page = view(CT)
    axial = plane(page, "axial").locator("canvas")
    expect(caption(page, "axial")).to_have_text("Axial 7 of 12")
    expect(caption(page, "coronal")).to_have_text("Coronal 46 of 90")
    assert [
        plane(page, "axial").locator(f".to-{side}").inner_text() for side in ("left", "right", "top", "bottom")
    ] == [*("R", "L", "A", "P")]
    page.keyboard.press("x")  # without the cross-hair
    page.keyboard.press("ArrowUp")
    expect(caption(page, "axial")).to_have_text("Axial 8 of 12")
    expect(page.locator("#place")).to_contain_text("value 70 HU")
    plane(page, "axial").get_by_role("slider").fill("3")
    expect(caption(page, "axial")).to_have_text("Axial 3 of 12")
    page.keyboard.press("Escape")
    axial.focus()
    page.get_by_text("Picture…").click()
    page.get_by_label("Centre of the window").fill("20")
    page.get_by_label("Width of the window").fill("100")
    page.keyboard.press("Escape")
    expect(page.get_by_label("Centre of the window")).to_be_hidden()
    assert np.median(tissue(axial)) == pytest.approx(255 / 2, abs=3)  # 20 HU on slice 3
    expect(page.locator("#window")).to_have_value("Chosen")
    page.get_by_text("Picture…").click()
    page.locator("#slab").select_option("mip")
    page.get_by_label("Thickness of the slab in mm").fill("100")
    page.keyboard.press("Escape")
    expect(caption(page, "axial")).to_contain_text("MIP")
    assert np.median(tissue(axial)) == 255  # the brightest slice, 110 HU, is above the window
    page.keyboard.press("Escape")
    axial.focus()
    bar = page.get_by_role("toolbar", name="Viewer").bounding_box()
    assert bar["height"] < 40, "one line at 1440 pixels"
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("MIP, MinIP")
    assert accessibility_faults(page) == []


def test_a_distance_is_that_of_the_patient(view: View) -> None:
    page = view(CT)
    page.keyboard.press("x")
    page.get_by_role("button", name="Distance").click()
    canvas = plane(page, "axial").locator("canvas")
    page.locator("#window").select_option("Bone")
    box = canvas.bounding_box()
    assert box is not None
    seen = tissue(canvas)
    bright = np.argwhere(seen > (seen.max() + np.median(seen)) / 2)
    first, last = bright[bright[:, 0] < bright[:, 0].mean()], bright[bright[:, 0] >= bright[:, 0].mean()]
    (y0, x0), (y1, x1) = first.mean(axis=0), last.mean(axis=0)
    page.mouse.move(box["x"] + x0 + MARGIN + 0.5, box["y"] + y0 + MARGIN + 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + x1 + MARGIN + 0.5, box["y"] + y1 + MARGIN + 0.5, steps=4)
    page.mouse.up()
    measures = page.locator("#measures li")
    expect(measures).to_have_count(1)
    [shown] = measures.locator("button").first.all_inner_texts()
    assert float(shown.removeprefix("Distance ").removesuffix(" mm")) == pytest.approx(APART_MM, abs=0.6)
    expect(page.locator("#place")).to_contain_text("voxel 50, 60, 6 · value 1000 HU")
    page.keyboard.press("Escape")
    page.keyboard.press("d")
    for _ in range(10):
        page.keyboard.press("Shift+ArrowRight")
    expect(measures.nth(1)).to_contain_text("Distance 12.0 mm")
    page.keyboard.press("Delete")
    expect(measures).to_have_count(1)
    measures.get_by_role("button", name=re.compile("^Remove Distance")).click()
    expect(measures).to_have_count(0)


def test_angles_and_regions_are_measured_by_keys_on_a_turned_and_flipped_plane(view: View) -> None:
    page = view(CT)
    axial = plane(page, "axial")

    def letters() -> list[str]:
        return [axial.locator(f".to-{side}").inner_text() for side in ("left", "right", "top", "bottom")]

    def move(key: str, times: int) -> None:
        for _ in range(times):
            page.keyboard.press(f"Shift+Arrow{key}")

    page.keyboard.press("t")
    expect(axial.locator(".to-top")).to_have_text("R")
    assert letters() == [*("P", "A", "R", "L")]
    page.keyboard.press("h")
    expect(axial.locator(".to-left")).to_have_text("A")
    page.keyboard.press("t")  # the flip comes after the turn: what was at the left is at the top now
    expect(axial.locator(".to-top")).to_have_text("A")
    assert letters() == [*("L", "R", "A", "P")]
    measures = page.locator("#measures li")
    page.keyboard.press("e")
    move("Right", 10)  # 12 mm
    move("Down", 20)  # 10 mm
    page.keyboard.press("e")
    # Soft tissue of slice 7 has 60 HU; an ellipse of 12 by 10 mm.
    expect(measures).to_contain_text(["Region 0.942 cm² · mean 60 HU · SD 0 · 60 to 60"])
    page.keyboard.press("y")
    move("Right", 5)  # 6 mm
    page.keyboard.press("y")
    move("Down", 12)  # 6 mm
    page.keyboard.press("y")
    expect(measures.nth(1)).to_contain_text("Angle 90.0°")
    page.get_by_role("button", name="Save").focus()
    with page.expect_download() as saved:
        page.keyboard.press("Enter")
    assert saved.value.suggested_filename == "axial-7.png"
    with Image.open(saved.value.path()) as picture:
        assert picture.width > 300
    page.keyboard.press("r")
    expect(measures).to_have_count(0)
    assert letters() == [*("R", "L", "A", "P")]


def test_one_finger_scrolls_or_does_what_the_tool_says_and_two_zoom_and_move(view: View) -> None:
    page = view(CT, has_touch=True)
    page.keyboard.press("x")
    canvas = plane(page, "axial").locator("canvas")
    box = canvas.bounding_box()
    middle = np.array([box["x"] + box["width"] / 2, box["y"] + box["height"] / 2])
    session = page.context.new_cdp_session(page)

    def touch(*ways: tuple[tuple[float, float], tuple[float, float]]) -> None:
        """Put a finger for each way at its beginning, from the middle of the canvas, and move them to its ends."""
        for kind, share in (("touchStart", 0.0), ("touchMove", 0.5), ("touchMove", 1.0), ("touchEnd", 1.0)):
            places = [middle + np.array(start) * (1 - share) + np.array(end) * share for start, end in ways]
            points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
            session.send(
                "Input.dispatchTouchEvent", {"type": kind, "touchPoints": [] if kind == "touchEnd" else points}
            )

    touch(((0, 0), (0, -80)))
    expect(caption(page, "axial")).to_have_text("Axial 10 of 12")  # a slice is 24 pixels
    touch(((0, 0), (0, 80)))
    expect(page.locator("#place")).to_contain_text("voxel 35, 45, 6 ")
    touch(((30, 0), (30, 2)))
    expect(page.locator("#place")).not_to_contain_text("voxel 35, 45, 6 ")
    touch(((-100, 0), (-50, 0)), ((100, 0), (50, 0)))
    half = np.argwhere(tissue(canvas) > 40)
    touch(((-100, 0), (-110, 20)), ((100, 0), (190, 20)))  # 3/2 as large, about a middle that moves by 40 and 20
    larger = np.argwhere(tissue(canvas) > 40)
    assert np.ptp(larger, axis=0) / np.ptp(half, axis=0) == pytest.approx(1.5, rel=0.04)
    moved = (larger.min(axis=0) + larger.max(axis=0) - half.min(axis=0) - half.max(axis=0)) / 2
    assert moved == pytest.approx((20, 40), abs=6)
    expect(caption(page, "axial")).to_have_text("Axial 7 of 12")
    page.keyboard.press("w")
    touch(((0, 0), (60, 0)))
    expect(page.locator("#window")).to_have_value("Chosen")


def _of(page: Page, series: str) -> str:
    return page.locator(f"#beside option[data-series='{series}']").get_attribute("value") or ""


def test_two_series_beside_each_other_share_the_cross_hair(view: View) -> None:
    page = view(CT)
    page.get_by_text("Beside…").click()
    page.get_by_label("Beside").select_option(_of(page, MR))
    page.get_by_text("Beside…").click()
    expect(page.locator(".view")).to_have_count(2)
    expect(caption(page, "sagittal", 1)).to_have_text("Sagittal 6 of 20")  # x = 2 mm, as in the middle of the CT
    plane(page, "axial").locator("canvas").focus()
    for _ in range(10):
        page.keyboard.press("Shift+ArrowLeft")  # 12 mm to the right of the patient: three slices of the MR
    expect(caption(page, "sagittal", 1)).to_have_text("Sagittal 9 of 20")
    page.keyboard.press("x")
    without = colours(plane(page, "sagittal", 1).locator("canvas"))
    page.keyboard.press("x")
    seen = colours(plane(page, "sagittal", 1).locator("canvas"))  # the axial slice is a dashed line in it
    assert np.count_nonzero((seen - without)[..., 0] - (seen - without)[..., 2] > 80) > 50
    page.get_by_text("Beside…").click()
    page.get_by_label("Beside").select_option(_of(page, ELSEWHERE))
    expect(page.locator("#notes")).to_contain_text("not linked: the series have different frames of reference")
    page.get_by_label("Beside").select_option("")
    expect(page.locator(".view")).to_have_count(1)


def test_a_region_lies_over_the_image_in_its_colour_and_with_its_name(view: View) -> None:
    page = view(CT)
    page.keyboard.press("x")
    canvas = plane(page, "axial").locator("canvas")
    before = colours(canvas)
    assert np.ptp(before[60:-60], axis=2).max() < 40  # grey
    page.get_by_label("Heart").check()
    expect(page.locator("#legend li")).to_have_text(["Heart"])
    expect(page.locator("#place")).to_contain_text("Heart")
    tinted = np.argwhere(colours(canvas)[..., 0] - colours(canvas)[..., 1] > 40)
    assert len(tinted) > 500
    # 20 of 70 columns of 1.2 mm, 20 of 90 rows of 0.5 mm: wider than high by 2.4
    extent = np.ptp(tinted, axis=0)
    assert extent[1] / extent[0] == pytest.approx(2.4, rel=0.1)
    page.get_by_label("Opacity").fill("0")
    expect(page.locator("#legend li")).to_have_text(["Heart"])
    assert np.abs(colours(canvas) - before).max() < 3


def test_times_play_and_colours_are_as_they_are(view: View) -> None:
    page = view(STEADY)
    expect(page.locator("#time-number")).to_contain_text("1 of 3")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#time-number")).to_contain_text("2 of 3")
    page.get_by_label("per second").fill("30")
    page.get_by_role("button", name="Play").click()
    expect(page.locator("#time-number")).not_to_contain_text("2 of 3")
    page = view(COLOUR)
    page.locator("#layout").select_option("three")
    alone = page.locator(".pane:visible").evaluate_all("panes => panes.map((one) => one.clientWidth)")
    assert alone == [page.locator(".view").evaluate("one => one.clientWidth")]
    page = view(COLOUR, size=NARROW)
    expect(page.locator("#place")).to_contain_text(re.compile(r"voxel 40, 30, 0 · value \d+, \d+, \d+$"))
    expect(page.locator("#centre")).to_be_disabled()
    assert not is_wider_than_window(page)


def test_the_volume_in_space_is_loaded_when_it_is_asked_for(visitor: Visitor, view: View) -> None:
    page = view(CT, size={"width": 330, "height": 300})  # the processor draws
    assert not [url for url in visitor.asked if "niivue" in url]
    page.keyboard.press("v")
    expect(plane(page, "space")).to_contain_text("There is no GPU")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#layout")).to_have_value("three")
    page.keyboard.press("v")
    page.get_by_role("button", name="Draw it").click()
    page.wait_for_selector(".pane[data-plane=space][data-shown]")
    assert [url for url in visitor.asked if url.endswith("reduced?only_body=true")]
    canvas = plane(page, "space").locator("canvas")
    expect(page.locator("#threshold-of")).to_be_visible()
    page.locator("#threshold").fill("0")
    soft = greys(canvas)
    assert soft.std() > 5
    page.locator("#threshold").fill("800")
    assert np.abs(greys(canvas) - soft).mean() > 1


def test_other_pictures_wait_for_the_first_of_the_viewer(visitor: Visitor, view: View) -> None:
    expect(view(CT).locator(".rail img").first).to_have_attribute("src", re.compile("thumbnail"))
    # A browser may ask for the icon at any time, and for badges after 10 seconds.
    asked = [url for url in visitor.asked if not re.search(r"/badges$|/mark\.svg", url)]
    first = asked.index(next(url for url in asked if url.endswith("volume.nii.gz"))) + 1
    assert first <= MAX_REQUESTS
    assert [url for url in asked[:first] if "thumbnail" in url] == []


def test_without_webgl_planes_are_shown_and_space_says_why_not(visitor: Visitor) -> None:
    page = visitor.open("/status")
    page.add_init_script(
        "const get = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {"
        "  return kind === 'webgl2' ? null : get.call(this, kind, ...rest); };"
    )
    page.goto(f"/studies/{STUDY}/series/{CT}")
    expect(caption(page, "axial")).to_have_text("Axial 7 of 12")
    page.locator("#layout").select_option("four")
    expect(plane(page, "space")).to_contain_text("WebGL 2 is missing")


def test_files_that_no_browser_reads_are_shown_as_a_nodes_copy(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "node.extensions.pages.series.BROWSER_FORMATS", frozenset()
    )  # as on a node that writes NRRD alone
    page = view(STEADY)
    expect(page.locator("#notes")).to_contain_text("Only the first time is shown: of files in this format")
    expect(caption(page, "coronal")).to_contain_text("Coronal")


@pytest.mark.parametrize("voxels", ["volume.nii.gz", "volume.zraw"])
def test_a_large_volume_is_shown_reduced_before_it_is_complete(
    visitor: Visitor, site: Site, monkeypatch: pytest.MonkeyPatch, voxels: str
) -> None:
    monkeypatch.setattr("node.extensions.pages.files.REDUCED_VOXELS", 20_000)
    if voxels == "volume.zraw":  # as on a node that writes MetaImage alone
        monkeypatch.setattr("node.extensions.pages.series.VIEWED_FORMATS", ("mhd",))
    page = visitor.open("/status")
    held: list[Route] = []

    def small(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("= 48e6", "= 1e4"))

    def hold_second(route: Route) -> None:
        held.append(route)
        if len(held) == 1:
            route.continue_()

    page.route("**/volume.js*", small)
    page.route(f"**/{voxels}", hold_second)
    asked: list[str] = []

    def is_second(request: Request) -> bool:
        asked.extend(url for url in (request.url,) if url.endswith(voxels))
        return len(asked) == 2

    with page.expect_request(is_second):
        page.goto(f"/studies/{STUDY}/series/{CT}")
    expect(page.locator("#notes")).to_contain_text("One of 1 × 4 × 1 voxels is shown; the rest is loading")
    expect(caption(page, "coronal")).to_have_text("Coronal 45 of 90")
    held[1].continue_()
    expect(page.locator("#notes")).to_have_text("")
    expect(caption(page, "coronal")).to_contain_text("of 90")
