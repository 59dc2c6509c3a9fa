"""Pages of downloads that are being made: how far they are, and then the file."""

from __future__ import annotations

import datetime as dt
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from node.archive.filesystem import DOWNLOAD_KEPT_SECONDS
from node.web.access import MEMBERS, Call, CurrentCall, background_request
from node.web.api.models import RowId
from node.web.api.paging import only_row
from node.web.downloads import downloads_of, file_of_download
from node.web.pages.rendering import fragment, page

router = APIRouter(include_in_schema=False, dependencies=MEMBERS)

PATH = "/downloads/{number}"


@router.get(PATH)
def download(call: CurrentCall, number: RowId) -> Response:
    """A download that is being made."""
    return page(call, "download.html", **_values(call, number), digest="")


@router.get(f"{PATH}/progress")
@background_request
def progress(call: CurrentCall, number: RowId) -> Response:
    """How far it is."""
    return fragment(call, "download_progress.html", **_values(call, number))


@router.get(f"{PATH}/file")
def file(call: CurrentCall, number: RowId) -> Response:
    """The file, once it is made."""
    return file_of_download(call, number)


@router.post(f"{PATH}/remove", dependencies=MEMBERS)
def remove(call: CurrentCall, number: RowId) -> Response:
    """End it, and remove its file."""
    downloads_of(call).remove(call, number)
    return RedirectResponse("/", 303)


def _values(call: Call, number: int) -> dict[str, Any]:
    downloads = downloads_of(call)
    work = downloads.of(call, number)
    file = downloads.file(work)
    with call.node.index.reading(wait=False) as index:
        row = only_row(index.work, "download", id=number)
    keep_time = dt.timedelta(seconds=DOWNLOAD_KEPT_SECONDS)
    left = row["ended_at"] + keep_time - call.node.ingest.now() if row["ended_at"] is not None else keep_time
    return {
        "download": row,
        "bytes": file.stat().st_size if file is not None else None,
        "kept_seconds": max(int(left.total_seconds()), 0),
    }
