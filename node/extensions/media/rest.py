"""Media as ZIP files by REST."""

from __future__ import annotations

from node.extensions.media.downloads import begin_medium
from node.web.access import ReaderCall, for_projects
from node.web.api.changes import Change
from node.web.api.downloads import DownloadResource, Downloads, OfStudies, begun
from node.web.api.routing import OF_CHANGES, api_router, problems

router = api_router("downloads")


@router.post("/downloads/medium", status_code=202, responses=problems(*OF_CHANGES))
@for_projects
def prepare_medium(call: ReaderCall, change: Change, wanted: OfStudies) -> DownloadResource:
    """Begin to make a ZIP file with a DICOMDIR, for a CD or a USB stick, which is fetched when it is ready."""

    def act(_: object) -> DownloadResource:
        return begun(call, change.response, begin_medium(call, *wanted.chosen))

    return change.make(DownloadResource, lambda _: Downloads(items=[]), act)
