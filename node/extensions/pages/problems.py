"""The page of problems: series to settle, refusals, identity conflicts, and files in quarantine."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Path, Query, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field, StringConstraints

from node.dicom.attributes import MAX_TEXT_BYTES
from node.extensions.pages.chips import page
from node.extensions.pages.studies import thumbnails
from node.index.look.views import ReadIndex
from node.index.rows.records import SeriesProblem
from node.index.rules.people.person_plans import MAX_ISSUER_CHARACTERS, SHARED
from node.index.rules.people.persons import PersonRepository
from node.lifecycle.erasure import holders
from node.receive.aside import quarantined, with_strangers
from node.receive.custody import compared
from node.web import actions
from node.web.access import ADMINS, READERS, WRITERS, Call, CurrentCall
from node.web.audit_trail import of_study
from node.web.errors import ProblemsChanged, ResourceNotFound
from node.web.pages.rendering import (
    SEE_OTHER,
    PageNumber,
    part_of_page,
    problem_counts,
    remember_seen,
    rows_of_page,
    seen_problems,
    study_url,
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
        rows = index.problems.open(*part_of_page(number))
    several = [cause for cause in causes if cause["count"] > 1]
    response = _section(call, "unsettled", counts, rows, number, causes=several, cause=None)
    remember_seen(call.request, response, seen, seen_problems(call.request)[1])
    return response


@router.get("/problems/causes/{cause}")
def unsettled_of_cause(call: CurrentCall, cause: Cause, number: PageNumber = 1) -> Response:
    """Such series of one cause, which can be decided together."""
    with call.node.index.searching() as index:
        counts, alike = problem_counts(index), index.problems.alike(cause)
        rows = index.problems.open(*part_of_page(number), cause)
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
        rows = rows_of(index)(*part_of_page(number))
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
    with call.node.index.searching() as index:
        counts, found = problem_counts(index), index.conflicts.undecided(*part_of_page(number))
        rows = with_strangers(found, index, call.node.archive.local)
        instances, newest = sum(index.conflicts.count_open().values()), index.conflicts.newest_undecided()
    response = _section(call, "conflicts", counts, rows, number, instances=instances)
    remember_seen(call.request, response, seen_problems(call.request)[0], newest)
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
    call.act(f"{decision}-conflict", conflict=conflict, alike=True)
    return RedirectResponse("/problems/conflicts", SEE_OTHER)


@router.get("/problems/merged")
def merged(call: CurrentCall, number: PageNumber = 1) -> Response:
    """Patients who were merged into others."""
    rows = call.node.index.repository(PersonRepository).merged(*part_of_page(number))
    with call.node.index.reading() as index:
        counts = problem_counts(index)
    return _section(call, "merged", counts, rows, number)


@router.get("/problems/quarantine", dependencies=ADMINS)
def quarantine(call: CurrentCall, number: PageNumber = 1) -> Response:
    """Files that were set aside."""
    with call.node.index.reading() as index:
        files = quarantined(call.node.archive.root, index)
        counts = problem_counts(index)
    rows, before = part_of_page(number)
    return _section(call, "quarantine", counts, files[before : before + rows], number)


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
    rows, before = part_of_page(number)
    return _section(call, "trash", counts, entries[before : before + rows], number)


@router.post("/problems/trash/{number}", dependencies=ADMINS)
def decide_deleted(
    call: CurrentCall, number: Number, decision: Annotated[Literal["restore", "empty"], Form()]
) -> Response:
    """Undo a deletion, or make it permanent."""
    call.act(f"{decision}-trash", number=number)
    return RedirectResponse("/problems/trash", SEE_OTHER)


SHOWN_STUDIES = 20
"""Studies of each person; more are counted."""

SHOWN_PERSONS = 50
"""Persons that a search for somebody to compare with lists."""

COMPARED = (
    ("patient_name", "Name"),
    ("patient_id", "Patient ID"),
    ("issuer_of_patient_id", "Issuer"),
    ("patient_birth_date", "Born"),
    ("patient_sex", "Sex"),
)

Patient = Annotated[int, Field(ge=1, le=1 << 53)]
Conflict = Annotated[int | None, Field(ge=1, le=1 << 53)]


def _persons(call: Call) -> PersonRepository:
    return call.node.index.repository(PersonRepository)


def _shown(call: Call, patients: Sequence[int]) -> list[dict[str, Any]]:
    """Return the persons with their studies and pictures, or raise ResourceNotFound; that is noted in the audit log."""
    found = [person for patient in patients if (person := _persons(call).shown(patient, SHOWN_STUDIES)) is not None]
    if len(found) < len(patients):
        raise ResourceNotFound("patient")
    for person in found:
        senders = [sender for study in person["studies"] for sender in study["senders"]]
        person["senders"] = sorted({sender["calling_ae_title"] or sender["source"] for sender in senders})
    studies = [study for person in found for study in person["studies"]]
    with call.node.index.reading() as index:
        pictures = thumbnails(index, [study["id"] for study in studies])
    for study in studies:
        study["thumbnail"] = pictures.get(study["id"])
    objects = [
        of_study(study["study_instance_uid"], person["patient_id"]) for person in found for study in person["studies"]
    ]
    call.audit.accessed(objects or [{"patient_id": person["patient_id"] or ""} for person in found], "pages")
    return found


def desk(call: Call, patients: list[int], conflict: Mapping[str, Any] | None = None) -> Response:
    """Return the page with two persons side by side; of more who share a Patient ID, links to the others."""
    first, second = shown = _shown(call, patients[:2])
    rows = [
        {"label": label, "values": (first[name], second[name]), "differs": first[name] != second[name], "name": name}
        for name, label in COMPARED
    ]
    merged = next(
        (one for one, other in ((first, second), (second, first)) if one["merged_into"] == other["id"]),
        first if first["merged_into"] is not None else second if second["merged_into"] is not None else None,
    )
    values: dict[str, Any] = {
        "persons": shown,
        "compared": rows,
        "merged": merged,
        "others": patients[2:],
        "conflict": conflict,
    }
    return page(call, "persons.html", **values)


def desk_of_conflict(call: Call, conflict: Mapping[str, Any]) -> Response | None:
    """Return the desk for a shared Patient ID; None: it is not such a conflict, or one of its persons is gone."""
    if conflict["kind"] != SHARED:
        return None
    patients = _persons(call).of_conflict(conflict["id"])
    return None if len(patients) < 2 else desk(call, patients, conflict)


@router.get("/patients/compare")
def compare(
    call: CurrentCall,
    a: Annotated[int, Query(ge=1, le=1 << 53)],
    b: Annotated[int | None, Query(ge=1, le=1 << 53)] = None,
) -> Response:
    """Two patients side by side; with one, a search for the other."""
    if b is None:
        return page(call, "person_search.html", persons=_shown(call, [a]), words="", found=None)
    return desk(call, [a, b])


class PersonSearch(BaseModel):
    """What to compare a patient with, sent in a request body to keep names out of the logs of proxies."""

    a: Patient
    words: Annotated[str, Field(max_length=MAX_TEXT_BYTES)] = ""


@router.post("/patients/compare", dependencies=READERS)
def find_other(call: CurrentCall, search: Annotated[PersonSearch, Form()]) -> Response:
    """The patients whose name has these words, or whose Patient ID this is."""
    words = search.words.strip()
    with call.node.index.reading() as index:
        found = index.patients.with_patient_id(words) + index.patients.named(words, SHOWN_PERSONS) if words else []
    others = {row["id"]: row for row in found if row["id"] != search.a}
    call.audit.queried("patients to compare with", len(others))
    values: dict[str, Any] = {"persons": _shown(call, [search.a]), "words": words, "found": list(others.values())}
    return page(call, "person_search.html", **values)


class Pair(BaseModel):
    """Two patients, and the conflict in which they were found."""

    source: Patient
    target: Patient
    conflict: Conflict = None

    @property
    def desk(self) -> str:
        """The URL of the page with both."""
        if self.conflict is not None:
            return f"/problems/conflicts/{self.conflict}"
        return f"/patients/compare?a={self.source}&b={self.target}"


@router.get("/patients/merge", dependencies=ADMINS)
def plan_merge(call: CurrentCall, pair: Annotated[Pair, Query()]) -> Response:
    """What a merge would move."""
    plan = call.act("merge-patients", source=pair.source, target=pair.target, dry_run=True)
    return _plan(call, "merge", plan, pair)


@router.post("/patients/merge", dependencies=ADMINS)
def merge(call: CurrentCall, pair: Annotated[Pair, Form()]) -> Response:
    """Merge one patient into the other."""
    call.act("merge-patients", source=pair.source, target=pair.target)
    return RedirectResponse(pair.desk, SEE_OTHER)


@router.get("/patients/separate", dependencies=ADMINS)
def plan_separation(call: CurrentCall, pair: Annotated[Pair, Query()]) -> Response:
    """What the end of a merge would move back."""
    plan = call.act("separate-patient", patient=pair.source, dry_run=True)
    return _plan(call, "separate", plan, pair)


@router.post("/patients/separate", dependencies=ADMINS)
def separate(call: CurrentCall, pair: Annotated[Pair, Form()]) -> Response:
    """Undo the merge of the first patient into the second."""
    call.act("separate-patient", patient=pair.source)
    with call.node.index.reading() as index:
        has_both = _is_there(index, pair.source) and _is_there(index, pair.target)
    return RedirectResponse(pair.desk if has_both else "/problems/merged", SEE_OTHER)


def _is_there(index: ReadIndex, patient: int) -> bool:
    return bool(index.patients.page(None, 1, id=patient))


class Wrong(BaseModel):
    """A patient who is named wrongly, perhaps in one study alone."""

    source: Patient
    study: Annotated[str, Field(max_length=64)] = ""

    @property
    def page(self) -> str:
        """The URL of the study, or of the patient."""
        return study_url(self.study) if self.study else f"/patients/compare?a={self.source}"


class Right(Wrong):
    """Who the patient is; an empty field stays as it is."""

    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    scope: Literal["study", "patient"] = "study"


@router.get("/patients/correct", dependencies=ADMINS)
def plan_correction(call: CurrentCall, wrong: Annotated[Wrong, Query()]) -> Response:
    """Ask who a patient is, or whose a study; a study that was corrected can be given back."""
    [person] = _shown(call, [wrong.source])
    study = next((one for one in person["studies"] if one["study_instance_uid"] == wrong.study), None)
    studies = [one["study_instance_uid"] for one in person["studies"]] if study is None else [wrong.study]
    with call.node.index.reading() as index:
        found = holders(index, call.node.settings, studies)
    return page(call, "person_correct.html", person=person, study=study, wrong=wrong, holders=found)


@router.post("/patients/correct", dependencies=ADMINS)
def correct(call: CurrentCall, right: Annotated[Right, Form()]) -> Response:
    """Correct a patient, or the one of a study."""
    values = right.model_dump(exclude={"source", "study", "scope"})
    study = right.study if right.study and right.scope == "study" else None
    given = {name: value.strip() or None for name, value in values.items()}
    given["patient_birth_date"] = (given["patient_birth_date"] or "").replace("-", "") or None
    call.act("correct-patient", patient=right.source, correction=given, study=study)
    return RedirectResponse(right.page if right.study else "/problems/merged", SEE_OTHER)


@router.post("/patients/correct/undo", dependencies=ADMINS)
def undo_correction(call: CurrentCall, wrong: Annotated[Wrong, Form()]) -> Response:
    """Take the correction of a study back."""
    call.act("separate-patient", patient=wrong.source, study=wrong.study)
    return RedirectResponse(wrong.page, SEE_OTHER)


class KeptApart(Pair):
    """Two patients who are different people; an issuer is given to the Patient ID of one, if it is not empty."""

    patient: Patient | None = None
    issuer: Annotated[str, Field(max_length=MAX_ISSUER_CHARACTERS)] = ""


@router.get("/patients/apart", dependencies=ADMINS)
def plan_apart(call: CurrentCall, pair: Annotated[Pair, Query()]) -> Response:
    """What it means to keep two patients apart; asks for an issuer."""
    return _plan(call, "apart", {"studies": []}, pair)


@router.post("/patients/apart", dependencies=ADMINS)
def keep_apart(call: CurrentCall, form: Annotated[KeptApart, Form()]) -> Response:
    """Keep two patients apart, by an issuer for one of them if there is one, and decide their conflict."""
    if form.patient is not None and form.issuer.strip():
        call.act("separate-patient", patient=form.patient, issuer=form.issuer.strip())
    if form.conflict is not None:
        call.act("keep-conflict", conflict=form.conflict, alike=True)
    return RedirectResponse(form.desk, SEE_OTHER)


@router.post("/patients/apart/undo", dependencies=ADMINS)
def undo_apart(call: CurrentCall, pair: Annotated[Pair, Form()]) -> Response:
    """Remove the issuers that were given, and open the conflict again."""
    for patient in (pair.source, pair.target):
        if _persons(call).has_given_issuer(patient):
            call.act("separate-patient", patient=patient, issuer="")
    if pair.conflict is not None:
        call.act("reopen-conflict", conflict=pair.conflict)
    return RedirectResponse(pair.desk, SEE_OTHER)


def _plan(call: Call, what: str, plan: Mapping[str, Any], pair: Pair) -> Response:
    """Return the page that asks before something is done."""
    persons = _shown(call, (pair.source, pair.target))
    known = {study["study_instance_uid"]: study for person in persons for study in person["studies"]}
    return page(call, "person_plan.html", what=what, plan=plan, pair=pair, persons=persons, known=known)
