"""A page with a grid: what each kind of series becomes in BIDS, to be changed and taken away as a file of rules.

The page keeps nothing: the form has the whole grid, and the file of rules is downloaded, or the data set by it.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Form, Query, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from node.children.pseudonyms import made_key
from node.dicom.attributes import is_identifier
from node.errors import UsageError
from node.extensions.bids.names import KINDS
from node.extensions.bids.rules import read_rules
from node.extensions.bids.subjects import KEY_FILE, Pseudonyms
from node.index.look.views import ReadIndex
from node.selector import compile_selector
from node.web.access import READERS, Call, CurrentCall
from node.web.audit_trail import of_study
from node.web.downloads import Making, download_of, downloads_of, makes
from node.web.errors import ResourceNotFound
from node.web.pages.rendering import page
from node.web.zips import Member, taken

if TYPE_CHECKING:  # else imported where the page is shown: what plans a data set loads NumPy
    from node.extensions.bids.planned import SubjectSeries

router = APIRouter(include_in_schema=False, dependencies=READERS)

MAX_STUDIES = 200
"""Studies whose series are looked at: the sidecar of each volume is read."""

MAX_ROWS = 500

RULES, MAKER = "rules.toml", "bids"

Cells = Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=MAX_ROWS)]
Studies = Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=MAX_STUDIES)]


class RulesGrid(BaseModel):
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
        names = ("kind", "task", "acq", "dir", "more")
        columns = [getattr(self, name) for name in names]
        if any(len(column) != len(self.key) for column in columns):
            raise UsageError("a row of the grid lacks a cell: load the page again")
        for at, key in enumerate(self.key):
            yield key, {name: column[at].strip() for name, column in zip(names, columns, strict=True)}


@router.get("/bids")
def bids(call: CurrentCall, study: Annotated[Studies, Query()]) -> Response:
    """The grid of the series of studies, as it is proposed."""
    return _answer(call, RulesGrid(study=study))


@router.post("/bids", dependencies=READERS)
def changed(call: CurrentCall, form: Annotated[RulesGrid, Form()]) -> Response:
    """The grid as somebody has changed it, or the file of rules that it is."""
    return _answer(call, form)


def _answer(call: Call, form: RulesGrid) -> Response:
    from node.extensions.bids.draft import COLUMNS, LEFT_OUT, distinguished, groups_of, row_of, written

    with call.node.index.reading() as index:
        series = _series(call, index, form.study)
        rules = read_rules(None)
        groups = groups_of(series, rules)[:MAX_ROWS]
        cells, apart = dict(form.rows()), distinguished(groups)
        rows = [row_of(group, apart.get(id(group), ""), cells) for group in groups]
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


def _series(call: Call, index: ReadIndex, studies: Sequence[str]) -> list[SubjectSeries]:
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
        folders.setdefault(kind.datatype, []).append(f"{kind.datatype}/{kind.suffix}")
    return list(folders.items())
