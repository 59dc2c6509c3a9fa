"""Pages of downloads that are being made: how far they are, and then the file."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from node.extensions.pages.rendering import fragment, page
from node.web.access import Call, ReaderCall, background_request, for_projects
from node.web.prepared import prepared_file, prepared_of

router = APIRouter(include_in_schema=False)

PATH = "/downloads/{number}"


@router.get(PATH)
@for_projects
def download(call: ReaderCall, number: str) -> Response:
    """A download that is being made."""
    return page(call, "download.html", **_values(call, number), digest="")


@router.get(f"{PATH}/progress")
@background_request
@for_projects
def progress(call: ReaderCall, number: str) -> Response:
    """How far it is."""
    return fragment(call, "download_progress.html", **_values(call, number))


@router.get(f"{PATH}/file")
@for_projects
def file(call: ReaderCall, number: str) -> Response:
    """The file, once it is made."""
    return prepared_file(call, number)


@router.post(f"{PATH}/remove")
@for_projects
def remove(call: ReaderCall, number: str) -> Response:
    """End it, and remove its file."""
    prepared_of(call).of(call, number)
    prepared_of(call).remove(number)
    return RedirectResponse("/", 303)


def _values(call: Call, number: str) -> dict[str, Any]:
    downloads = prepared_of(call)
    prepared = downloads.of(call, number)
    return {"download": prepared, "number": number, "before": downloads.before(prepared)}
