"""The grid of names in BIDS: it proposes, says what is wrong, and is a file of rules."""

import re
import tomllib
from collections.abc import Iterator
from io import BytesIO
from typing import Any
from zipfile import ZipFile

import pytest

from tests import make
from tests.web.conftest import Site, open_site, until

pytestmark = pytest.mark.slow

STUDY = "1.2.3"
NAMES = ("key", "kind", "task", "acq", "dir", "more")


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = open_site(tmp_path_factory.mktemp("scanned") / "root").serving()
    for number, description in enumerate(("bold <nback>", "T1w", "something"), start=1):
        site.take(*make.mr_series(4, study_uid=STUDY, series_uid=f"{STUDY}.{number}", SeriesDescription=description))
    site.convert()
    yield site
    site.close()


def grid(page: str) -> dict[str, dict[str, str]]:
    """The cells of each row of the page, by the description of its series."""
    rows = {}
    for row in re.findall(r"<tr><th scope=\"row\".*?</tr>", page, re.DOTALL):
        cells = dict(re.findall(r'<input (?:type="hidden" )?name="(\w+)" value="([^"]*)"', row))
        selected = re.search(r'<option(?: value="([^"]*)")? selected>([^<]*)<', row)
        cells["kind"] = (selected[1] or selected[2]) if selected else ""
        [name] = re.findall(r"<bdi>(.*?)</bdi>", row)
        rows[name] = cells
    return rows


def form(rows: dict[str, dict[str, str]], **fields: Any) -> dict[str, Any]:
    return {"study": STUDY, **{name: [row[name] for row in rows.values()] for name in NAMES}, **fields}


def test_the_grid_proposes_names_and_becomes_a_file_of_rules(scanned: Site) -> None:
    client = scanned.client()
    assert f"/bids?study={STUDY}" in client.get(f"/studies/{STUDY}").text
    rows = grid(client.get("/bids", params={"study": STUDY}).text)
    assert (rows["bold &lt;nback&gt;"]["kind"], rows["bold &lt;nback&gt;"]["task"]) == ("func/bold", "nback")
    assert rows["T1w"]["kind"] == "anat/T1w"
    assert rows["something"]["kind"] == ""

    rows["something"] |= {"kind": "func/bold", "more": "ce-gad nonsense"}
    wrong = client.post("/bids", data=form(rows, action="download"))
    assert wrong.headers["content-type"].startswith("text/html")
    assert "func/bold needs task" in wrong.text
    assert "nonsense: write an entity" in wrong.text

    rows["something"] |= {"task": "rest", "dir": "AP", "more": "ce-gad"}
    shown = client.post("/bids", data=form(rows, action="check")).text
    assert "func/sub-*_task-rest_ce-gad_dir-AP_bold" in shown
    answer = client.post("/bids", data=form(rows, action="download"))
    assert 'filename="rules.toml"' in answer.headers["content-disposition"]
    rules = {rule["name"]: rule for rule in tomllib.loads(answer.text)["rules"]}
    assert rules["something"]["suffix"] == "bold"
    assert rules["something"]["entities"] == {"task": "rest", "ce": "gad", "dir": "AP"}

    page = client.post("/bids", data=form(rows, action="dataset"), follow_redirects=False).headers["location"]
    until(lambda: "The file is ready" in client.get(page).text, 60)
    with ZipFile(BytesIO(client.get(f"{page}/file").content)) as dataset:
        names = dataset.namelist()
        assert dataset.testzip() is None
    assert "bids/dataset_description.json" in names
    assert [name for name in names if name.endswith("_T1w.nii.gz")], names
    assert not list((scanned.root / "work").glob("bids-*"))

    rows["T1w"]["kind"] = "-"
    left_out = tomllib.loads(client.post("/bids", data=form(rows, action="download")).text)["rules"]
    assert "left out by hand" in [rule.get("skip") for rule in left_out if rule["name"] == "T1w"]


def test_what_is_no_grid_is_refused(scanned: Site) -> None:
    client = scanned.client()
    assert client.get("/bids", params={"study": "9.9"}).status_code == 404
    assert client.get("/bids").status_code == 422
    assert client.post("/bids", data={"study": STUDY, "key": ["x"], "kind": ["func/bold"]}).status_code == 400
    odd = {"key": ["x"], "kind": ["../../etc"], "task": ["'\"\n"], "acq": [""], "dir": [""], "more": [""]}
    assert client.post("/bids", data={"study": STUDY, **odd}).status_code == 200, "no such row"
