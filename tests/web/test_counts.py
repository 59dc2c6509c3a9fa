"""Each number of the pages has a list of as many rows, and its word is that of the list."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, get_args

import httpx2
import pytest
from jinja2 import FunctionLoader
from lxml import html

import node
from node.cli.look.series import UIDS_OF_SERIES, PrintedState
from node.web.pages import rendering
from tests import make
from tests.integration.conftest import Clock, opened_root
from tests.integration.test_doctor import owe
from tests.integration.test_numbers import of_every_kind, rows_of
from tests.preloaded import run
from tests.web.conftest import Site, open_site

pytestmark = pytest.mark.slow

COUNT = re.compile(
    r"\{\{ ((?:(?! if |\| length)[^{}])+\| (?:grouped|counted\([^{}]*\))"
    r"|[\w.]*\b(?:count|studies|instances|volumes|files)|status\.label) \}\}"
)
"""An expression of a template that shows how many there are; a `length` is that of what the template has at hand."""
MARK = re.compile("\ue000([\\d\u2009]+)([^\ue000\ue001]*)\ue001([^\ue002]*)\ue002")
UNITS = {"instance": "instances", "image": "instances", "images": "instances", "study": "studies"}
NO_ROWS = {
    "is set, announced or asked for": """trash_days; rules.trash_days; settings.series.quiet_seconds; most;
settings.retention.days; settings.retention.maximum_studies; series.expected_instances; series.missing_instances;
plan.instances; row.announced; volumes.files; studies | map(attribute="instances") | sum""",
    "was done, of which the node keeps the number alone": """number; series.attempts; row["count"]; link.uses; received;
sender.stored; row.stored; row.delivered; row.delivered_instances; row.unconfirmed; (one.delivered | default(0));
download.instances; step.series; step.instances; row.files""",
    "is not in the index yet, or at a peer": "waiting; behind; item.instances",
    "is of what the same page lists": """more; found; file.instances; retried; row.waiting; row.given_up; due.studies;
count; damaged; trashed; problems; made.undecided; conflicts.html: row.count""",
    "is on a page that needs more than this node has, which other tests open": """person.count; row.studies; wait;
source.count; target.count; waiting["hooks", one.name]; (one.given_up | default(0)); worklist.html: study.series;
shared.html: row.instances; delete_selected.html: study.series; delete_selected.html: study.instances""",
}
"""Numbers that no list has, and why."""


def expressions() -> dict[str, bool]:
    """Every expression of the templates that shows how many there are, and whether there is a list of as many rows."""
    known = {name.strip() for names in NO_ROWS.values() for name in names.split(";")}
    found = {
        f"{path.name}: {one}": {
            re.sub(r" \| (grouped|counted\(.*)$", "", text) for text in (one, f"{path.name}: {one}")
        }
        for path in Path(node.__file__).parent.rglob("templates/*.html")
        for one in COUNT.findall(path.read_text(encoding="utf-8"))
    }
    assert known <= set().union(*found.values()), "each is in a template"
    return {name: known.isdisjoint(texts) for name, texts in found.items()}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A node with series of every kind, whose pages mark each number with its expression."""
    with opened_root(tmp_path / "root", Clock()) as root:
        root.take_all(make.gap_series(9, (4,), study_uid="1.2.2", series_uid="1.2.2.1"))
        root.index.series.record_crash(root.claim(), "it took too long", attempts=1, now=root.clock())
        for number, lacking in enumerate(((4,), (5,), ())):
            series = make.gap_series(9, lacking, study_uid="1.2.3", series_uid=f"1.2.3.{number}")
            root.take_all([*series, *map(make.corrected, series[: 2 * (not lacking)])])
        of_every_kind(root)
    environment = rendering._environment()

    def marked(name: str) -> str:
        text = environment.loader.get_source(environment, name)[0]
        return COUNT.sub(lambda one: f"\ue000{one[0]}\ue001{f'{name}: {one[1]}'.encode().hex()}\ue002", text)

    marking = environment.overlay(loader=FunctionLoader(marked))
    monkeypatch.setattr(rendering, "_environment", lambda: marking)
    with closing(open_site(tmp_path / "root")) as site:
        owe(site.store, "an instance")
        yield site


@cache
def page(client: httpx2.Client, path: str) -> Any:
    return html.document_fromstring(client.get(path).text or "<p>")


def pages(site: Site) -> Iterator[tuple[str, Any]]:
    """Every page, and part of a page, to which links lead; the parts of the menu are in each."""
    paths = ["/"]
    for path in paths:
        yield path, (tree := page(site.client(), path))
        links = (link.partition("#")[0] for link in tree.xpath("//@href | //@hx-get | //@data-series"))
        is_other = re.compile("/(?!api|static|help|badges)(?!.*(files/|zip|seen=|level=))").match
        paths += [link for link in dict.fromkeys(links) if link not in paths and is_other(link)]


def rows_on(site: Site, path: str) -> int | None:
    """Count the rows of the list of a page, and of its further pages; None: it has no list."""
    if not (lists := (tree := page(site.client(), path)).xpath("//main//*[@data-rows]")):
        return None
    older = tree.xpath("//nav[@class='pages']/a[. = 'Older']/@href")
    return len(lists[0].xpath("(.//tbody)[1]/tr[not(@class)]")) + sum(rows_on(site, link) or 0 for link in older)


def rows_behind(site: Site, path: str, at: Any, words: str) -> int | None:
    """Count the rows of the list of a number; None: it has none.

    It is what the command lists that is named there, or the page to which its link, or that of its row, leads. Of a
    study or a series it is what a command lists of it in this state, or REST of this unit. Else it is that of the page.
    """
    command = "ancestor-or-self::*[starts-with(@title, '{0}')]/@title | ../code[starts-with(., '{0}')]/text()"
    if named := at.xpath(command.format("voxelnode ")):
        return rows_of(site.root, *named[-1].split()[1:])
    row = "ancestor-or-self::a/@href | (ancestor::tr | ancestor::li | ancestor::article)[last()]//a/@href"
    path = next(iter(at.xpath(row)), path)
    if path == "/problems" and at.xpath("ancestor::nav[@aria-label = 'Pages']"):  # what each tab with a number lists
        return sum(
            rows_on(site, tab) or 0 for tab in page(site.client(), path).xpath("//nav[@class = 'tabs']/a[span]/@href")
        )
    if not path.startswith("/studies/") and (rows := rows_on(site, path)) is not None:
        return rows
    of = dict(zip(UIDS_OF_SERIES, re.findall(r"/([0-9.]+)(?=[/?]|$)", path), strict=False))
    if (state := re.sub(r"^of \d+ ", "", words)) in get_args(PrintedState):
        return rows_of(site.root, "series", "--state", state, "--study", of["study_instance_uid"])
    said = "ancestor-or-self::*/@data-of | ./@title | preceding-sibling::dt[1]/text() | following-sibling::span/text()"
    unit = (words or next(iter(at.xpath(said)), "")).split(" ")[-1].lower()
    answer = site.client().get(f"/api/v1/{UNITS.get(unit, unit)}", params={"limit": 1000} | of)
    return len(answer.json()["items"]) if unit and answer.is_success else None


def test_each_number_of_the_pages_is_that_of_the_rows_of_its_list(site: Site) -> None:
    has_rows, seen, wrong = expressions(), set(), []
    for path, tree in pages(site):
        texts = ((at, text) for one in tree.iter() for at, text in ((one, one.text), (one.getparent(), one.tail)))
        for at, number, words, code in ((at, *found) for at, text in texts for found in MARK.findall(text or "")):
            seen.add(name := bytes.fromhex(code).decode())
            rows = rows_behind(site, path, at, words.strip()) if has_rows[name] else None
            if has_rows[name] and rows != int(number.replace("\u2009", "")):
                wrong.append(f"{number}{words} of {name} on {path}: {rows} rows")
    assert wrong == []
    assert {name for name in has_rows if has_rows[name]} <= seen, "each is on a page that this node shows"


def test_each_state_of_the_filter_means_what_the_command_lists_in_it(site: Site) -> None:
    known = {"open": ["receiving", "converting"]} | {one: [one] for one in get_args(PrintedState) if one != "verified"}
    for state in page(site.client(), "/").xpath("//select[@name = 'condition']/option/@value"):
        tree = html.document_fromstring(site.client().post("/", data={"condition": state}).text)
        found = tree.xpath("//input[@name = 'study']/@value")
        named = site.client().get("/api/v1/studies", params={"condition": state} if state else {}).json()["items"]
        assert found == [one["study_instance_uid"] for one in named]
        assert re.findall(r"\d+", tree.get_element_by_id("total").text_content())[0] == str(len(found))
        if state in known:
            states = [word for one in known[state] for word in ("--state", one)]
            series = json.loads(run("series", *states, "--root", site.root, "--json").stdout)["items"]
            assert set(found) == {one["study_instance_uid"] for one in series} != set(), state
