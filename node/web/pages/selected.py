"""The study or the series that the path of a page names, those that are selected on it, and these as ZIP files.

A ZIP file has names that people read: a folder a study, a name a series, and a list of them. Names are by the template
of ``[storage] names``, or else the default one of `voxelnode convert`. No two names differ in case alone. The list is
the last member: a ZIP file without it was broken off.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import PurePath
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import quote

from fastapi import Depends, Form, Query, Request, Response
from pydantic import Field

from node.archive.base import ArchivedFile
from node.conversion.naming import NameTemplate, TakenNames, ending_of, free_name, node_template, renamed_header
from node.errors import UsageError, counted
from node.index.look.views import ReadIndex
from node.index.rows.records import RevisionFile
from node.settings import VolumeFormat
from node.web.access import Call
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.files import CHUNK_BYTES, VOXEL_FILES, Damaged, Unavailable, digest_of, files_of, local_file
from node.web.pages.filters import csv_line
from node.web.pages.rendering import series_url, study_url
from node.web.services import Services
from node.web.zips import Content, Known, PlannedFile, PlannedZip, instances_zip, known_of, require_few, zip_response

STUDY = "/studies/{study_instance_uid}"

SERIES = f"{STUDY}/series/{{series_instance_uid}}"


def study_row(index: ReadIndex, study_instance_uid: str) -> Mapping[str, Any]:
    """Return the row of ``v_studies``, or raise ResourceNotFound."""
    row = index.studies.row(study_instance_uid)
    if row is None:
        raise ResourceNotFound("study")
    return row


def seen_study(call: Call, index: ReadIndex, study_instance_uid: str) -> Mapping[str, Any]:
    """Return the row of a study as `study_row` does, and record access to it in the audit log."""
    row = study_row(index, study_instance_uid)
    call.audit.accessed([of_study(study_instance_uid, row["patient_id"])], "pages")
    return row


def series_row(index: ReadIndex, study: str, series: str) -> dict[str, Any]:
    """Return the row of ``v_series``, or raise ResourceNotFound."""
    row = index.series.row(study, series)
    if row is None:
        raise ResourceNotFound("series")
    return row


class StudyOrSeries(NamedTuple):
    """The study that a path names, or one of its series."""

    study: str
    series: str | None

    @property
    def url(self) -> str:
        """The URL of its page."""
        return study_url(self.study) if self.series is None else series_url(self.study, self.series)

    def rows(self, index: ReadIndex) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
        """Return the rows of the study and of the series, or raise ResourceNotFound."""
        study = study_row(index, self.study)
        return study, None if self.series is None else series_row(index, self.study, self.series)


def _target(request: Request) -> StudyOrSeries:
    return StudyOrSeries(request.path_params["study_instance_uid"], request.path_params.get("series_instance_uid"))


Wanted = Annotated[StudyOrSeries, Depends(_target)]


MAX_SELECTED = 1000


_Uids = Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=MAX_SELECTED)]


class Selection(NamedTuple):
    """Studies, or series of one study: those that a path names, or that are selected on a page.

    `series`: empty for whole studies. `url`: of the page on which they are selected, or of their own.
    """

    studies: Sequence[str]
    series: Sequence[str]
    url: str

    @property
    def kind(self) -> str:
        """What is selected, as `ResourceNotFound` names it."""
        return "series" if self.series else "study"

    def there(self, index: ReadIndex) -> dict[str, list[str]]:
        """Return the series that are there, by study; raise ResourceNotFound if none is."""
        found = {}
        for study in self.studies:
            uids = dict.fromkeys(row["series_instance_uid"] for row in index.series.of_study(study))
            if wanted := [uid for uid in self.series or uids if uid in uids]:
                found[study] = wanted
        if not found:
            raise ResourceNotFound(self.kind)
        return found


def _nothing() -> list[str]:
    """Return the default: of `list` itself, `inspect.signature` would copy ``sys.modules`` for each route."""
    return []


def _selection(
    request: Request,
    study: Annotated[_Uids, Query(default_factory=_nothing)],
    series: Annotated[_Uids, Query(default_factory=_nothing)],
    posted_study: Annotated[_Uids, Form(default_factory=_nothing, alias="study")],
    posted_series: Annotated[_Uids, Form(default_factory=_nothing, alias="series")],
) -> Selection:
    of_path = request.path_params
    if (uid := of_path.get("series_instance_uid")) is not None:
        return Selection([of_path["study_instance_uid"]], [uid], series_url(of_path["study_instance_uid"], uid))
    if request.method == "POST":
        study, series = posted_study, posted_series
    whole = of_path.get("study_instance_uid")
    is_named = "/selected/" not in request.url.path
    if not is_named and not (study if whole is None else series):
        raise UsageError("nothing is selected")
    if whole is None:
        return Selection(list(dict.fromkeys(study)), [], "/")
    return Selection([whole], [] if is_named else list(dict.fromkeys(series)), study_url(whole))


Selected = Annotated[Selection, Depends(_selection)]


Format = VolumeFormat | Literal["all"]

LIST = "manifest.csv"
OF_STUDY = ("patient_id", "patient_name", "study_date", "study_description", "study_instance_uid")
OF_SERIES = ("modality", "series_number", "series_description", "series_instance_uid", "state", "certainty")
COLUMNS = ("file", "files", "sha256", *OF_STUDY, *OF_SERIES, "revision", "why")

PICTURES = ".png"


class NamedSeries(NamedTuple):
    """A series in a ZIP file: the beginning of the names of its files, and its rows in the views."""

    name: str
    study: Mapping[str, Any]
    series: Mapping[str, Any]

    def line(self, **values: object) -> list[object]:
        """Return a line of the list."""
        known = {name: self.study[name] for name in OF_STUDY} | {name: self.series[name] for name in OF_SERIES} | values
        return [known.get(column) for column in COLUMNS]


class Names:
    """The names of studies and series in one ZIP file. ZIP files of several studies can be unpacked in one folder."""

    def __init__(self, template: NameTemplate) -> None:
        self._template = template
        self._folders = TakenNames(one_folder=False)

    def of_study(self, index: ReadIndex, study: Mapping[str, Any]) -> list[NamedSeries]:
        """Return the series of a study, each with a name ``FOLDER/NAME``.

        The second study of one folder has a 2 behind its name, whether the first is in the file or not.
        """
        template, series = self._template, index.series.of_study(study["study_instance_uid"])
        folder = template.folder_of(study, series)
        earlier = index.studies.earlier_namesakes(study, template.folder_tokens)
        before = sum(template.folder_of(rows[0], rows).casefold() == folder.casefold() for rows in earlier)
        folder = free_name(folder, self._folders, numbers=before)
        taken = TakenNames(one_folder=True)
        names = (free_name(template.name_of({**study, **row}), taken) for row in series)
        return [NamedSeries(f"{folder}/{name}", study, row) for name, row in zip(names, series, strict=True)]


def volumes_zip(
    call: Call,
    study_instance_uids: Collection[str],
    series_instance_uids: Collection[str] = (),
    *,
    wanted: Format | None = None,
) -> Response:
    """Return the files of the newest revisions of studies, or of some of their series, as a ZIP file.

    `wanted`: the format of the volumes; "all" is every file, pictures included. None is NIfTI, or the first format of a
    series that has none. The list has a line for each file, and one for each series without a volume, which says why.
    """
    files: list[tuple[NamedSeries, int, RevisionFile]] = []
    without: list[list[object]] = []
    objects = []
    with call.node.index.reading() as index:
        for study, series in named_series(call.node, index, study_instance_uids, series_instance_uids):
            objects.append(of_study(study, index.studies.patient_id(study)))
            revisions = dict(index.volumes.current_revisions(study))
            volumes, failures = index.volumes.current(study), index.failures.of_study(study)
            for named in series:
                uid = named.series["series_instance_uid"]
                there = files_of(call.node, index, study, uid, revisions[uid]) if uid in revisions else []
                rows = {_name(row["path"]): row for row in volumes if row["series_instance_uid"] == uid}
                formats = {name: row["format"] for name, row in rows.items()}
                for file in _of_format(there, formats, wanted):
                    row = rows.get(_name(file.key))
                    digest = file.sha256 if row is None else row["sha256"]
                    files.append((named, revisions[uid], replace(file, sha256=digest)))
                if not there:
                    why = [f"{row['reason']}: {row['detail']}" for row in failures if row["series_instance_uid"] == uid]
                    without.append(named.line(why="; ".join(why) or named.series["state"]))
    if not files:
        raise ResourceNotFound("volume")
    require_few(len(files))
    known, entries, lines = known_of(call.request), list[tuple[str, Content]](), []
    for named, revision, file in files:
        path = f"{named.name}{ending_of(_name(file.key))}"
        content = _content(call.node, known, file, path)
        digest = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else content.sha256
        entries.append((path, content))
        lines.append(named.line(file=path, sha256=digest, revision=revision))
    entries.append((LIST, _list([*lines, *without])))
    planned = PlannedZip(entries, call.node.archive, partial(_pieces, call.node), known)
    kind = f"_{wanted}" if wanted is not None else ""
    headers = _headers(zip_name(files[0][0], study_instance_uids, series_instance_uids, kind))
    what = f"{counted(len(files), 'file')} of volumes as a ZIP file"
    return zip_response(call.request, planned, headers, lambda part: call.audit.transferred(objects, what + part))


def dicom_zip(call: Call, study_instance_uids: Collection[str], series_instance_uids: Collection[str] = ()) -> Response:
    """Return the instances of studies, or of some of their series, as they leave, as a ZIP file.

    The list has a line for each series.
    """
    only = next(iter(series_instance_uids)) if len(series_instance_uids) == 1 else None
    entries: list[tuple[str, Content]] = []
    lines = []
    with call.node.index.reading() as index:
        named = list(named_series(call.node, index, study_instance_uids, series_instance_uids))
        objects = [of_study(uid, index.studies.patient_id(uid)) for uid, _ in named]
        require_few(sum(one.series["instances"] for _, series in named for one in series))
        for study, series in named:
            instances: dict[str, list[ArchivedFile]] = {}
            for stored in index.files.stored(study, only):
                file: ArchivedFile = stored
                if stored.identity is None:
                    file = PlannedFile(stored.key, stored.data_set_offset, stored.bytes, stored.sha256)
                instances.setdefault(stored.series_instance_uid, []).append(file)
            for one in series:
                of_series = instances.get(one.series["series_instance_uid"], [])
                entries += [(f"{one.name}/{number:06d}.dcm", file) for number, file in enumerate(of_series, start=1)]
                lacking = one.series["instances"] - len(of_series)
                why = counted(lacking, "file is missing or damaged", "files are missing or damaged")
                lines.append(one.line(file=f"{one.name}/", files=len(of_series), why=why if lacking else None))
    first = next((one for _, series in named for one in series), None)
    if first is None:
        raise ResourceNotFound("series" if series_instance_uids else "study")
    entries.append((LIST, _list(lines)))
    headers = _headers(zip_name(first, study_instance_uids, series_instance_uids, "_DICOM"))
    what = f"DICOM of {counted(len(objects), 'study', 'studies')} as a ZIP file"

    def audit(part: str) -> None:
        call.audit.transferred(objects, what + part)

    return instances_zip(call.node, call.request, entries, headers, audit)


def named_series(
    node: Services, index: ReadIndex, study_instance_uids: Collection[str], series_instance_uids: Collection[str]
) -> Iterator[tuple[str, list[NamedSeries]]]:
    """Yield the studies that are there, each with its series, or with those that are wanted, if any are named."""
    names, wanted = Names(node_template(node.settings.storage.names)), frozenset(series_instance_uids)
    for uid in study_instance_uids:
        if (study := index.studies.row(uid)) is not None:
            named = names.of_study(index, study)
            yield uid, [one for one in named if not wanted or one.series["series_instance_uid"] in wanted]


def _name(path: str) -> str:
    return PurePath(path).name


def _of_format(files: Iterable[RevisionFile], formats: Mapping[str, str], wanted: Format | None) -> list[RevisionFile]:
    """Return the files of one format of a series, and what belongs to every format: sidecars, tables, reports.

    `formats`: the format of each file that is a volume, by its name.
    """
    if wanted == "all" or not formats:
        return list(files)
    present = list(dict.fromkeys(formats.values()))
    chosen = wanted if wanted in present else "nifti" if "nifti" in present else present[0]
    voxels = {
        name.removesuffix(suffix) + other: kind
        for name, kind in formats.items()
        for suffix, others in VOXEL_FILES.items()
        if name.endswith(suffix)
        for other in others
    }
    kinds = voxels | dict(formats)
    return [file for file in files if kinds.get(_name(file.key), chosen) == chosen and not file.key.endswith(PICTURES)]


def _content(node: Services, known: Known, file: RevisionFile, path: str) -> Content:
    """Return what is sent of a file by a name: a header that names its voxels has their new name.

    The index of a node without an object store has no digests of what lies beside a volume, which is read for it once.
    """
    with _reading():
        if path.endswith(".mhd"):
            return renamed_header(local_file(node, file).read_bytes(), _name(path).removesuffix(".mhd"))
        digest = file.sha256 or known.digests.get(file.key)
        if digest is None:
            digest = known.note(known.digests, file.key, digest_of(local_file(node, file)))
    return PlannedFile(file.key, 0, file.bytes, digest)


def _pieces(node: Services, file: ArchivedFile) -> Iterator[bytes]:
    """Yield the content of a file of a revision; raises Damaged before the last piece if it is not as it was written"""
    digest, left = hashlib.sha256(), file.bytes
    with _reading(), local_file(node, file).open("rb", buffering=0) as content:
        while piece := content.read(CHUNK_BYTES):
            digest.update(piece)
            left -= len(piece)
            if left <= 0 and digest.hexdigest() != file.sha256:
                raise Damaged("a file of a volume is not as it was written: convert its series again")
            yield piece


@contextmanager
def _reading() -> Iterator[None]:
    """Raise Damaged if a file of a revision is missing, and Unavailable if it cannot be read now."""
    try:
        yield
    except FileNotFoundError:
        raise Damaged("a file of a volume is missing: its series was converted again or deleted") from None
    except OSError as error:
        raise Unavailable(f"a file of a volume cannot be read: {error.strerror}") from error


def _list(lines: Iterable[Sequence[object]]) -> bytes:
    return b"".join(map(csv_line, [COLUMNS, *lines]))


def zip_name(
    first: NamedSeries, study_instance_uids: Collection[str], series_instance_uids: Collection[str], kind: str
) -> str:
    """Return the name of a ZIP file, which is called like the series or the study that is in it.

    `kind` ends it, so that a folder of downloads says which is which.
    """
    folder, _, series = first.name.replace("/", "_", first.name.count("/") - 1).partition("/")
    name = f"{len(study_instance_uids)}_studies" if len(study_instance_uids) > 1 else folder
    some = f"{len(series_instance_uids)}_series" if len(series_instance_uids) > 1 else series
    return f"{name}_{some}{kind}.zip" if series_instance_uids else f"{name}{kind}.zip"


def _headers(whole: str) -> Mapping[str, str]:
    given = f'filename="{whole}"' if whole.isascii() else f"filename*=utf-8''{quote(whole)}"  # RFC 6266 4.3
    return {"Content-Disposition": f"attachment; {given}", "Cache-Control": "private, no-cache"}
