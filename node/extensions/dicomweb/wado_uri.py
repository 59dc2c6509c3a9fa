"""WADO-URI, the older way to retrieve one instance, as DICOM or as a picture (PS3.18 9)."""

from __future__ import annotations

from fastapi import HTTPException, Response
from starlette.datastructures import QueryParams

from node.extensions.dicomweb.decoding import PictureOrder
from node.extensions.dicomweb.media_types import DICOM, EXPLICIT_LITTLE_ENDIAN, JPEG, NotAcceptable, media_ranges, names
from node.extensions.dicomweb.rendered import FORMATS, MAX_SIDE, answer_picture, middle_frame, quality_of, window_of
from node.extensions.dicomweb.resources import (
    READ,
    SelectedInstances,
    dicomweb_router,
    find_target,
    one_instance,
    respond,
)
from node.extensions.dicomweb.wado import begun_files, given_syntax, is_as_stored, only
from node.volume.planes import Window
from node.web.access import MEMBERS, CurrentCall
from node.web.files import file_length

router = dicomweb_router(MEMBERS)

REFUSED = ("anonymize", "presentationUID", "region")
"""Unsupported parameters that change the content: ignoring them would return something other than requested."""


PARAMETERS = {
    "requestType": "WADO",
    "studyUID": "Study Instance UID",
    "seriesUID": "Series Instance UID",
    "objectUID": "SOP Instance UID",
    "contentType": "media types of the response",
    "transferSyntax": "transfer syntax of application/dicom; * for the stored one",
    "frameNumber": "number of the frame, from 1",
    "rows": f"largest height in pixels, at most {MAX_SIDE}",
    "columns": f"largest width in pixels, at most {MAX_SIDE}",
    "windowCenter": "centre of the window, with windowWidth",
    "windowWidth": "width of the window, with windowCenter",
    "imageQuality": "1 to 100, of JPEG",
}
"""The parameters that have an effect, and their meaning (PS3.18 9.4.1.2)."""


@router.api_route("/wado", methods=READ)
def retrieve_by_uri(call: CurrentCall) -> Response:
    """One instance by query parameters, the older WADO-URI (PS3.18 9)."""
    query = call.request.query_params
    if query.get("requestType") != "WADO":
        raise HTTPException(400, "requestType must be WADO (PS3.18 9.1.2.1)")
    unknown = [name for name in REFUSED if name in query]
    if unknown:
        raise HTTPException(400, f"{', '.join(unknown)} is not supported (PS3.18 9.1.2.2)")
    uids = [query.get(name, "") for name in ("studyUID", "seriesUID", "objectUID")]
    if not all(uids):
        raise HTTPException(400, "studyUID, seriesUID and objectUID must be given (PS3.18 9.1.2.1)")
    target = find_target(call, *uids)
    media_type = names(media_ranges(query.get("contentType") or JPEG), *FORMATS, DICOM)
    if media_type is None:
        raise NotAcceptable(f"{', '.join(FORMATS)} and {DICOM}")
    if media_type == DICOM:
        return _whole(target)
    return answer_picture(target, one_instance(target), _order(target, media_type))


def _whole(target: SelectedInstances) -> Response:
    """Respond with the instance in `transferSyntax`: as stored for ``*``, Explicit VR Little Endian by default."""
    instance = one_instance(target)
    wanted = target.request.query_params.get("transferSyntax")
    syntax = given_syntax(instance, {wanted or EXPLICIT_LITTLE_ENDIAN})
    if syntax is None:
        raise NotAcceptable(f"{DICOM} as stored (transferSyntax=*), or uncompressed")
    target.audit_transfer("WADO-URI")
    length = file_length(instance) if is_as_stored(target.node, instance, syntax) else None
    file = begun_files(target.node, [(instance, syntax)])
    return respond(target, only(file), DICOM, target.etag(f"uri {syntax}"), length)


def _order(target: SelectedInstances, media_type: str) -> PictureOrder:
    query = target.request.query_params
    frame = _number(query, "frameNumber") or middle_frame(one_instance(target))
    rows, columns = _number(query, "rows"), _number(query, "columns")
    size = (columns or MAX_SIDE, rows or MAX_SIDE) if rows or columns else None
    return PictureOrder(frame, FORMATS[media_type], _window(query), None, size, quality_of(query.get("imageQuality")))


def _window(query: QueryParams) -> Window | None:
    centre, width = query.get("windowCenter"), query.get("windowWidth")
    if centre is None and width is None:
        return None
    return window_of(f"{centre},{width}")


def _number(query: QueryParams, name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not text.isdecimal() or not 1 <= int(text[:9]) <= 10**8 or (name != "frameNumber" and int(text) > MAX_SIDE):
        raise HTTPException(400, f"{name} must be a whole number from 1 (PS3.18 9.1.2.2)")
    return int(text)
