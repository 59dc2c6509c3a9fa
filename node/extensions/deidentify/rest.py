"""Downloads without identities by REST."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from node.extensions.deidentify.downloads import Content, ordered
from node.web.access import MEMBERS, CurrentCall
from node.web.api.changes import Change
from node.web.api.models import WorkResource
from node.web.api.routing import OF_CHANGES, api_router, problems
from node.web.api.work import OfStudies, begun
from node.web.downloads import downloads_of

router = api_router(MEMBERS, "downloads")


class NewDeidentified(OfStudies):
    """Studies or series without identities: `profile` is the name of a table [deidentify.NAME] of the configuration."""

    profile: Annotated[str, Field(max_length=64)]
    content: Content = "dicom"


@router.post("/downloads/deidentified", status_code=202, responses=problems(*OF_CHANGES), dependencies=MEMBERS)
def prepare_deidentified(call: CurrentCall, change: Change, wanted: NewDeidentified) -> WorkResource:
    """Begin to make a ZIP file of studies or series without identities, which is fetched when it is made."""
    order = wanted.profile, wanted.content, *wanted.chosen
    return begun(call, change, lambda: downloads_of(call).begin(call, ordered(call, *order)))
