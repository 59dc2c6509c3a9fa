"""Media as ZIP files: studies with a DICOMDIR, to be unpacked onto a CD or a USB stick, or opened by a viewer.

The DICOMDIR is the last member: a ZIP file without it was broken off. People see how far it is (`node.web.prepared`).
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated

from fastapi import APIRouter, Form, Response
from fastapi.responses import RedirectResponse

from node.audit.audit_log import Action, AuditEvent, Result
from node.counted import counted
from node.extensions.media.directory import NotOnMedia
from node.extensions.media.medium import DICOMDIR, TEMPORARY, Medium
from node.extensions.pages.actions import SelectedSeries, SelectedStudies
from node.extensions.pages.downloads import named_series, zip_name
from node.index.search.selection import StoredInstance
from node.web.access import Call, ReaderCall, for_projects
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.files import Damaged, whole_file
from node.web.prepared import Made, Wanted, prepared_of
from node.web.zips import Member

router = APIRouter(include_in_schema=False)

CHUNK_BYTES = 1 << 20


@router.get("/studies/{study_instance_uid}/medium.zip")
@for_projects
def study_medium(call: ReaderCall, study_instance_uid: str) -> Response:
    """Make a medium of a study, and show how far it is."""
    return medium_zip(call, [study_instance_uid])


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}/medium.zip")
@for_projects
def series_medium(call: ReaderCall, study_instance_uid: str, series_instance_uid: str) -> Response:
    """Make a medium of a series, and show how far it is."""
    return medium_zip(call, [study_instance_uid], [series_instance_uid])


@router.post("/selected/medium.zip")
@for_projects
def medium_of_studies(call: ReaderCall, selected: Annotated[SelectedStudies, Form()]) -> Response:
    """Make a medium of the selected studies, and show how far it is."""
    return medium_zip(call, selected.uids)


@router.post("/studies/{study_instance_uid}/selected/medium.zip")
@for_projects
def medium_of_series(
    call: ReaderCall, study_instance_uid: str, selected: Annotated[SelectedSeries, Form()]
) -> Response:
    """Make a medium of the selected series of a study, and show how far it is."""
    return medium_zip(call, [study_instance_uid], selected.uids)


def medium_zip(
    call: Call, study_instance_uids: Collection[str], series_instance_uids: Collection[str] = ()
) -> Response:
    """Begin a medium of studies, or of some of their series; return the way to the page that shows how far it is."""
    return RedirectResponse(f"/downloads/{begin_medium(call, study_instance_uids, series_instance_uids)}", 303)


def begin_medium(call: Call, study_instance_uids: Collection[str], series_instance_uids: Collection[str] = ()) -> str:
    """Begin a medium of studies, or of some of their series; return the number of the download.

    Raises ResourceNotFound if there is nothing of them, and what `PreparedDownloads.begin` raises.
    """
    with call.node.index.reading() as index:
        instances = [
            one
            for study in study_instance_uids
            for one in index.instances.stored(study)
            if not series_instance_uids or one.series_instance_uid in series_instance_uids
        ]
        studies = dict.fromkeys(one.study_instance_uid for one in instances)
        objects = [of_study(uid, index.studies.patient_id(uid)) for uid in studies]
        named = [one for _, series in named_series(index, study_instance_uids, series_instance_uids) for one in series]
    if not instances:
        raise ResourceNotFound("series" if series_instance_uids else "study")
    order = f"a medium: {sorted(study_instance_uids)} {sorted(series_instance_uids)}"
    name = zip_name(named[0], study_instance_uids, series_instance_uids, "_CD")
    size = sum(one.data_set_offset + one.bytes for one in instances)

    def make() -> Made:
        download = _Download(call, objects)
        return Made(lambda _: download.members(instances), download.close)

    return prepared_of(call).begin(call, Wanted(name, order, objects, len(instances), "instance", size), make)


class _Download:
    """The members of one ZIP file, each written when its turn comes, and removed once it is read."""

    def __init__(self, call: Call, objects: list[dict[str, str]]) -> None:
        self._audit, self._objects, self._is_whole = call.audit, objects, False
        self._folder = call.node.archive.work / uuid.uuid4().hex

        def whole(one: StoredInstance) -> Path:
            try:
                return whole_file(call.node, one)
            except Damaged as error:
                raise NotOnMedia(str(error)) from error

        self._medium = Medium(self._folder, call.node.settings.dicom.ae_title, whole, call.node.decoder)
        self._note("begun")

    def members(self, instances: list[StoredInstance]) -> Iterator[Member]:
        """Yield the members; raises MixedPatients if two people would become one."""
        self._folder.mkdir(mode=0o700, parents=True)
        for path in self._medium.add(instances):
            if path is not None:
                yield self._member(path)
        for name in self._medium.finish():
            yield self._member(PurePosixPath(name))
        self._is_whole = True

    def close(self) -> None:
        """Remove everything that was made."""
        shutil.rmtree(self._folder, ignore_errors=True)
        written = self._medium.written
        outcome = "done" if self._is_whole else "broken off"
        told = f"{outcome}, {counted(written.instances, 'instance')}, {len(written.left_out)} left out"
        self._note(told, Result.SUCCESS if self._is_whole else Result.MINOR_FAILURE)

    def _note(self, what: str, result: Result = Result.SUCCESS) -> None:
        self._audit.changed(AuditEvent.EXPORT, Action.READ, self._objects, f"a medium as a ZIP file: {what}", result)

    def _member(self, path: PurePosixPath) -> Member:
        file = self._folder / path
        name = DICOMDIR if path.name == TEMPORARY else str(path)
        return Member(name, file.stat().st_size, _pieces(file))


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        path.unlink()
        while piece := file.read(CHUNK_BYTES):
            yield piece
