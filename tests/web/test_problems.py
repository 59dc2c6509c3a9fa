"""Kinds of problems: what a program compares, as docs/problems.md has it."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import node
from node.web import problem_types as types
from node.web.problem_types import PROBLEM_TYPES, ProblemType, problem_type
from node.web.problems import TYPES
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
