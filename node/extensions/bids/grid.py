"""A page with a grid: what each kind of series becomes in BIDS, to be changed and taken away as a file of rules.

The page keeps nothing: the form has the whole grid, and the file of rules is downloaded, or the data set by it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Form, Query, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from node.dicom.attributes import is_identifier
from node.errors import UsageError
from node.extensions.bids.names import ENTITIES, KINDS, Kind, kind_of, label, problem_with, stem
from node.extensions.bids.rules import NAMED_BY_RULE, read_rules
from node.extensions.bids.subjects import KEY_FILE, Pseudonyms
from node.extensions.deidentify.pseudonyms import made_key
from node.extensions.pages.rendering import page
from node.index.database.reading import ReadIndex
from node.selector import compile_selector
from node.web.access import Call, ReaderCall
from node.web.audit_trail import of_study
from node.web.downloads import Making, download_of, downloads_of, makes
from node.web.errors import ResourceNotFound
from node.web.zips import Member, taken

if TYPE_CHECKING:  # else imported where the page is shown: what plans a data set loads NumPy
    from node.extensions.bids.draft import Group
    from node.extensions.bids.plan import Series

router = APIRouter(include_in_schema=False)

MAX_STUDIES = 200
"""Studies whose series are looked at: the sidecar of each volume is read."""

MAX_ROWS = 500

RULES, MAKER = "rules.toml", "bids"

COLUMNS = ("task", "acq", "dir")
"""Entities that have a column of their own; others are written in one, such as ``ce-gad rec-norm``."""

LEFT_OUT = "-"
"""Stands for a kind in the form: these series are left out."""

OF_VOLUME = frozenset({"echo", "inv", "part"})
"""Entities that each volume states itself."""

Cells = Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=MAX_ROWS)]
Studies = Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=MAX_STUDIES)]


class Grid(BaseModel):
    """The form: the studies, and the cells of each row."""

    study: Studies
    key: Cells = []
    kind: Cells = []
    task: Cells = []
    acq: Cells = []
    dir: Cells = []
    more: Cells = []
    action: Literal["look", "check", "download", "dataset"] = "look"

    def rows(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield the key and the cells of each row."""
        names = ("kind", *COLUMNS, "more")
        columns = [getattr(self, name) for name in names]
        if any(len(column) != len(self.key) for column in columns):
            raise UsageError("a row of the grid lacks a cell: load the page again")
        for at, key in enumerate(self.key):
            yield key, {name: column[at].strip() for name, column in zip(names, columns, strict=True)}


@dataclass(slots=True)
class Row:
    """A row of the grid: series of one description. `cells`: what the form shows; `keys`: those of the rule, if any."""

    key: str
    group: Group
    cells: dict[str, str]
    keys: Mapping[str, Any] | None = None
    name: str = ""
    problems: list[str] = field(default_factory=list)


@router.get("/bids")
def bids(call: ReaderCall, study: Annotated[Studies, Query()]) -> Response:
    """The grid of the series of studies, as it is proposed."""
    return _answer(call, Grid(study=study))


@router.post("/bids")
def changed(call: ReaderCall, form: Annotated[Grid, Form()]) -> Response:
    """The grid as somebody has changed it, or the file of rules that it is."""
    return _answer(call, form)


def _answer(call: Call, form: Grid) -> Response:
    from node.extensions.bids.draft import groups_of, told_apart, written

    with call.node.index.reading() as index:
        series = _series(call, index, form.study)
        rules = read_rules(None)
        groups = groups_of(series, rules)[:MAX_ROWS]
        cells, apart = dict(form.rows()), told_apart(groups)
        rows = [_row(group, apart.get(id(group), ""), cells) for group in groups]
    problems = sum(len(row.problems) for row in rows)
    made = written([row.group for row in rows], [row.keys for row in rows]) if not problems else None
    if form.action == "download" and made is not None:
        headers = {"Content-Disposition": 'attachment; filename="rules.toml"', "Cache-Control": "no-store"}
        return Response(made.text, 200, headers, media_type="application/toml")
    if form.action == "dataset" and made is not None:
        return _dataset(call, form.study, made.text)
    values: dict[str, Any] = {"rows": rows, "studies": form.study, "kinds": _kinds(), "left_out": LEFT_OUT}
    checked = form.action != "look"
    return page(call, "bids.html", **values, problems=problems, made=made, checked=checked, columns=COLUMNS)


def _dataset(call: Call, studies: Sequence[str], rules: str) -> Response:
    """Begin to make a data set of the complete series of studies; return the way to the page of the download."""
    download = replace(download_of(call, MAKER, "bids.zip", studies, (), (rules,)), instances=0)  # volumes are counted
    return RedirectResponse(f"/downloads/{downloads_of(call).begin(call, download)}", 303)


@makes(MAKER)
def members(making: Making) -> Generator[Member, None, None]:
    """Yield the files of a data set of the complete series of studies."""
    from node.extensions.bids.export import Exporter
    from node.extensions.bids.sources import IndexSource

    node, uids = making.node, making.download.studies
    work, key = node.archive.work / f"bids-{uuid.uuid4().hex}", made_key(node.archive.root / KEY_FILE)
    where = compile_selector(" or ".join(f'study_instance_uid == "{uid}"' for uid in uids if is_identifier(uid)))
    work.mkdir(parents=True)
    try:
        (work / RULES).write_text(making.download.options[0], encoding="utf-8")
        with node.index.reading() as index:
            source = IndexSource(index, node.archive.local)
            exporter = Exporter(source, read_rules(work / RULES), Pseudonyms(key), where, check=making.check)
            exporter.export(work / "bids", link=True)
        for path in sorted((work / "bids").rglob("*")):
            if path.is_file():
                yield Member(str(path.relative_to(work)), path.stat().st_size, taken(path))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _series(call: Call, index: ReadIndex, studies: Sequence[str]) -> list[Series]:
    """Return the series of studies, and record access to them."""
    from node.extensions.bids.sources import IndexSource

    source = IndexSource(index, call.node.archive.local)
    wanted = {study: patient for study in studies if (patient := source.patient_of(study)) is not None}
    if not wanted:
        raise ResourceNotFound("study")
    call.audit.accessed([of_study(study, index.studies.patient_id(study)) for study in wanted], "pages: BIDS")
    return [one for one in source.series_of(sorted(set(wanted.values()))) if one.study_instance_uid in wanted]


def _kinds() -> list[tuple[str, list[str]]]:
    """Return the kinds of files by their folders, as ``folder/suffix``."""
    folders: dict[str, list[str]] = {}
    for kind in KINDS:
        folders.setdefault(kind.datatype, []).append(_kind_text(kind))
    return list(folders.items())


def _kind_text(kind: Kind) -> str:
    return f"{kind.datatype}/{kind.suffix}"


def _row(group: Group, added: str, form: Mapping[str, Mapping[str, str]]) -> Row:
    first = group.named.kind.suffix if group.named else group.rule.name if group.rule else ""
    key = hashlib.sha256(json.dumps([group.title.strip().casefold(), first]).encode()).hexdigest()[:16]
    proposed = _proposed(group, added)
    row = Row(key, group, dict(form.get(key, proposed)))
    kind = _chosen_kind(row)
    if kind is None:
        is_as_before = group.is_left_out and row.cells == proposed
        row.keys = None if is_as_before else {"skip": "left out by hand" if row.cells["kind"] else "not decided"}
        return row
    entities = _entities(row, kind)
    row.name = f"{kind.datatype}/{stem({'sub': '*', **entities}, kind.suffix)}"
    if row.problems or (group.named is not None and not added and row.cells == proposed):
        return row
    is_ambiguous = sum(other.suffix == kind.suffix for other in KINDS) > 1
    datatype = {"datatype": kind.datatype} if is_ambiguous else {}
    row.keys = {"suffix": _suffix(group, kind), **datatype, "entities": _templates(group, entities)}
    return row


def _proposed(group: Group, added: str) -> dict[str, str]:
    """Return the cells of a row before somebody changes them."""
    from node.extensions.bids.draft import entities_of, suffix_of, words_of_task

    if group.is_left_out:
        return {"kind": LEFT_OUT, "more": "", **dict.fromkeys(COLUMNS, "")}
    kind, entities = None, {}
    if group.named is not None:
        kind = group.named.kind
        entities = {name: value for name, value in group.named.entities.items() if name not in OF_VOLUME}
    elif (suffix := suffix_of(group)) is not None or (group.rule is not None and "{" not in (group.rule.suffix or "{")):
        wanted = (group.rule.suffix, group.rule.datatype) if group.rule is not None else (suffix, None)
        kind = kind_of(str(wanted[0]), wanted[1])
        entities = dict(group.rule.entities) if group.rule is not None else {}
    if kind is not None:
        entities |= entities_of(group, kind, {}) | ({"acq": added} if added else {})
        task = label("".join(words_of_task(group)).lower())
        if "task" in kind.required and task:
            entities.setdefault("task", task)
    more = " ".join(f"{name}-{entities[name]}" for name in ENTITIES if name in entities and name not in COLUMNS)
    cells = {"kind": _kind_text(kind) if kind is not None else "", "more": more}
    return cells | {name: entities.get(name, "") for name in COLUMNS}


def _chosen_kind(row: Row) -> Kind | None:
    """Return the kind that a row has; None: left out, or not decided."""
    if row.cells["kind"] in ("", LEFT_OUT):
        return None
    datatype, _, suffix = row.cells["kind"].partition("/")
    try:
        return kind_of(suffix, datatype)
    except UsageError as error:
        row.problems.append(str(error))
        return None


def _entities(row: Row, kind: Kind) -> dict[str, str]:
    """Return the entities of a row, and note what is wrong with them."""
    found = {name: row.cells[name] for name in COLUMNS if row.cells[name]}
    for pair in row.cells["more"].replace("_", " ").split():
        name, dash, value = pair.partition("-")
        if not dash or name not in NAMED_BY_RULE:
            row.problems.append(f'{pair}: write an entity, a dash and a label, such as "ce-gad"')
        else:
            found[name] = value
    where = _kind_text(kind)
    for name, value in found.items():
        if name not in kind.entities:
            row.problems.append(f"{where} has no {name}; it may have {', '.join(sorted(kind.entities))}")
        elif "{" not in value and (problem := problem_with(name, value)):
            row.problems.append(problem)
    row.problems += [f"{where} needs {name}" for name in sorted(kind.required - found.keys() - {"echo", "inv"})]
    return found


def _suffix(group: Group, kind: Kind) -> str:
    """Return the suffix for a rule: that of the rule before, which may depend on the volume, if it gives this kind."""
    rule = group.rule
    before = rule.suffix if rule is not None and group.named is not None and group.named.kind == kind else None
    return before or kind.suffix


def _templates(group: Group, entities: Mapping[str, str]) -> dict[str, str]:
    """Return the labels for a rule: where the rule before takes one from the volume, and nobody has changed it, so does
    this one."""
    if group.rule is None or group.named is None:
        return dict(entities)
    before, now = group.rule.entities, group.named.entities
    return {
        name: before[name] if name in before and now.get(name) == value else value for name, value in entities.items()
    }
