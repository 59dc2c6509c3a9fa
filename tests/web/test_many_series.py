"""A study of many series in a browser: a list that is filtered, a page at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from node.extensions.pages import many_series
from tests import make
from tests.web.conftest import Site, open_site
from tests.web.pages import Visitor, start_browser

MANY = 130


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield from start_browser(playwright)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = open_site(tmp_path_factory.mktemp("crowded") / "root")
    for number in range(1, MANY + 1):
        modality = "MR" if number % 10 == 0 else "CT"
        named = {"SeriesNumber": number, "SeriesDescription": f"{'T2 star' if modality == 'MR' else 'Thorax'} {number}"}
        site.take(make.instance(study_uid="1.2.3", series_uid=f"1.2.3.{number}", modality=modality, **named))
    yield site
    site.close()


@pytest.mark.slow
def test_a_person_finds_a_series_among_many(crowded: Site, browser: Browser) -> None:
    visitor = Visitor(browser, crowded.url)
    page = visitor.open("/studies/1.2.3")
    rows = page.locator("#cards tbody tr")
    expect(rows).to_have_count(many_series.PAGE_SERIES)
    page.get_by_role("button", name="30 more").click()
    expect(rows).to_have_count(MANY)
    expect(page.get_by_role("button", name=re.compile("more$"))).to_have_count(0)
    page.get_by_label("Modality").select_option("MR")
    expect(page.locator("#cards").get_by_role("status")).to_have_text(f"13 of {MANY} series")
    page.get_by_role("searchbox", name="Series").fill("star 4")
    expect(rows).to_have_count(1)
    page.get_by_role("link", name="T2 star 40").click()
    expect(page).to_have_url(re.compile("/series/1.2.3.40$"))
    visitor.close()
    assert visitor.complaints == []


def test_the_list_of_many_series_is_light(crowded: Site) -> None:
    answer = crowded.client().get("/studies/1.2.3")
    assert answer.status_code == 200
    assert answer.text.count("data-row>") == many_series.PAGE_SERIES
    assert len(answer.content) < 150_000
    answer = crowded.client().post("/studies/1.2.3/series-list", data={"words": "1.2.3.77", "state": "receiving"})
    assert answer.text.count("data-row>") == (1 if "77" in answer.text else 0)
    assert crowded.client().post("/studies/1.2.3/series-list", data={"shown": "0"}).status_code == 422
