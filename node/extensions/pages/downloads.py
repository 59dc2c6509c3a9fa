"""Studies and series as ZIP files whose names people read: a folder a study, a name a series, and a list of them.

Names are those of `voxelnode convert`. Of what a header says, only letters, digits and ``- + . _`` reach a name, and no
two names differ in case alone. The list is the last member: a ZIP file without it was broken off.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from fastapi import APIRouter, Response

from node.conversion.naming import DEFAULT, TakenNames, parse
from node.conversion.study_names import ending_of, free_name, renamed_header, study_name
from node.counted import counted
from node.extensions.dicomweb.resources import Instances, by_series, file_length, stored_file
from node.extensions.pages.files import CHUNK_BYTES, VOXEL_FILES, files_of
from node.extensions.pages.studies import csv_line
from node.index.database.reading import ReadIndex
from node.index.nouns.records import RevisionFile
from node.settings.convert import VolumeFormat
from node.web.access import Call, ReaderCall, for_projects
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.files import ZIP, Member, Streamed, zip_stream
from node.web.services import Services

router = APIRouter(include_in_schema=False)

STUDY = "/studies/{study_instance_uid}"
SERIES = f"{STUDY}/series/{{series_instance_uid}}"

Wanted = VolumeFormat | Literal["all"]

LIST = "manifest.csv"
OF_STUDY = ("patient_id", "patient_name", "study_date", "study_description", "study_instance_uid")
OF_SERIES = ("modality", "series_number", "series_description", "series_instance_uid", "state", "certainty")
COLUMNS = ("file", "files", "sha256", *OF_STUDY, *OF_SERIES, "revision", "why")

PICTURES = ".png"
_SERIES_NAME = parse(DEFAULT)


class NamedSeries(NamedTuple):
    """A series in a ZIP file: the beginning of the names of its files, and its rows in the views."""

    name: str
    study: Mapping[str, Any]
    series: Mapping[str, Any]

    def line(self, **values: object) -> list[object]:
        """Return a line of the list."""
        told = {name: self.study[name] for name in OF_STUDY} | {name: self.series[name] for name in OF_SERIES} | values
        return [told.get(column) for column in COLUMNS]


class Names:
    """The names of studies and series in one ZIP file."""

    def __init__(self) -> None:
        self._folders = TakenNames(one_folder=False)

    def of_study(self, study: Mapping[str, Any], series: Sequence[Mapping[str, Any]]) -> list[NamedSeries]:
        """Return the series of a study, each with a name ``FOLDER/NAME``."""
        folder = free_name(study_name(study, series), self._folders)
        taken = TakenNames(one_folder=True)
        return [NamedSeries(f"{folder}/{free_name(_SERIES_NAME.name_of(row), taken)}", study, row) for row in series]


@router.get(f"{STUDY}/volumes.zip")
@for_projects
def study_volumes(call: ReaderCall, study_instance_uid: str, format: Wanted | None = None) -> Response:
    """The volumes of a study as a ZIP file; see `volumes_zip`."""
    return volumes_zip(call, [study_instance_uid], wanted=format)


@router.get(f"{SERIES}/volumes.zip")
@for_projects
def series_volumes(
    call: ReaderCall,
    study_instance_uid: str,
    series_instance_uid: str,
    format: Wanted | None = None,
) -> Response:
    """The volumes of a series as a ZIP file; see `volumes_zip`."""
    return volumes_zip(call, [study_instance_uid], [series_instance_uid], wanted=format)


@router.get(f"{STUDY}/dicom.zip")
@for_projects
def study_dicom(call: ReaderCall, study_instance_uid: str) -> Response:
    """The instances of a study as stored, as a ZIP file."""
    return dicom_zip(call, [study_instance_uid])


@router.get(f"{SERIES}/dicom.zip")
@for_projects
def series_dicom(call: ReaderCall, study_instance_uid: str, series_instance_uid: str) -> Response:
    """The instances of a series as stored, as a ZIP file."""
    return dicom_zip(call, [study_instance_uid], [series_instance_uid])


def volumes_zip(
    call: Call,
    study_instance_uids: Collection[str],
    series_instance_uids: Collection[str] = (),
    *,
    wanted: Wanted | None = None,
) -> Response:
    """Return the files of the newest revisions of studies, or of some of their series, as a ZIP file.

    `wanted`: the format of the volumes; "all" is every file, pictures included. None is NIfTI, or the first format of a
    series that has none. The list has a line for each file, and one for each series without a volume, which says why.
    """
    files: list[tuple[NamedSeries, int, RevisionFile]] = []
    without: list[list[object]] = []
    with call.node.index.reading() as index:
        for study, of_study in _named(index, study_instance_uids, series_instance_uids):
            revisions = dict(index.volumes.current_revisions(study))
            volumes, failures = index.volumes.current(study), index.failures.of_study(study)
            for named in of_study:
                uid = named.series["series_instance_uid"]
                there = files_of(call.node, index, study, uid, revisions[uid]) if uid in revisions else []
                formats = {_name(row["path"]): row["format"] for row in volumes if row["series_instance_uid"] == uid}
                files += [(named, revisions[uid], file) for file in _of_format(there, formats, wanted)]
                if not there:
                    why = [f"{row['reason']}: {row['detail']}" for row in failures if row["series_instance_uid"] == uid]
                    without.append(named.line(why="; ".join(why) or named.series["state"]))
    if not files:
        raise ResourceNotFound("volume")
    objects = [{"study_instance_uid": study} for study in study_instance_uids]
    call.audit.transferred(objects, f"{counted(len(files), 'file')} of volumes as a ZIP file")

    def members() -> Iterator[Member]:
        lines = []
        local = call.node.archive.ahead([file for *_, file in files])
        for (named, revision, _), file in zip(files, local, strict=True):
            path, digest = f"{named.name}{ending_of(_name(file.key))}", hashlib.sha256()
            yield Member(path, file.bytes, _pieces(call.node, file, path, digest))
            lines.append(named.line(file=path, sha256=digest.hexdigest(), revision=revision))
        yield _list([*lines, *without])

    return Streamed(zip_stream(members()), 200, _headers(files[0][0], study_instance_uids, series_instance_uids))


def dicom_zip(call: Call, study_instance_uids: Collection[str], series_instance_uids: Collection[str] = ()) -> Response:
    """Return the instances of studies, or of some of their series, as stored, as a ZIP file.

    A study is read when its turn comes.

    The list has a line for each series that was there when the download began.
    """
    with call.node.index.reading() as index:
        named = list(_named(index, study_instance_uids, series_instance_uids))
        objects = [of_study(uid, index.studies.patient_id(uid)) for uid, _ in named]
    first = next((one for _, series in named for one in series), None)
    if first is None:
        raise ResourceNotFound("series" if series_instance_uids else "study")
    call.audit.transferred(objects, f"DICOM of {counted(len(objects), 'study', 'studies')} as a ZIP file")

    only = next(iter(series_instance_uids)) if len(series_instance_uids) == 1 else None

    def members() -> Iterator[Member]:
        lines = []
        for study, series in named:
            with call.node.index.reading(wait=False) as index:
                instances = by_series(list(index.instances.stored(study, only)))
            for one in series:
                of_series = instances.get(one.series["series_instance_uid"], [])
                for position, instance in enumerate(call.node.archive.ahead(of_series), start=1):
                    path = f"{one.name}/{position:06d}.dcm"
                    yield Member(path, file_length(instance), stored_file(call.node, instance))
                why = None if of_series else "deleted while the download was under way"
                lines.append(one.line(file=f"{one.name}/", files=len(of_series), why=why))
        yield _list(lines)

    return Instances(zip_stream(members()), 200, _headers(first, study_instance_uids, series_instance_uids))


def _named(
    index: ReadIndex, study_instance_uids: Collection[str], series_instance_uids: Collection[str]
) -> Iterator[tuple[str, list[NamedSeries]]]:
    """Yield the studies that are there, each with its series, or with those that are wanted, if any are named."""
    names, wanted = Names(), frozenset(series_instance_uids)
    for uid in study_instance_uids:
        if (study := index.studies.row(uid)) is not None:
            named = names.of_study(study, index.series.of_study(uid))
            yield uid, [one for one in named if not wanted or one.series["series_instance_uid"] in wanted]


def _name(path: str) -> str:
    return PurePath(path).name


def _of_format(files: Iterable[RevisionFile], formats: Mapping[str, str], wanted: Wanted | None) -> list[RevisionFile]:
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


def _pieces(node: Services, file: RevisionFile, path: str, digest: Any) -> Iterator[bytes]:
    """Yield the content of a file; `digest` is updated with it. A header that names its voxels has their new name."""
    with open(node.archive.local(file), "rb") as content:
        while piece := content.read(CHUNK_BYTES):
            if path.endswith(".mhd"):  # shorter than one piece
                piece = renamed_header(piece, _name(path).removesuffix(".mhd"))
            digest.update(piece)
            yield piece


def _list(lines: Iterable[Sequence[object]]) -> Member:
    content = b"".join(map(csv_line, [COLUMNS, *lines]))
    return Member(LIST, len(content), [content])


def _headers(
    first: NamedSeries, study_instance_uids: Collection[str], series_instance_uids: Collection[str]
) -> Mapping[str, str]:
    """Return the headers of a ZIP file, which is called like the series or the study that is in it."""
    folder, _, series = first.name.partition("/")
    name = f"{len(study_instance_uids)}_studies" if len(study_instance_uids) > 1 else folder
    some = f"{len(series_instance_uids)}_series" if len(series_instance_uids) > 1 else series
    whole = f"{name}_{some}.zip" if series_instance_uids else f"{name}.zip"
    given = f'filename="{whole}"' if whole.isascii() else f"filename*=utf-8''{quote(whole)}"  # RFC 6266 4.3
    return {"Content-Type": ZIP, "Content-Disposition": f"attachment; {given}"}
