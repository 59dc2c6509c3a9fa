"""Media as ZIP files by REST."""

from __future__ import annotations

from node.extensions.media.downloads import begin_medium
from node.web.access import MEMBERS, CurrentCall
from node.web.api.changes import Change
from node.web.api.models import WorkResource
from node.web.api.routing import OF_CHANGES, api_router, problems
from node.web.api.work import OfStudies, begun

router = api_router(MEMBERS, "downloads")


@router.post("/downloads/medium", status_code=202, responses=problems(*OF_CHANGES), dependencies=MEMBERS)
def prepare_medium(call: CurrentCall, change: Change, wanted: OfStudies) -> WorkResource:
    """Begin to make a ZIP file with a DICOMDIR, for a CD or a USB stick, which is fetched when it is made."""
    return begun(call, change, lambda: begin_medium(call, *wanted.chosen))
