"""The page of problems: series to settle, refusals, identity conflicts, and files in quarantine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Path, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field, StringConstraints

from node.extensions.pages.persons import desk_of_conflict
from node.index.database.reading import ReadIndex
from node.index.nouns.persons import PersonRepository
from node.index.nouns.problems import SeriesProblem
from node.receive.aside import quarantined, with_strangers
from node.receive.custody import compared
from node.web import actions
from node.web.access import ADMINS, READERS, WRITERS, Call, CurrentCall
from node.web.errors import ProblemsChanged
from node.web.pages.rendering import (
    PAGE_ROWS,
    SEE_OTHER,
    PageNumber,
    page,
    problem_counts,
    remember_seen,
    rows_of_page,
    seen_problems,
)

router = APIRouter(include_in_schema=False, dependencies=READERS)

Number = Annotated[int, Path(ge=1, le=1 << 53)]
"""Larger than any, and smaller than what SQLite takes."""

Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
"""Why a problem may stay as it is."""


Cause = Annotated[str, Path(max_length=32, pattern="[a-z0-9-]+")]


@router.get("/problems")
def unsettled(call: CurrentCall, number: PageNumber = 1) -> Response:
    """Series that are suspect, incomplete or without a volume, and that nobody has acknowledged; by cause, if many."""
    with call.node.index.searching() as index:
        counts, causes, seen = problem_counts(index), index.problems.causes(), index.events.newest()
        rows = index.problems.open(PAGE_ROWS + 1, (number - 1) * PAGE_ROWS)
    several = [cause for cause in causes if cause["count"] > 1]
    response = _section(call, "unsettled", counts, rows, number, causes=several, cause=None)
    remember_seen(call.request, response, seen, seen_problems(call.request)[1])
    return response


@router.get("/problems/causes/{cause}")
def unsettled_of_cause(call: CurrentCall, cause: Cause, number: PageNumber = 1) -> Response:
    """Such series of one cause, which can be decided together."""
    with call.node.index.searching() as index:
        counts, alike = problem_counts(index), index.problems.alike(cause)
        rows = index.problems.open(PAGE_ROWS + 1, (number - 1) * PAGE_ROWS, cause)
    seen = {"name": cause, "count": len(alike), "seen": _digest(alike)}
    return _section(call, "unsettled", counts, rows, number, causes=[], cause=seen)


class CommonAcknowledgment(BaseModel):
    """The form that acknowledges all problems of a cause; `seen` is the digest of those that the person saw."""

    seen: Annotated[str, Field(max_length=64)]
    reason: Reason


@router.post("/problems/causes/{cause}", dependencies=WRITERS)
def acknowledge_alike(call: CurrentCall, cause: Cause, form: Annotated[CommonAcknowledgment, Form()]) -> Response:
    """Acknowledge all problems of a cause, or none if they are not those that the person saw."""
    with call.node.index.reading() as index:
        alike = index.problems.alike(cause)
    if _digest(alike) != form.seen:
        raise ProblemsChanged
    actions.acknowledge(call, alike, form.reason)
    return RedirectResponse("/problems", SEE_OTHER)


def _digest(problems: Sequence[SeriesProblem]) -> str:
    return hashlib.sha256(json.dumps(problems).encode()).hexdigest()


@router.get("/problems/acknowledged")
def acknowledged(call: CurrentCall, number: PageNumber = 1) -> Response:
    """Such series that somebody has acknowledged, with the reason."""
    return _problems(call, "acknowledged", lambda index: index.problems.acknowledged, number)


class ProblemOfSeries(BaseModel):
    """The series of a form on a page of problems."""

    study_instance_uid: Annotated[str, Field(max_length=64)]
    series_instance_uid: Annotated[str, Field(max_length=64)]


class Acknowledgment(ProblemOfSeries):
    """The form that acknowledges a problem; `problem` is what the person saw."""

    problem: Annotated[str, Field(max_length=64)]
    reason: Reason


@router.post("/problems/acknowledge", dependencies=WRITERS)
def acknowledge(call: CurrentCall, form: Annotated[Acknowledgment, Form()]) -> Response:
    """Acknowledge the problem of a series; if the series has changed since, it stays in the list as it is now."""
    series = (form.study_instance_uid, form.series_instance_uid)
    actions.acknowledge(call, [(series, form.problem)], form.reason)
    return RedirectResponse("/problems", SEE_OTHER)


@router.post("/problems/withdraw", dependencies=WRITERS)
def withdraw(call: CurrentCall, form: Annotated[ProblemOfSeries, Form()]) -> Response:
    """Withdraw the acknowledgment of the problem of a series."""
    actions.withdraw_acknowledgment(call, (form.study_instance_uid, form.series_instance_uid))
    return RedirectResponse("/problems/acknowledged", SEE_OTHER)


@router.get("/problems/unconvertible")
def unconvertible(call: CurrentCall, number: PageNumber = 1) -> Response:
    """Series, or single stacks, without a volume about which nobody can do anything."""
    return _problems(call, "unconvertible", lambda index: index.failures.beyond_repair, number)


@router.get("/problems/rejections")
def rejections(call: CurrentCall, number: PageNumber = 1) -> Response:
    """Refused connections, associations and instances."""
    return _problems(call, "rejections", lambda index: index.rejections.newest, number)


@router.get("/problems/hooks")
def hooks(call: CurrentCall, number: PageNumber = 1) -> Response:
    """What hooks failed to do."""
    return _problems(call, "hooks", lambda index: index.work.failed, number)


def _problems(
    call: Call, problem: str, rows_of: Callable[[ReadIndex], Callable[[int, int], list[dict[str, Any]]]], number: int
) -> Response:
    """Return one section of the problems page."""
    with call.node.index.searching() as index:
        counts = problem_counts(index)
        rows = rows_of(index)(PAGE_ROWS + 1, (number - 1) * PAGE_ROWS)
    return _section(call, problem, counts, rows, number)


def _section(
    call: Call, problem: str, counts: Mapping[str, int], rows: Sequence[Any], number: int, **values: Any
) -> Response:
    shown = rows_of_page(rows, number)
    call.audit.queried(f"problems: {problem}, page {number}", len(shown["rows"]))
    return page(call, f"{problem}.html", problem=problem, counts=counts, **shown, **values)


@router.get("/problems/conflicts")
def conflicts(call: CurrentCall, number: PageNumber = 1) -> Response:
    """Identity conflicts that are not decided; those of one kind, study and sender share a row."""

    def rows_of(index: ReadIndex) -> Callable[[int, int], list[dict[str, Any]]]:
        local = call.node.archive.local
        return lambda limit, skip: with_strangers(index.conflicts.undecided(limit, skip), index, local)

    response = _problems(call, "conflicts", rows_of, number)
    with call.node.index.reading() as index:
        remember_seen(call.request, response, seen_problems(call.request)[0], index.conflicts.newest_undecided())
    return response


@router.get("/problems/conflicts/{conflict}", dependencies=ADMINS)
def compare_versions(call: CurrentCall, conflict: Number) -> Response:
    """The version in a conflict beside the current one, or the persons who share a Patient ID."""
    call.audit.queried(f"conflict {conflict}")
    with call.node.index.reading() as index:
        found = compared(call.node.archive.root, index, conflict, call.node.archive.local)
    pixels = None if found.files is None else call.node.decoder.differences(*found.files)
    return desk_of_conflict(call, found.conflict) or page(call, "conflict.html", found=found, pixels=pixels)


@router.post("/problems/conflicts/{conflict}", dependencies=ADMINS)
def decide_conflict(
    call: CurrentCall, conflict: Number, decision: Annotated[Literal["accept", "keep"], Form()]
) -> Response:
    """Decide all conflicts of a row."""
    if decision == "accept":
        call.act("accept-conflict", conflict=conflict, alike=True)
    else:
        call.act("keep-conflict", conflict=conflict, alike=True)
    return RedirectResponse("/problems/conflicts", SEE_OTHER)


@router.get("/problems/merged")
def merged(call: CurrentCall, number: PageNumber = 1) -> Response:
    """Patients who were merged into others."""
    rows = call.node.index.repository(PersonRepository).merged(PAGE_ROWS + 1, (number - 1) * PAGE_ROWS)
    with call.node.index.reading() as index:
        counts = problem_counts(index)
    return _section(call, "merged", counts, rows, number)


@router.get("/problems/quarantine", dependencies=ADMINS)
def quarantine(call: CurrentCall, number: PageNumber = 1) -> Response:
    """Files that were set aside."""
    with call.node.index.reading() as index:
        files = quarantined(call.node.archive.root, index)
        counts = problem_counts(index)
    begin = (number - 1) * PAGE_ROWS
    return _section(call, "quarantine", counts, files[begin : begin + PAGE_ROWS + 1], number)


@router.post("/problems/quarantine/{name}", dependencies=ADMINS)
def decide_quarantined(
    call: CurrentCall, name: str, decision: Annotated[Literal["release", "replace", "purge"], Form()]
) -> Response:
    """Release a file, make it current, or delete it."""
    if decision == "purge":
        call.act("purge-quarantined", name=name)
    else:
        call.act("release-quarantined", name=name, replace=decision == "replace")
    return RedirectResponse("/problems/quarantine", SEE_OTHER)


@router.get("/problems/trash", dependencies=ADMINS)
def trash(call: CurrentCall, number: PageNumber = 1) -> Response:
    """What was deleted and can come back."""
    with call.node.index.reading() as index:
        entries, counts = index.trash.all(), problem_counts(index)
    begin = (number - 1) * PAGE_ROWS
    return _section(call, "trash", counts, entries[begin : begin + PAGE_ROWS + 1], number)


@router.post("/problems/trash/{number}", dependencies=ADMINS)
def decide_deleted(
    call: CurrentCall, number: Number, decision: Annotated[Literal["restore", "empty"], Form()]
) -> Response:
    """Undo a deletion, or make it permanent."""
    call.act(f"{decision}-trash", number=number)
    return RedirectResponse("/problems/trash", SEE_OTHER)
