"""A study of many series in a browser: a list that is filtered, a page at a time."""

import re
from collections.abc import Callable, Iterator
from io import BytesIO
from zipfile import ZipFile

import pytest
from playwright.sync_api import expect

from node.extensions.pages import studies
from tests import make
from tests.web.conftest import Site, open_site
from tests.web.pages import Visitor, accessibility_faults

pytestmark = pytest.mark.slow  # for the study that they share

MANY = 130


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    peers = {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": 1}}
    site = open_site(tmp_path_factory.mktemp("crowded") / "root", {"peers": peers})
    for number in range(1, MANY + 1):
        modality = "MR" if number % 10 == 0 else "CT"
        named = {"SeriesNumber": number, "SeriesDescription": f"{'T2 star' if modality == 'MR' else 'Thorax'} {number}"}
        site.take(make.instance(study_uid="1.2.3", series_uid=f"1.2.3.{number}", modality=modality, **named))
    yield site
    site.close()


def test_a_person_finds_a_series_among_many(crowded: Site, visit: Callable[[str], Visitor]) -> None:
    page = visit(crowded.url).open("/studies/1.2.3")
    rows = page.locator("#cards tbody tr")
    expect(rows).to_have_count(studies.PAGE_SERIES)
    page.get_by_role("button", name="30 more").click()
    expect(rows).to_have_count(MANY)
    expect(page.get_by_role("button", name=re.compile("more$"))).to_have_count(0)
    page.get_by_label("Modality").select_option("MR")
    expect(page.locator("#cards").get_by_role("status")).to_have_text(f"13 of {MANY} series")
    page.get_by_role("searchbox", name="Series").fill("star 4")
    expect(rows).to_have_count(1)
    page.get_by_label("Select series 40").check()
    page.get_by_role("searchbox", name="Series").fill("star 5")
    expect(rows).to_have_count(1)
    page.get_by_label("Select series 50").check()
    expect(page.locator("#selected-count")).to_have_text("2 selected, 1 of them not shown")
    with page.expect_download() as download:
        page.locator("#selected .menu summary").click()
        page.get_by_role("button", name="DICOM").click()
    with ZipFile(download.value.path()) as taken:
        assert sum(name.endswith(".dcm") for name in taken.namelist()) == 2
    page.get_by_label("Label for the selected series").fill("take these")
    page.get_by_role("button", name="Add label").click()
    expect(page.locator("#announcer")).to_have_text("2 series have the label")
    expect(page.locator("#cards .mark")).to_have_text("take these")
    expect(page.locator("#selected")).to_be_hidden()
    page.get_by_role("searchbox", name="Series").fill("star 4")
    assert accessibility_faults(page) == []
    page.get_by_role("link", name="T2 star 40").click()
    expect(page).to_have_url(re.compile("/series/1.2.3.40$"))


def test_the_list_of_many_series_is_light(crowded: Site) -> None:
    answer = crowded.client().get("/studies/1.2.3")
    assert answer.status_code == 200
    assert answer.text.count("data-row>") == studies.PAGE_SERIES
    assert len(answer.content) < 150_000
    answer = crowded.client().post("/studies/1.2.3/series-list", data={"words": "1.2.3.77", "state": "receiving"})
    assert (answer.text.count("data-row>"), "0 of 130 series" in answer.text) == (0, True)
    assert crowded.client().post("/studies/1.2.3/series-list", data={"shown": "0"}).status_code == 422


def test_selected_series_are_taken_away_sent_labelled_and_converted_again(crowded: Site) -> None:
    client, url = crowded.client(), "/studies/1.2.3/selected"
    both = {"series": ["1.2.3.7", "1.2.3.9", "9.9", "1.2.3.7"]}
    answer = client.post(f"{url}/dicom.zip", data=both, follow_redirects=True)
    assert "_series_DICOM.zip" in answer.headers["content-disposition"]
    with ZipFile(BytesIO(answer.content)) as taken:
        assert sum(name.endswith(".dcm") for name in taken.namelist()) == 2
    assert client.post(f"{url}/send", data={**both, "to": "pacs"}).headers["location"] == "/routes"
    assert [line["detail"] for line in crowded.audited("Export")] == ["1 instance queued for pacs"] * 2
    assert client.post(f"{url}/send", data={**both, "to": "pasc"}).status_code == 400
    assert client.post(f"{url}/labels", data={**both, "label": "taken"}).status_code == 303
    assert client.post("/studies/1.2.3/series-list", data={"words": "1.2.3.9"}).text.count(">taken<") == 1
    assert client.post(f"{url}/reconvert", data=both).status_code == 303
    for what in ("dicom.zip", "send", "labels", "reconvert"):
        other = {"to": "pacs", "label": "x"}
        gone = client.post(f"{url}/{what}", data={"series": "9.9", **other}, follow_redirects=True)
        assert gone.status_code == 404, what
        assert client.post(f"{url}/{what}", data=other).status_code == 400, what
        gone = client.post(f"/studies/9.9/selected/{what}", data={**both, **other}, follow_redirects=True)
        assert gone.status_code == 404, what


def test_a_study_of_few_series_has_a_list_as_well(crowded: Site) -> None:
    crowded.take(*(make.instance(study_uid="1.2.4", series_uid=f"1.2.4.{number}") for number in (1, 2)))
    client = crowded.client()
    assert 'name="series"' not in client.get("/studies/1.2.4").text
    assert client.get("/studies/1.2.4", params={"view": "list"}).text.count('name="series"') == 2
    assert "view=list" not in client.get("/studies/1.2.3").text
