"""The kinds of problems: the URI that the `type` of a problem refers to."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from node.web.access import Reader
from node.web.api import models
from node.web.api.routing import api_router, problems
from node.web.errors import ResourceNotFound
from node.web.problem_types import NOT_FOUND, PROBLEM_TYPES

router = api_router("problems")

Slug = Annotated[str, Path(max_length=64, description="last segment of the `type` of a problem")]


@router.get("/problems")
def list_problem_types(account: Reader) -> list[models.ProblemTypeResource]:
    """Every kind of problem, by status."""
    return [models.ProblemTypeResource.of_type(kind) for kind in PROBLEM_TYPES]


@router.get("/problems/{slug}", responses=problems(NOT_FOUND))
def show_problem_type(account: Reader, slug: Slug) -> models.ProblemTypeResource:
    """One kind of problem."""
    kind = next((kind for kind in PROBLEM_TYPES if kind.slug == slug), None)
    if kind is None:
        raise ResourceNotFound("kind of problem")
    return models.ProblemTypeResource.of_type(kind)
