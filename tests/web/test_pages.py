"""The pages in a real browser, on a root that holds what arrives in real life, and what should not."""

import csv
import datetime as dt
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
from playwright.sync_api import Request, Response, Route, expect
from pydicom import Dataset
from pydicom.uid import MRImageStorage

from node.children.pseudonyms import new_key_file
from node.extensions.demo.known_series import head_phantom
from node.index.rows.records import CountedRefusal, Refused
from tests import make
from tests.trash import empty_trash
from tests.web.conftest import PASSWORD, Site, StartSite, open_site
from tests.web.pages import (
    NARROW,
    OF_COLOURS,
    TABLET,
    WIDE,
    Visitor,
    accessibility_faults,
    cut_texts,
    is_wider_than_window,
)

UTF8 = "ISO_IR 192"
SCRIPT = "<script>alert(1)</script>"
HOSTILE_STUDY = "1.2.66"
IS_SEEN = """one => {
    scrollTo(0, document.documentElement.scrollHeight);
    const box = one.getBoundingClientRect();
    return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2) === one;
}"""
"""Whether the middle of an element shows when only the page is scrolled, to its end."""
HOSTILE = {
    "PatientName": '<img src="x" onerror="alert(1)">^{{123456*9}}',
    "PatientID": "javascript:alert(1)",
    "StudyDescription": "\u202egnp.exe",
    "AccessionNumber": "{{123456*9}}",
    "SeriesDescription": SCRIPT,
    "ReferringPhysicianName": "'\"><svg onload=alert(1)>",
    "ProtocolName": "two\nlines",
    "SpecificCharacterSet": UTF8,
}


@dataclass
class Shown:
    """A served root and where its things are."""

    site: Site
    head: str
    knee: str


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """A head; a knee with a whole, an incomplete and a refused series and a report; hostile names. Only for reading."""
    folder = tmp_path_factory.mktemp("pages")
    new_key_file(folder / "key")
    with open_site(folder / "root", {"deidentify": {"trial": {"key": folder / "key"}}}).serving() as site:
        phantom = head_phantom()
        site.take(*phantom.instances)
        site.take(*_knee())
        site.take(*make.ct_series(4, study_uid=HOSTILE_STUDY, series_uid="1.2.66.1", **HOSTILE))
        long = {"PatientName": "A" * 64, "PatientID": "9" * 64, "StudyDescription": "W" * 64}
        site.take(*make.ct_series(3, study_uid="1.2.67", series_uid="1.2.67.1", **long))
        site.convert()
        first = make.instance(study_uid="1.2.68", series_uid="1.2.68.1", sop_instance_uid="1.2.68.1.1")
        site.take(first)
        first.PatientComments = "other bytes under the same UID"
        site.take(first)
        refused = Refused("association", "called AE title", "called X", "call us VOXELNODE", "10.0.0.1", SCRIPT, "X")
        now = dt.datetime.now(dt.UTC)
        site.store.index.rejections.record([CountedRefusal(refused, 3, now, now)])
        yield Shown(site, _place(phantom.instances[0]), _place(_knee()[0]))


def _knee() -> list[Any]:
    about = {
        "study_uid": "1.2.65",
        "PatientName": "Müller^Anna",
        "PatientID": "MR-0042",
        "StudyDescription": "Knee",
        "StudyDate": "20260312",
        "SpecificCharacterSet": UTF8,
    }
    gaps = make.gap_series(9, (4,), modality="MR", sop_class_uid=MRImageStorage, series_uid="1.2.65.2", **about)
    refused = make.ct_series(3, series_uid="1.2.65.3", ImageOrientationPatient=[0, 0, 0, 0, 0, 0], **about)
    for ds in refused:
        ds.ImageOrientationPatient = [0, 0, 0, 0, 0, 0]
    report = make.structured_report(series_uid="1.2.65.4", **about)
    return [*make.mr_series(5, series_uid="1.2.65.1", SeriesDescription="t1", **about), *gaps, *refused, report]


def _place(ds: Dataset) -> str:
    return f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}"


@pytest.fixture
def visitor(shown: Shown, visit: Callable[[str], Visitor]) -> Visitor:
    return visit(shown.site.url)


PAGES = (
    "/",
    "/worklist",
    "/problems",
    "/problems/conflicts/1",
    "/problems/quarantine",
    "/upload",
    "/status",
    "/administration",
    "/administration/configuration",
    "/login",
    "/studies/1.2.65",
    "/studies/1.2.65/series/1.2.65.2",
    f"/studies/{HOSTILE_STUDY}",
)
OTHER_PAGES = (
    "/queue",
    "/problems/rejections",
    "/problems/acknowledged",
    "/problems/unconvertible",
    "/problems/conflicts",
    "/problems/hooks",
    "/problems/trash",
    "/routes",
    "/work",
    "/bids?study=1.2.65",
    "/help/access",
    "/account",
    "/administration/connections",
    "/administration/retention",
    "/administration/changes",
    "/administration/log",
    "/studies/1.2.65/delete",
    "/studies/1.2.65/series/1.2.65.1",
    "/studies/1.2.65/series/1.2.65.3",
)
"""Made of the same parts as `PAGES`."""


@pytest.mark.slow
@pytest.mark.parametrize("panel", ["Label…", "Comment…"])
def test_what_is_typed_after_a_panel_has_opened_is_in_its_field(visitor: Visitor, panel: str) -> None:
    page = visitor.open("/studies/1.2.65")
    page.locator("summary").filter(has_text=panel).first.click()
    field = page.locator("details.popover[open]").locator("input:not([type]), textarea")
    expect(field).to_be_focused()
    page.keyboard.type("g q j k")  # keys of the pages
    expect(field).to_have_value("g q j k")


@pytest.mark.sample(0, 5)
@pytest.mark.parametrize("path", [*PAGES, *(pytest.param(path, marks=pytest.mark.long) for path in OTHER_PAGES)])
def test_a_page_is_accessible_fits_any_window_and_links_to_its_document(visitor: Visitor, path: str) -> None:
    page = visitor.open(path)
    assert accessibility_faults(page) == []
    for details in page.locator("main details").all():
        details.evaluate("one => { one.open = true; }")
    assert accessibility_faults(page) == []
    page.emulate_media(color_scheme="dark")
    assert accessibility_faults(page, *OF_COLOURS) == []
    for size in (WIDE, TABLET, NARROW):
        page.set_viewport_size(size)
        assert not is_wider_than_window(page)
        assert cut_texts(page) == [], size
    if page.locator(".top nav").count():
        assert {one.get_attribute("href") for one in page.locator(".top nav a").all()} <= {*PAGES, *OTHER_PAGES}
        document, _, anchor = page.locator("a[rel=help]").get_attribute("href").partition("#")
        page.goto(document)
        expect(page.locator(f"#{anchor}" if anchor else "h1")).to_have_count(1)


@pytest.mark.slow
def test_the_choice_of_light_or_dark_stays(visitor: Visitor) -> None:
    page = visitor.open("/", "light")
    page.get_by_role("button", name="Light or dark colours").click()
    page.goto("/status")
    assert page.evaluate("getComputedStyle(document.body).colorScheme") == "dark"


@pytest.mark.slow
def test_hostile_text_is_shown_as_text(visitor: Visitor) -> None:
    page = visitor.open()
    for path in ("/", "/queue", f"/studies/{HOSTILE_STUDY}", f"/studies/{HOSTILE_STUDY}/series/1.2.66.1"):
        page.goto(path)
        text = page.locator("main").inner_text()
        assert "{{123456*9}}" in text
        assert "1111104" not in text
        assert "<img src" in text or path == "/queue"
        assert "\u202e" not in page.content()
        assert page.locator("main [onerror], main [onload], main script").count() == 0
        assert page.locator("a[href^='javascript']").count() == 0
        if path.endswith(HOSTILE_STUDY):
            expect(page.locator(".strip")).to_contain_text("[U+202E]gnp.exe")
    page.get_by_text("Elements of the first instance").click()
    expect(page.locator("#header-rows tr").filter(has_text="ProtocolName")).to_contain_text("two\\nlines")


@pytest.mark.slow
def test_studies_are_found_while_one_types_and_no_server_sees_the_name_in_an_address(visitor: Visitor) -> None:
    page = visitor.open("/")
    words, rows = page.get_by_label("Patient, ID or accession"), page.locator("#rows tr:not([hidden])")
    words.press_sequentially("anna, mül")
    expect(rows).to_have_count(1)
    expect(page.locator("#rows")).to_contain_text("Müller, Anna")
    expect(page.locator("#announcer")).to_have_text("1 study")
    words.fill("Phantom")
    expect(rows).to_have_count(1)
    expect(page.locator("#rows")).to_contain_text("Phantom, Head")
    assert page.url.endswith("#words=Phantom")
    assert not [url for url in visitor.asked if "Phantom" in url]
    words.fill("no such thing")
    expect(page.locator("#rows")).to_contain_text("No study matches")


@pytest.mark.slow
def test_a_filter_narrows_the_list(visitor: Visitor) -> None:
    page = visitor.open("/")
    choose = {
        "Modality": lambda value: page.get_by_text(value, exact=True).first.click(),
        "From": lambda value: page.get_by_label("From", exact=True).fill(value),
        "To": lambda value: page.get_by_label("To", exact=True).fill(value),
        "State": lambda value: page.get_by_role("combobox", name="State").select_option(value),
    }
    for field, value, count in (
        ("Modality", "MR", 1), ("From", "2026-01-01", 1), ("To", "2024-01-31", 3), ("State", "incomplete", 1),
    ):  # fmt: skip
        choose[field](value)
        expect(page.locator("#rows tr:not([hidden])")).to_have_count(count)
        expect(page.locator("#total")).to_have_text(f"{count} of 5 studies")
        page.get_by_role("button", name="Clear", exact=True).click()
        expect(page.locator("#rows tr:not([hidden])")).to_have_count(5)


@pytest.mark.slow
def test_filters_fold_on_a_telephone_and_those_that_are_set_are_shown(visitor: Visitor) -> None:
    page = visitor.open("/", size=NARROW)
    expect(page.get_by_label("Patient, ID or accession")).to_be_visible()
    expect(page.get_by_label("Description", exact=True)).to_be_hidden()
    page.get_by_text("More filters").click()
    page.get_by_label("Description", exact=True).fill("walk")
    page.reload()
    expect(page.get_by_label("Description", exact=True)).to_have_value("walk")
    expect(page.get_by_label("Description", exact=True)).to_be_visible()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1440, 1024])
def test_the_search_field_stays_as_wide_as_it_is(visitor: Visitor, width: int) -> None:
    page = visitor.open("/", size={"width": width, "height": 800})
    find = page.get_by_label("Patient, ID or accession")
    before = find.bounding_box()
    page.locator("select[name=condition]").select_option("no-gap-seen")
    page.locator("#filters .code").first.evaluate(
        "one => { for (let i = 0; i < 30; i++) one.after(one.cloneNode(true)) }"
    )
    assert find.bounding_box() == before
    assert not is_wider_than_window(page)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1440, 800, 390])
def test_one_button_has_all_downloads(visitor: Visitor, shown: Shown, width: int) -> None:
    page = visitor.open(shown.knee, size={"width": width, "height": 800})
    menu = page.locator(".heading .menu")
    expect(menu.get_by_role("link")).to_have_count(0)
    menu.locator("summary").click()
    expect(menu.get_by_role("link")).to_have_text(["Volumes", "All files", "DICOM", "CD or USB…"])
    assert menu.locator(".panel").bounding_box()["x"] >= 0
    assert not is_wider_than_window(page)
    assert accessibility_faults(page) == []
    with page.expect_download():
        menu.get_by_role("link", name="DICOM").click()
    expect(menu.locator(".panel")).to_be_hidden()


@pytest.mark.slow
def test_studies_are_sorted_chosen_and_looked_into(visitor: Visitor) -> None:
    page = visitor.open("/")
    names, header = page.locator("#rows th.name a"), page.get_by_role("columnheader", name="Patient", exact=True)
    # Rows that come later would take the list of series away.
    page.evaluate("""
        const filters = document.querySelector("#filters"), { dataset } = document.body;
        dataset.answers = 0;
        filters.addEventListener("htmx:afterOnLoad", () => dataset.answers++);
    """)
    for answers, order in enumerate(("ascending", "descending"), 1):
        page.get_by_role("button", name="Patient", exact=True).click()
        expect(header).to_have_attribute("aria-sort", order)
        expect(page.locator("body")).to_have_attribute("data-answers", str(answers))
    expect(names.first).to_have_text("Voxel, Test")
    assert "order=name&reverse=on" in page.url

    row = page.locator("#rows > tr:not(.expansion)").filter(has_text="Müller")
    row.locator("button.expand").click()
    expect(page.locator(".expansion tbody tr")).to_have_count(4)
    expect(page.locator(".expansion")).to_contain_text("missing slice")
    page.wait_for_function("document.querySelector('#rows img').naturalWidth > 0")

    page.locator("#columns input[value=accession]").evaluate("box => box.click()")
    expect(page.locator("th.c-accession")).to_be_hidden()
    expect(page.locator("tr.expansion > td")).to_have_attribute("colspan", "11")
    row.get_by_role("checkbox").check()
    page.get_by_label("Patient, ID or accession").fill("phantom")
    expect(page.locator("#selected-count")).to_have_text("1 selected, 1 of them not shown")
    with page.expect_download() as download:
        page.locator("#selected .menu summary").click()
        page.locator("#selected").get_by_role("button", name="DICOM", exact=True).click()
    assert len(ZipFile(download.value.path()).namelist()) == 17 + 1  # and the list
    page.get_by_role("button", name="Clear selection").click()
    expect(page.locator("#selected")).to_be_hidden()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    [written] = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    assert written["patient_name"].startswith("Phantom^Head")
    page.get_by_role("button", name="Today").click()
    expect(page.locator("#rows")).to_contain_text("No study matches")
    page.reload()
    expect(page.locator("th.c-accession")).to_be_hidden()
    expect(page.locator("#rows")).to_contain_text("No study matches")
    assert accessibility_faults(page) == []


@pytest.mark.slow
def test_many_studies_are_looked_into_at_once(visitor: Visitor) -> None:
    page = visitor.open("/")
    page.locator("#rows button.expand").evaluate_all("all => all.forEach((button) => button.click())")
    expect(page.locator(".expansion")).to_have_count(5)


@pytest.mark.slow
def test_a_row_may_be_replaced_before_its_series_arrive(visitor: Visitor) -> None:
    page = visitor.open("/")
    held: list[Route] = []
    page.route("**/list", lambda route: held.append(route))
    with page.expect_request("**/list"):
        page.locator("#rows > tr").filter(has_text="Müller").locator("button.expand").click()
    with page.expect_request("**/list"):
        page.get_by_role("button", name="Patient", exact=True).click()
    for route in held:
        with page.expect_response("**/list"):
            route.continue_()
    expect(page.locator(".expansion")).to_have_count(1)
    expect(page.locator(".expansion tbody tr")).to_have_count(4)


@pytest.mark.slow
def test_what_is_asked_for_twice_is_done_once(visitor: Visitor) -> None:
    page = visitor.open("/")
    answered: list[str] = []

    def is_second(response: Response) -> bool:
        answered.extend(url for url in (response.url,) if url.endswith("/list"))
        return len(answered) == 2

    with page.expect_response(is_second):
        page.locator("#rows > tr").filter(has_text="Müller").locator("button.expand").evaluate(
            "button => { button.click(); button.click(); button.click(); }"
        )
    page.route("**/reconvert", lambda route: None)
    expect(page.locator(".expansion")).to_have_count(1)
    page.goto("/studies/1.2.65")
    with page.expect_request("**/reconvert"):
        page.get_by_role("button", name="Convert again").evaluate("button => { button.click(); button.click(); }")
    page.goto("/status")
    assert len([url for url in visitor.asked if url.endswith("reconvert")]) == 1


@pytest.mark.slow
def test_what_was_not_answered_can_be_asked_for_again(visitor: Visitor) -> None:
    page = visitor.open("/studies/1.2.65/series/1.2.65.4")
    page.route("**/header", lambda route: route.fulfill(status=500), times=1)
    page.get_by_text("Elements of the first instance").click()
    page.get_by_role("button", name="Not loaded. Try again").click()
    expect(page.locator("#header-rows tr").filter(has_text="PatientName")).to_contain_text("Müller^Anna")
    page.goto("/")
    page.route("**/list", lambda route: route.fulfill(status=500), times=1)
    page.route("**/selected/reconvert", lambda route: route.fulfill(status=503), times=1)
    row = page.locator("#rows > tr").filter(has_text="Müller")
    row.locator("button.expand").click()
    expect(page.locator("#announcer")).to_have_text("The node answered with HTTP status 500.")
    row.locator("button.expand").click()
    expect(page.locator(".expansion")).to_have_count(1)
    page.route("/", lambda route: route.fulfill(status=503), times=1)
    with page.expect_response("/"):
        page.get_by_label("Patient, ID or accession").fill("phantom")
    expect(page.locator(".top")).to_have_attribute("data-trouble", "HTTP status 503")
    page.locator("#rows button.expand").last.click()
    expect(page.locator("#rows > tr:not([hidden], .expansion)")).to_have_count(1)
    expect(page.locator(".top")).to_have_attribute("data-trouble", "")
    page.locator("#rows").get_by_role("checkbox").check()
    page.locator("#selected").get_by_role("button", name="Convert again").click()
    expect(page.locator("#selected-count")).to_contain_text("status 503: nothing was done")
    visitor.expect_answer(500)
    visitor.expect_answer(503)


@pytest.mark.slow
def test_a_search_may_replace_one_that_is_not_answered(visitor: Visitor) -> None:
    page = visitor.open("/")
    held: list[Route] = []
    page.route("/", lambda route: held.append(route) if not held else route.continue_())
    with page.expect_request(lambda request: request.method == "POST"):
        page.get_by_role("button", name="Patient", exact=True).click()
    page.get_by_label("Patient, ID or accession").fill("phantom")
    expect(page.locator("#rows tr:not([hidden])")).to_have_count(1)


@pytest.mark.slow
def test_everything_is_reached_by_keys(visitor: Visitor) -> None:
    page = visitor.open("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_label("Patient, ID or accession")).to_be_focused()
    page.keyboard.type("phantom")
    expect(page.locator("#rows tr:not([hidden])")).to_have_count(1)
    page.keyboard.press("ArrowDown")
    expect(page.locator("#rows th a")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Phantom, Head")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Oblique head phantom")


@pytest.mark.slow
def test_a_study_shows_its_series_with_verdicts_reasons_and_pictures(visitor: Visitor) -> None:
    page = visitor.open("/studies/1.2.65")
    cards = page.locator(".card")
    expect(cards).to_have_count(4)
    for text in ("incomplete", "8 received, 1 missing", "refused", "no image"):
        expect(cards.filter(has_text=text).first).to_be_visible()
    pictures = cards.locator("img")
    assert pictures.count() == 2
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        expect(picture).to_have_js_property("complete", True)
        assert picture.evaluate("one => one.naturalWidth") > 0
    page.get_by_role("link", name="all studies").click()
    expect(page.get_by_label("Patient, ID or accession")).to_have_value("MR-0042")
    expect(page.locator("#rows tr:not([hidden])")).to_have_count(1)
    page.goto("/studies/1.2.65/series/1.2.65.2")
    expect(page.get_by_text("Seems to be missing: slices 10 mm from the first; Instance Number 5")).to_be_visible()
    sentence = "1 slice between others is missing at 2.5 mm spacing, after slice 4"
    for place in (page.locator("#state"), page.locator("tr", has_text="volume.nii.gz")):
        expect(place.locator(".chip", has_text=re.compile("missing.slice"))).to_have_attribute("title", sentence)
    expect(page.locator(".chip", has_text="slice 5 is interpolated")).to_have_count(2)
    expect(page.locator("figcaption", has_text="uneven slices").first).to_be_visible()
    copy = page.locator("#volume option", has_text="resampled").first
    page.locator("#volume").select_option(copy.get_attribute("value"))
    expect(page.locator("figcaption", has_text="uneven slices")).to_have_count(0)
    page.goto("/studies/1.2.65/series/1.2.65.3")
    notice = page.locator(".notice.bad")
    expect(notice).to_contain_text("bad-geometry")
    expect(notice.locator(".remedy")).to_be_visible()
    expect(page.get_by_text("two unit vectors")).to_have_count(1)
    for caption in ("Image 1 of 3", "Image 2 of 3"):
        picture = page.locator("#images").get_by_alt_text(caption, exact=True)
        assert picture.evaluate("one => one.naturalWidth") > 0
        expect(page.locator("output")).to_have_text(caption)
        page.get_by_role("button", name="Next").click()
    expect(page.get_by_role("button", name="Next")).to_be_disabled()


@pytest.mark.slow
def test_a_complete_series_is_silent_an_incomplete_one_counts_and_a_report_names_its_file(
    site: Site, visit: Callable[[str], Visitor]
) -> None:
    about = {"study_uid": "1.2.3", "modality": "CT"}
    images = make.ct_series(4, series_uid="1.2.3.1", **about)
    site.take(*images, *make.ct_series(3, series_uid="1.2.3.2", ImagesInAcquisition=2250, **about))
    diameter = make.measured(("410668003", "SCT", "Length"), "12.5", "mm")
    site.take(make.measurement_report(images, diameter, series_uid="1.2.3.3"))
    site.take(make.structured_report(study_uid="1.2.3", series_uid="1.2.3.4"))
    site.take(*make.ct_series(4, study_uid="1.2.4", series_uid="1.2.4.1"))
    site.convert()
    page = visit(site.url).open("/studies/1.2.3")
    whole, part, report, plain = page.locator(".card").all()
    expect(whole).to_contain_text("12 × 16 × 4")
    expect(whole.locator(".chip")).to_have_count(0)
    expect(part.locator(".chips + p")).to_have_text("3 of 2\u2009250 received")
    expect(part).not_to_contain_text("(0020,1002)")
    expect(report).to_contain_text("report: measurements.json")
    expect(report.locator(".chip")).to_have_count(0)
    expect(plain.locator(".chip")).to_have_text("no image")
    page.goto("/studies/1.2.3?view=list")
    expect(page.get_by_role("row").filter(has_text="SR").first).to_contain_text("report: measurements.json")
    page.goto("/problems")
    problem = page.locator("tbody tr")
    expect(problem).to_contain_text("3 of 2\u2009250 received")
    expect(problem.get_by_text("(0020,1002)")).not_to_be_visible()
    problem.get_by_text("Details").click()
    expect(problem.get_by_text("(0020,1002)")).to_be_visible()
    page.goto("/")
    expect(page.locator("#rows .state .chip")).to_have_text("1 incomplete")
    page.goto("/studies/1.2.3/series/1.2.3.1")
    expect(page.locator("#state .chip")).to_have_count(0)
    page.locator("#state").get_by_text("Completeness").click()
    expect(page.get_by_text("No gap seen:")).to_be_visible()
    page.goto("/studies/1.2.3/series/1.2.3.3")
    for word in ("not-an-image", "refused"):
        expect(page.get_by_text(word)).to_have_count(0)
    measured = page.locator("#measurements")
    expect(measured).to_contain_text("12.5")
    expect(measured.get_by_role("link", name="measurements.json")).to_be_visible()


@pytest.mark.slow
def test_the_header_is_loaded_when_asked_for_and_can_be_searched(visitor: Visitor, shown: Shown) -> None:
    page = visitor.open(shown.knee)
    page.get_by_text("Elements of the first instance").click()
    rows = page.locator("#header-rows tr:visible")
    expect(rows.filter(has_text="PatientName")).to_contain_text("Müller^Anna")
    page.get_by_label("Find").fill("echotime")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("30")


@pytest.mark.slow
def test_problems_come_with_their_remedy(visitor: Visitor) -> None:
    page = visitor.open("/problems")
    expect(page.locator("tbody tr")).to_have_count(2)
    expect(page.locator(".remedy").filter(has_text="No volume has this geometry")).to_be_visible()
    expect(page.locator("tbody tr").filter(has_text="incomplete")).to_contain_text("Seems to be missing: slices")
    page.get_by_text("Acknowledge…").last.click()
    button = page.locator("details[open]").get_by_role("button", name="Acknowledge")
    assert button.evaluate(IS_SEEN), "the table cuts off what opens in its last row"
    page.get_by_role("link", name="Refused").click()
    expect(page.locator(".remedy")).to_contain_text("call us VOXELNODE")
    expect(page.locator("tbody")).to_contain_text(SCRIPT)
    page.get_by_role("link", name="Conflicts").click()
    expect(page.locator("tbody tr").filter(has_text="instance-bytes").locator(".remedy")).to_be_visible()


@pytest.mark.slow
def test_the_first_page_of_a_series_is_light_and_asks_no_other_machine(visitor: Visitor, shown: Shown) -> None:
    page = visitor.open(shown.head)
    page.wait_for_selector("#viewer[data-shown]")
    weights = page.evaluate(
        "performance.getEntries().filter((one) => one.transferSize).map((one) => [one.name, one.transferSize])"
    )
    transferred = {name: weight for name, weight in weights if not name.endswith("/badges")}
    assert len(transferred) <= 8, transferred
    assert sum(weight for name, weight in transferred.items() if not name.endswith("volume.nii.gz")) < 100_000
    page.goto("/upload")
    assert [url for url in visitor.asked if not url.startswith((shown.site.url, "data:"))] == []


@pytest.mark.slow
def test_peers_that_must_show_a_certificate_are_sent_as_to_the_port_of_tls(
    start_site: StartSite, visit: Callable[[str], Visitor]
) -> None:
    tls = {"tls_certificate": "/node.pem", "tls_client_ca": "/ca.pem", "tls_port": 2762}
    peers = {"CT1": {"ae_title": "CT1", "certificate": "ct1", "networks": ["10.1.2.0/24", "10.1.3.0/24"]}}
    page = visit(start_site({"dicom": {"host": "127.0.0.1", **tls}, "peers": peers}).url).open("/")
    main = page.locator("main")
    expect(main).to_contain_text("+cf CA -aet CT1 -aec VOXELNODE +sd +r --no-halt 127.0.0.1 2762 FOLDER")
    expect(main).to_contain_text("CT1 from 10.1.2.0/24 or 10.1.3.0/24: all other senders are rejected.")
    assert cut_texts(page) == []
    assert accessibility_faults(page) == []


@pytest.mark.slow
def test_a_long_list_goes_on_as_one_scrolls(site: Site, visit: Callable[[str], Visitor]) -> None:
    site.take(*(make.instance(PatientID=f"P{number}", Rows=None) for number in range(120)))
    page = visit(site.url).open("/")
    rows = page.locator("#rows th.name")
    expect(rows).to_have_count(50)
    weights = "performance.getEntries().filter(one => one.transferSize).map(one => one.transferSize)"
    transferred = page.evaluate(weights)
    assert len(transferred) <= 8
    assert sum(transferred) < 60_000
    for count in (100, 120):
        page.locator("#rows tr.more").scroll_into_view_if_needed()
        expect(rows).to_have_count(count)
    assert len(set(page.locator("#rows td.c-id").all_inner_texts())) == 120
    page.locator("button.expand").nth(100).click()
    expect(page.locator(".expansion:not([hidden])")).to_have_count(1)
    rows.nth(110).scroll_into_view_if_needed()
    place = page.evaluate("scrollY")
    rows.nth(110).locator("a").click()
    expect(page.locator("h1.name")).to_be_visible()
    page.go_back()
    expect(page.locator(".expansion:not([hidden])")).to_have_count(1)
    page.wait_for_function("place => Math.abs(scrollY - place) < 5", arg=place)


@pytest.mark.long
def test_a_list_that_is_open_all_day_shows_what_arrives(site: Site, visit: Callable[[str], Visitor]) -> None:
    page = visit(site.url).open("/")
    site.take(make.instance(PatientID="FIRST"))
    expect(page.locator("#rows")).to_contain_text("FIRST")
    site.take(make.instance(PatientID="SECOND"))
    expect(page.locator("#rows")).to_contain_text("SECOND")
    expect(page.locator("#total")).to_have_text("2 studies")


@pytest.mark.slow
def test_news_that_come_with_an_update_of_a_row_are_not_lost(site: Site, visit: Callable[[str], Visitor]) -> None:
    site.take(make.instance(PatientID="FIRST"))
    page = visit(site.url).open("/")
    held: list[Any] = []

    def together(route: Any) -> None:
        held.append(route)
        if len(held) == 2:
            answers = [(each, each.fetch()) for each in sorted(held, key=lambda each: "/news" in each.request.url)]
            for each, answer in answers:
                each.fulfill(response=answer)
            page.unroute_all()

    page.route(re.compile(r"/(news|row)\?"), together)
    site.take(make.instance(PatientID="SECOND"))
    expect(page.locator("#rows")).to_contain_text("SECOND")


@pytest.mark.slow
def test_whoever_reads_the_list_is_asked_before_it_changes(site: Site, visit: Callable[[str], Visitor]) -> None:
    site.take(make.instance(study_uid="1.2.1", PatientID="FIRST"))
    visitor = visit(site.url)
    page = visitor.open("/")
    page.keyboard.press("j")
    site.take(make.instance(PatientID="SECOND"))
    news = page.get_by_role("button", name="1 new study: show")
    expect(news).to_be_visible()
    page.route("/", lambda route: None if route.request.method == "POST" else route.continue_(), times=1)
    with page.expect_request(lambda request: request.method == "POST"):
        news.click()
    with page.expect_event("requestfailed", lambda request: request.method == "POST"):  # a search takes its place
        page.get_by_label("Patient, ID or accession").fill("FIRST")
    expect(page.locator("#rows tr:not([hidden])")).to_have_count(1)
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(page.locator("#rows")).to_contain_text("SECOND")
    expect(page.locator("#news button")).to_have_count(0)
    site.services.actions["delete"](level="study", uid="1.2.1", study_instance_uid="1.2.1", who="another")
    page.locator("#rows > tr").filter(has_text="FIRST").locator("button.expand").click()
    expect(page.locator("#rows tr:not([hidden])")).to_have_count(1)
    visitor.expect_answer(404)


@pytest.mark.slow
def test_open_pages_follow_what_happens(site: Site, visit: Callable[[str], Visitor]) -> None:
    visitor = visit(site.url)
    queue = visitor.open("/queue")
    expect(queue.locator("main")).to_contain_text("The queue is empty")
    site.take(*make.ct_series(5, study_uid="1.2.3", series_uid="1.2.3.1"))
    expect(queue.locator("main tbody tr").first).to_contain_text("waiting")
    studies, study = visitor.open("/"), visitor.open("/studies/1.2.3")
    expect(studies.locator("#rows .chip")).to_have_text("waiting")
    expect(study.locator(".card")).to_contain_text("waiting")
    site.convert()
    expect(studies.locator("#rows .state")).to_be_attached()
    expect(studies.locator("#rows .chip")).to_have_count(0)
    expect(study.locator(".card")).to_contain_text("12 × 16 × 5")
    expect(study.locator(".card img")).to_have_count(1)
    expect(queue.locator("main tbody tr").first).to_contain_text("converted")
    expect(queue.locator("main")).to_contain_text("The queue is empty")


@pytest.mark.slow
def test_a_page_of_what_was_deleted_says_so(site: Site, visit: Callable[[str], Visitor]) -> None:
    site.take(*make.ct_series(5, study_uid="1.2.3", series_uid="1.2.3.1"))
    visitor = visit(site.url)
    page = visitor.open("/studies/1.2.3")
    site.services.actions["delete"](level="study", uid="1.2.3", study_instance_uid="1.2.3", who="another")
    expect(page.get_by_role("heading", level=1)).to_have_text("Not Found")
    visitor.expect_answer(404)


@pytest.mark.slow
def test_a_series_is_converted_again_and_its_old_revision_shown(site: Site, visit: Callable[[str], Visitor]) -> None:
    series = make.ct_series(6, study_uid="1.2.3", series_uid="1.2.3.1")
    site.take(*series[:5])
    site.convert()
    site.take(series[5])
    page = visit(site.url).open("/studies/1.2.3/series/1.2.3.1")
    page.get_by_role("button", name="Convert again").click()
    expect(page.locator("#state")).to_contain_text("waiting")
    site.convert()
    expect(page.locator("#state")).to_contain_text("No gap seen")
    revisions = page.locator("summary").filter(has_text=re.compile("^Revision"))
    expect(revisions).to_contain_text([re.compile("Revision 2 .*current"), re.compile("Revision 1 .*superseded")])
    assert "superseded" in page.locator("#volume option").last.inner_text()
    with page.expect_navigation():  # else the summary that is clicked next may be that of the page before
        page.get_by_role("button", name="Convert again").click()
    expect(page.locator("#state")).to_contain_text("waiting")
    older = page.locator("summary").filter(has_text=re.compile("^Revision 1"))
    older.press("Enter")  # the viewer that loads above may move what a mouse points to
    expect(older.locator("..")).to_have_attribute("open", "")
    site.convert()
    page.get_by_role("button", name="Show the new revision").click()  # it does not reload what somebody reads
    expect(page.locator("#state")).to_contain_text("No gap seen")


@pytest.mark.slow
def test_deleting_names_what_goes_and_asks(site: Site, visit: Callable[[str], Visitor]) -> None:
    site.take(*make.ct_series(5, study_uid="1.2.3", series_uid="1.2.3.1"))
    site.convert()
    page = visit(site.url).open("/studies/1.2.3")
    page.get_by_role("link", name="Delete…").click()
    expect(page.locator("main")).to_contain_text("5 DICOM instances")
    page.get_by_role("link", name="Cancel").click()
    expect(page.locator(".card")).to_have_count(1)
    page.get_by_role("link", name="Delete…").click()
    page.get_by_role("button", name="Delete 5 instances").click()
    expect(page.locator("main")).to_contain_text("No studies yet")
    empty_trash(site.store)
    assert not list((site.root / "volumes").glob("*/*/*"))


@pytest.mark.slow
def test_an_upload_shows_each_of_its_studies(site: Site, visit: Callable[[str], Visitor], tmp_path: Path) -> None:
    uids = ({"study_uid": f"1.2.{number}", "series_uid": f"1.2.{number}.1"} for number in range(4))
    files = make.saved((make.structured_report(**one) for one in uids), tmp_path)
    page = visit(site.url).open("/upload")
    held: list[Route] = []
    page.route("**/row", lambda route: held.append(route))
    asked: set[str] = set()

    def are_all_asked_for(request: Request) -> bool:
        if request.url.endswith("/row"):
            asked.add(request.url)
        return len(asked) == len(files)

    with page.expect_request(are_all_asked_for):
        page.locator("#files").set_input_files(files)
    for route in held:
        route.continue_()
    expect(page.locator("#stored-rows tr td.pick")).to_have_count(len(files))


@pytest.mark.slow
def test_dropped_files_are_stored_or_reported(site: Site, visit: Callable[[str], Visitor], tmp_path: Path) -> None:
    files = make.saved(make.ct_series(4, study_uid="1.2.3", series_uid="1.2.3.1"), tmp_path)
    notes, broken, inner = tmp_path / "notes.txt", tmp_path / "broken.dcm", BytesIO()
    notes.write_text("no DICOM")
    broken.write_bytes(bytes(128) + b"DICM" + b"\x02" * 40)
    other = make.structured_report(study_uid="1.2.4", series_uid="1.2.4.1")
    other.save_as(tmp_path / "other.dcm", enforce_file_format=True)
    with ZipFile(inner, "w") as stored:
        stored.write(files[3], "3.dcm")
    with ZipFile(tmp_path / "scans.zip", "w", ZIP_DEFLATED) as packed:
        packed.write(tmp_path / "other.dcm", "folder/other.dcm")
        packed.write(notes, "folder/readme.txt")
        packed.writestr("inner.zip", inner.getvalue())
    (tmp_path / "cut.zip").write_bytes((tmp_path / "scans.zip").read_bytes()[:-60])
    visitor = visit(site.url)
    page = visitor.open("/upload")
    page.locator("#files").set_input_files([*files[:3], notes, broken, tmp_path / "scans.zip", tmp_path / "cut.zip"])
    expect(page.locator("#summary")).to_have_text("9 of 9 files: 5 stored, 3 skipped, 1 refused")
    row = page.locator("#list tr").filter(has_text="broken.dcm")
    expect(row.locator("td").first).to_contain_text("refused")
    expect(row.locator("progress.bad")).to_have_count(1)
    expect(page.locator("#total.bad")).to_have_count(1)
    skipped = page.locator("#skipped-list li")
    expect(skipped.filter(has_text="notes.txt")).to_contain_text("not a DICOM file")
    expect(skipped.filter(has_text="scans.zip/folder/readme.txt")).to_contain_text("not a DICOM file")
    expect(skipped.filter(has_text="cut.zip")).to_contain_text("it is cut off")
    expect(page.locator("#stored-rows tr")).to_have_count(2)
    expect(page.locator("#stored-rows a[href='/studies/1.2.4']")).to_be_visible()
    assert accessibility_faults(page) == []
    page.goto("/studies/1.2.3")
    expect(page.locator(".strip")).to_contain_text("4 instances")
    visitor.expect_answer(409)


@pytest.mark.slow
def test_a_file_can_be_dropped(site: Site, visit: Callable[[str], Visitor], tmp_path: Path) -> None:
    (ds,) = make.ct_series(1, study_uid="1.2.3", series_uid="1.2.3.1")
    ds.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    name = f"{'long' * 40}one.dcm"
    page = visit(site.url).open("/upload")
    dropped = page.evaluate_handle(
        """([bytes, name]) => {
            const dropped = new DataTransfer();
            dropped.items.add(new File([new Uint8Array(bytes)], name));
            return dropped;
        }""",
        [list((tmp_path / "one.dcm").read_bytes()), name],
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    expect(page.locator("#summary")).to_have_text("1 of 1 file: 1 stored, 0 skipped, 0 refused")
    expect(page.locator("#list progress.good")).to_have_js_property("value", 1)
    expect(page.locator("#list .path")).to_have_text(name)
    assert page.locator("#list .path-head").evaluate("head => head.scrollWidth > head.clientWidth")
    assert page.locator("#list .path-tail").evaluate("tail => tail.scrollWidth <= tail.clientWidth + 1")


@pytest.mark.slow
def test_the_menu_holds_what_an_account_may_do(guarded: Site, visit: Callable[[str], Visitor]) -> None:
    guarded.take(*make.ct_series(5, study_uid="1.2.3", series_uid="1.2.3.1"))
    page = visit(guarded.url).open("/studies/1.2.3")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    page.get_by_label("Name").fill("reader")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Voxel, Test")
    for label in ("Delete…", "Convert again", "Upload"):
        expect(page.get_by_text(label, exact=True)).to_have_count(0)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


@pytest.mark.slow
def test_a_page_whose_session_is_over_leads_to_the_form(guarded: Site, visit: Callable[[str], Visitor]) -> None:
    visitor = visit(guarded.url)
    page = visitor.open("/queue")
    page.get_by_label("Name").fill("reader")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Queue")
    guarded.services.index.accounts.remove("reader")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    visitor.expect_answer(401)


@pytest.mark.slow
def test_sign_in_upload_and_desk_fit_any_window(guarded: Site, tmp_path: Path, visit: Callable[[str], Visitor]) -> None:
    long = {"PatientID": "P1", "PatientName": "Bobinski-Longname^Robert Alexander", "PatientSex": "M"}
    guarded.take(*make.ct_series(2, study_uid="1.1", PatientID="P1", PatientName="Ann^A", PatientSex="F"))
    guarded.take(*make.ct_series(2, study_uid="1.2", **long))
    [file] = make.ct_series(1, study_uid="1.3")
    file.save_as(tmp_path / f"{'a-long-name-' * 6}.dcm", enforce_file_format=True)
    visitor = visit(guarded.url)
    visitor.expect_answer(401)
    for size in (WIDE, {"width": 1280, "height": 800}, NARROW):
        page = visitor.open("/upload", size=size)
        page.locator("input[name=name]").fill("admin")
        for password in ("wrong password 12", PASSWORD):
            assert not is_wider_than_window(page)
            page.locator("input[name=password]").fill(password)
            page.get_by_role("button", name="Sign in").click()
            if password != PASSWORD:
                expect(page.get_by_role("alert")).to_have_text("The name or the password is wrong.")
        page.wait_for_url("**/upload", wait_until="load")
        page.locator("input[type=file]").first.set_input_files(next(tmp_path.glob("*.dcm")))
        expect(page.locator("#summary")).to_contain_text("1 of 1 file")
        table = page.locator("#transfer .scroll")
        assert table.evaluate("one => one.scrollWidth <= one.clientWidth"), size
        page.goto("/problems/conflicts")
        page.get_by_role("link", name="Compare").click()
        head = page.get_by_role("heading", level=1)
        for link, title in (("merge", "Merge these patients?"), ("keep apart", "Keep these people apart?")):
            expect(head).to_have_text("Same person?")
            assert not is_wider_than_window(page)
            page.get_by_role("link", name=link).click()
            expect(head).to_have_text(title)
            assert not is_wider_than_window(page), (link, size)
            page.get_by_role("link", name="Cancel").click()
