"""Media as ZIP files, which are made in the background, by REST and on pages."""

import shutil
import uuid
from collections.abc import Collection, Generator, Sequence
from pathlib import Path, PurePosixPath

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from node.audit.audit_log import AuditAction, AuditEvent, Result
from node.errors import counted
from node.extensions.media.directory import NotOnMedia
from node.extensions.media.medium import DICOMDIR, TEMPORARY, Medium
from node.index.rows.files import StoredInstance
from node.web.access import MEMBERS, Call, CurrentCall
from node.web.api.routing import OF_CHANGES, Change, api_router, problems
from node.web.api.work import OfStudies, WorkResource, begun
from node.web.downloads import Making, download_of, downloads_of, makes
from node.web.files import Damaged, whole_file
from node.web.pages.selected import SERIES, STUDY, Selected, named_series, zip_name
from node.web.zips import Member, taken

router = api_router(MEMBERS, "downloads")


@router.post("/downloads/medium", status_code=202, responses=problems(*OF_CHANGES), dependencies=MEMBERS)
def prepare_medium(call: CurrentCall, change: Change, wanted: OfStudies) -> WorkResource:
    """Begin to make a ZIP file with a DICOMDIR, for a CD or a USB stick, which is fetched when it is made."""
    return begun(call, change, lambda: begin_medium(call, *wanted.chosen))


pages_router = APIRouter(include_in_schema=False, dependencies=MEMBERS)

MAKER = "medium"


@pages_router.get(f"{STUDY}/medium.zip")
@pages_router.get(f"{SERIES}/medium.zip")
@pages_router.post("/selected/medium.zip", dependencies=MEMBERS)
@pages_router.post(f"{STUDY}/selected/medium.zip", dependencies=MEMBERS)
def medium(call: CurrentCall, selected: Selected) -> Response:
    """Make a medium of studies or series, and show how far it is."""
    return RedirectResponse(f"/downloads/{begin_medium(call, selected.studies, selected.series)}", 303)


def begin_medium(call: Call, study_instance_uids: Sequence[str], series_instance_uids: Collection[str] = ()) -> int:
    """Begin a medium of studies, or of some of their series; return the id of the download.

    Raises ResourceNotFound if there is nothing of them, and what `Downloads.begin` raises.
    """
    with call.node.index.reading() as index:
        studies = named_series(call.node, index, study_instance_uids, series_instance_uids)
        named = [one for _, series in studies for one in series]
    name = zip_name(named[0], study_instance_uids, series_instance_uids, "_CD") if named else ""
    return downloads_of(call).begin(call, download_of(call, MAKER, name, study_instance_uids, series_instance_uids))


@makes(MAKER)
def members(making: Making) -> Generator[Member, None, None]:
    """Yield the members, each written when its turn comes; raises MixedPatients if two people would become one."""
    node, objects, is_whole = making.node, making.audited(), False
    folder = node.archive.work / uuid.uuid4().hex

    def whole(one: StoredInstance) -> Path:
        making.check()
        try:
            return whole_file(node, one)
        except Damaged as error:
            raise NotOnMedia(str(error)) from error

    def note(what: str, result: Result = Result.SUCCESS) -> None:
        making.audit.changed(AuditEvent.EXPORT, AuditAction.READ, objects, f"a medium as a ZIP file: {what}", result)

    def member(path: PurePosixPath) -> Member:
        file = folder / path
        return Member(DICOMDIR if path.name == TEMPORARY else str(path), file.stat().st_size, taken(file))

    medium = Medium(folder, node.settings.dicom.ae_title, whole, node.decoder)
    note("begun")
    folder.mkdir(mode=0o700, parents=True)
    try:
        for study, series in making.download.series:
            with node.index.reading() as index:
                instances = list(index.files.stored(study, series))
            if not instances:
                medium.written.left_out[series] = "missing: the series was deleted meanwhile"
            for path in medium.add(instances):
                if path is not None:
                    yield member(path)
        for name in medium.finish():
            yield member(PurePosixPath(name))
        is_whole = True
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        written = medium.written
        counts = f"{counted(written.instances, 'instance')}, {len(written.left_out)} left out"
        note(f"{'done' if is_whole else 'broken off'}, {counts}", Result.SUCCESS if is_whole else Result.MINOR_FAILURE)
