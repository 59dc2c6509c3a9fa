"""Kinds of problems: what a program compares, as docs/problems.md has it."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import node
from node.completeness import Reported
from node.web import problem_types as types
from node.web.problem_types import PROBLEM_TYPES, ProblemType, problem_type
from node.web.problems import TYPES
from tests import make
from tests.web.conftest import Site

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "problems.md"


def test_the_documentation_has_every_kind_as_it_is() -> None:
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if re.match(r"\| `[a-z-]+` \| \d", line)]
    assert rows == [f"| `{kind.slug}` | {kind.status} | {kind.title} |" for kind in PROBLEM_TYPES]


def test_every_kind_is_listed_once_and_has_a_remedy() -> None:
    defined = [value for value in vars(types).values() if isinstance(value, ProblemType)]
    assert Counter(PROBLEM_TYPES) == Counter(defined)
    assert len({kind.slug for kind in PROBLEM_TYPES}) == len(PROBLEM_TYPES)
    assert [kind.status for kind in PROBLEM_TYPES] == sorted(kind.status for kind in PROBLEM_TYPES)
    assert all(kind.remedy for kind in PROBLEM_TYPES)


def test_every_error_that_has_a_kind_is_a_class_of_the_node() -> None:
    texts = (path.read_text(encoding="utf-8") for path in Path(node.__file__).parent.rglob("*.py"))
    assert TYPES.keys() <= {name for text in texts for name in re.findall(r"^class (\w+)\(", text, re.MULTILINE)}


def test_a_status_without_a_kind_is_about_blank() -> None:
    assert (problem_type(418).uri, problem_type(599).title) == ("about:blank", "Error")
    assert problem_type(503) is types.UNAVAILABLE


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        ({"url": "/api/v1/studies/1.2"}, types.NOT_FOUND),
        ({"url": "/api/v1/nothing"}, types.NOT_FOUND),
        ({"url": "/dicom-web/studies/1.2"}, types.NOT_FOUND),
        ({"url": "/api/v1/status", "method": "PUT"}, types.METHOD_NOT_ALLOWED),
        ({"url": "/api/v1/studies?after=x"}, types.WRONG_CURSOR),
        ({"url": "/api/v1/studies?limit=0"}, types.INVALID_PARAMETER),
        ({"url": "/api/v1/studies", "headers": {"Host": "evil.example"}}, types.FOREIGN_HOST),
        ({"url": "/api/v1/studies", "headers": {"Authorization": "Bearer x"}}, types.NOT_AUTHENTICATED),
        ({"url": "/api/v1/studies", "headers": {"Content-Encoding": "gzip"}}, types.UNSUPPORTED_BODY),
        ({"url": "/api/v1/patients/1/merge", "method": "POST", "json": {"into": 1}}, types.NOT_FOUND),
        (
            {"url": "/api/v1/patients/1/merge", "method": "POST", "headers": {"Origin": "http://evil.example"}},
            types.FOREIGN_PAGE,
        ),
        ({"url": "/api/v1/patients/1/merge", "method": "POST", "content": b" " * 1_000_001}, types.BODY_TOO_LARGE),
    ],
    ids=lambda value: str(value)[:200],  # one has a million characters
)
def test_an_error_has_its_kind(empty: Site, request_: dict[str, Any], kind: ProblemType) -> None:
    answer = empty.client().request(**{"method": "GET", **request_})
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["type"], problem["title"]) == (kind.status, kind.uri, kind.title)
    assert set(problem) == {"type", "title", "status", "detail", "remedy"}


def test_a_path_that_is_none_is_not_taken_for_something_deleted(empty: Site) -> None:
    for path in ("/api/v1/nothing", "/nothing"):
        problem = empty.client().get(path).json()
        assert problem["detail"] == "the node serves nothing at this path"
        assert "deleted" not in problem["remedy"]
    assert "deleted" in empty.client().get("/api/v1/studies/1.2").json()["remedy"]


def test_the_type_of_a_problem_leads_to_its_description(empty: Site) -> None:
    client = empty.client()
    problem = client.get("/api/v1/studies/1.2").json()
    assert (problem["type"], problem["detail"]) == ("/api/v1/problems/not-found", "There is no such study.")
    wrong = client.get("/api/v1/studies", params={"first_date": "Meier^Anna"})
    assert "query.first_date" in wrong.json()["detail"]
    assert "Meier" not in wrong.text
    described = client.get(problem["type"]).json()
    assert described == {name: problem[name] for name in ("type", "status", "title", "remedy")}


PAGE = {"Accept": "text/html"}


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/patients/compare", "The address lacks &#39;a&#39;"),
        ("/patients/compare?a=x", "&#39;a&#39; in the address cannot be used: it must be a whole number."),
        ("/problems?number=0", "&#39;number&#39; in the address cannot be used: it must be at least 1."),
        ("/peers/series", "The address lacks &#39;study&#39;"),
    ],
)
def test_a_page_without_its_parameter_says_so_in_plain_words_and_leads_back(empty: Site, path: str, says: str) -> None:
    before = f"{empty.origin}/problems/merged?number=2"
    answer = empty.client().get(path, headers=PAGE | {"Referer": before})
    assert answer.status_code == 422
    assert "<h1>This page cannot be shown</h1>" in answer.text
    assert says in answer.text
    assert 'href="/problems/merged?number=2">Back</a>' in answer.text
    for word in ("query.", "Field required", "openapi", "Unprocessable"):
        assert word not in answer.text, word


@pytest.mark.parametrize("before", ["", "http://evil.example/x", "{url}//evil.example", "{url}/patients/compare"])
def test_an_error_page_leads_to_no_page_of_others_and_not_to_itself(empty: Site, before: str) -> None:
    headers = PAGE | {"Referer": before.format(url=empty.origin)}
    shown = empty.client().get("/patients/compare", headers=headers).text
    assert "evil.example" not in shown.replace('href="/evil.example"', "")
    assert 'href="/patients/compare"' not in shown
    assert 'href="/">Studies</a>' in shown


def test_a_form_that_lacks_a_value_and_an_address_of_forms_are_reported_in_plain_words(empty: Site) -> None:
    client = empty.client()
    sent = client.post("/problems/acknowledge", headers=PAGE, data={"problem": "x"})
    assert (sent.status_code, "The form was sent without &#39;reason&#39;." in sent.text) == (422, True)
    opened = client.get("/problems/acknowledge", headers=PAGE)
    assert opened.status_code == 405
    assert "forms are sent" in opened.text
    assert "Allow header" not in opened.text


# What a person has to settle: series that lack instances or a volume, until they are whole or acknowledged.


KEY = {"study_instance_uid": "1.2.3", "series_instance_uid": "1.2.3.1"}
REASON = "The rest was <never> acquired"


def badge(site: Site) -> int:
    shown = re.search(r'id="badge-wrong".*?</span>(\d+)<', site.client().get("/badges").text)
    return int(shown[1]) if shown and "hidden" not in shown[0] else 0


def problem(site: Site) -> str:
    with site.store.index.reading() as index:
        [row] = index.problems.open(10)
    return str(row["problem"])


def test_a_problem_stays_until_somebody_acknowledges_it_and_returns_when_the_series_changes(site: Site) -> None:
    whole = make.ct_series(9, study_uid="1.2.3", series_uid="1.2.3.1")
    site.take(*whole[:2], *whole[4:7])
    site.take(*make.ct_series(5, study_uid="1.2.3", series_uid="1.2.3.2"))
    site.take(make.structured_report(study_uid="1.2.4", series_uid="1.2.4.1"))
    site.convert()
    client = site.client()
    page = client.get("/problems").text
    assert page.count("Acknowledge…") == badge(site) == 1
    assert "missing-slice" in page

    seen = problem(site)
    assert client.post("/problems/acknowledge", data={**KEY, "problem": seen, "reason": "  "}).status_code == 422
    client.post("/problems/acknowledge", data={**KEY, "problem": "converted complete 0", "reason": REASON})
    assert badge(site) == 1, "what the person saw was not what is there"
    client.post("/problems/acknowledge", data={**KEY, "problem": seen, "reason": REASON})
    assert badge(site) == 0
    assert "Nothing needs a person" in client.get("/problems").text
    for place in ("/problems/acknowledged", "/studies/1.2.3", "/studies/1.2.3/series/1.2.3.1"):
        assert "The rest was &lt;never&gt; acquired" in client.get(place).text
    [line] = [line for line in site.audited("DICOM Instances Accessed") if "acknowledged" in str(line)]
    assert REASON not in str(line), "people may write names into it"
    with site.store.index.reading() as index:
        events = index.events.of_series("1.2.3", "1.2.3.1", 10)
    assert [event["detail"] for event in events if event["kind"] == "problem-acknowledged"] == ["by local"]

    lists = Reported(5, 9, 4, ("1.2.9",))
    site.store.index.series.record_reported(("1.2.3", "1.2.3.1"), lists, site.store.index.now())
    assert badge(site) == 1, "more is missing than the person saw"

    site.take(whole[2])
    site.convert()
    assert badge(site) == 1
    client.post("/problems/acknowledge", data={**KEY, "problem": problem(site), "reason": REASON})
    for _ in range(2):  # the second finds nothing to withdraw
        client.post("/problems/withdraw", data=KEY)
    assert badge(site) == 1
    with site.store.index.reading() as index:
        assert [event["kind"] for event in index.events.of_series("1.2.3", "1.2.3.1", 10)].count(
            "problem-reopened"
        ) == 1
    site.take(whole[3])
    site.convert()
    assert badge(site) == 0


@pytest.mark.slow
def test_one_word_for_certainty_in_rest_and_views(site: Site) -> None:
    site.take(*make.ct_series(3, **{"study_uid": "1.2.3", "series_uid": "1.2.3.1", "ImagesInAcquisition": 3}))
    site.take(*make.ct_series(3, study_uid="1.2.3", series_uid="1.2.3.2"))
    site.take(*make.gap_series(9, (4,), study_uid="1.2.3", series_uid="1.2.3.3"))
    site.convert()
    expected = {"1.2.3.1": "verified", "1.2.3.2": "no gap seen", "1.2.3.3": "incomplete"}
    items = site.client().get("/api/v1/series").json()["items"]
    assert {one["series_instance_uid"]: one["certainty"] for one in items} == expected
    with site.store.index.reading() as index:
        assert {row["series_instance_uid"]: row["certainty"] for row in index.series.of_study("1.2.3")} == expected
        words = [(one.key[1], one.facts["certainty"]) for one in index.facts.all(("certainty",))]
    assert dict(words) == expected
    [study] = site.client().get("/api/v1/studies", params={"condition": "incomplete"}).json()["items"]
    assert study["certainties"] == dict.fromkeys(expected.values(), 1)
    for condition in ("verified", "no-gap-seen", "complete"):
        assert site.client().get("/api/v1/studies", params={"condition": condition}).json()["items"] == []


def broken(site: Site, count: int) -> None:
    """Series that lack a slice each, and one whose pixel data are cut."""
    for number in range(1, count + 1):
        site.take(*make.gap_series(9, (4,), study_uid=f"1.2.{number}", series_uid=f"1.2.{number}.1"))
    cut = make.ct_series(4, study_uid="1.3.1", series_uid="1.3.1.1")
    for ds in cut:
        ds.PixelData = ds.PixelData[:10]
    site.take(*cut)
    site.convert()


@pytest.mark.slow
def test_problems_of_one_cause_are_acknowledged_together(site: Site) -> None:
    broken(site, 3)
    client = site.client()
    assert badge(site) == 4
    overview = client.get("/problems").text
    assert overview.count('href="/problems/causes/') == 1, "a cause of one series is no group"
    page = client.get("/problems/causes/geometry").text
    assert page.count('name="problem"') == 3
    assert "Acknowledge all 3…" in page
    [seen] = re.findall(r'name="seen" value="(\w+)"', page)

    site.take(*make.gap_series(9, (4,), study_uid="1.2.9", series_uid="1.2.9.1"))
    site.convert()
    assert client.post("/problems/causes/geometry", data={"seen": seen, "reason": REASON}).status_code == 409
    assert badge(site) == 5, "one came that the person has not seen"

    [seen] = re.findall(r'name="seen" value="(\w+)"', client.get("/problems/causes/geometry").text)
    assert client.post("/problems/causes/geometry", data={"seen": seen, "reason": " "}).status_code == 422
    assert client.post("/problems/causes/geometry", data={"seen": seen, "reason": REASON}).status_code == 303
    assert badge(site) == 1
    assert client.get("/problems/acknowledged").text.count("/problems/withdraw") == 4
    assert len([line for line in site.audited("DICOM Instances Accessed") if "acknowledged" in str(line)]) == 4
    assert client.get("/problems/causes/nothing").status_code == 200


@pytest.mark.slow
def test_the_badge_rests_until_something_new_turns_up(site: Site) -> None:
    broken(site, 1)
    client = site.client()

    def badge_class() -> str:
        return re.findall(r'id="badge-wrong" class="badge (\w+)"', client.get("/badges").text)[0]

    assert badge_class() == "bad"
    client.get("/problems")
    assert badge_class() == "seen"
    assert badge(site) == 2
    site.take(*make.ct_series(5, study_uid="1.2.8", series_uid="1.2.8.1"))
    site.convert()
    assert badge_class() == "seen", "a series without a problem is no news"
    broken(site, 2)
    assert badge_class() == "bad"
    client.get("/problems")
    for name in ("OTHER^ONE", "SOME^BODY"):
        site.take(*make.ct_series(1, study_uid=f"1.4.{len(name)}", PatientID="shared", PatientName=name))
    assert badge_class() == "bad", "a conflict is news"
    client.get("/problems/conflicts")
    assert badge_class() == "seen"
