"""Kinds of problems: what a program compares, as docs/problems.md has it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from node.web import problem_types as types
from node.web.problem_types import PROBLEM_TYPES, ProblemType, problem_type
from tests.web.conftest import Site

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "problems.md"


def test_the_documentation_has_every_kind_as_it_is() -> None:
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if re.match(r"\| `[a-z-]+` \| \d", line)]
    assert rows == [f"| `{kind.slug}` | {kind.status} | {kind.title} | {kind.remedy} |" for kind in PROBLEM_TYPES]


def test_every_kind_is_listed_once_and_has_a_remedy() -> None:
    defined = [value for value in vars(types).values() if isinstance(value, ProblemType)]
    assert Counter(PROBLEM_TYPES) == Counter(defined)
    assert len({kind.slug for kind in PROBLEM_TYPES}) == len(PROBLEM_TYPES)
    assert [kind.status for kind in PROBLEM_TYPES] == sorted(kind.status for kind in PROBLEM_TYPES)
    assert all(kind.remedy for kind in PROBLEM_TYPES)


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
    ids=str,
)
def test_an_error_has_its_kind(empty: Site, request_: dict[str, Any], kind: ProblemType) -> None:
    answer = empty.client().request(**{"method": "GET", **request_})
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["type"], problem["title"]) == (kind.status, kind.uri, kind.title)
    assert set(problem) == {"type", "title", "status", "detail", "remedy"}


def test_the_type_of_a_problem_leads_to_its_description(empty: Site) -> None:
    client = empty.client()
    problem = client.get("/api/v1/studies/1.2").json()
    described = client.get(problem["type"]).json()
    assert described == {name: problem[name] for name in ("type", "status", "title", "remedy")}
    assert [each["type"] for each in client.get("/api/v1/problems").json()] == [kind.uri for kind in PROBLEM_TYPES]
