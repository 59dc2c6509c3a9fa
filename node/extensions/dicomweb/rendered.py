"""Rendered instances and frames, and thumbnails (PS3.18 10.4.1.1.3 and 10.4.1.1.4)."""

import hashlib
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import IO, Any

from fastapi import HTTPException, Response

from node.archive.intact import intact_bytes
from node.children.decoder import NotDecoded
from node.dicom.seen import DOCUMENT_TYPES, Seen, seen_as
from node.extensions.dicomweb.bulk_data import ENCAPSULATED_DOCUMENT, frame_numbers
from node.extensions.dicomweb.bursts import MAX_FILE_BYTES, BurstRoute, begin_burst, decoded, kept_bytes
from node.extensions.dicomweb.decoding import (
    Crop,
    PictureFormat,
    PictureOrder,
    native_picture,
    picture,
    stored_frame,
    value_file,
)
from node.extensions.dicomweb.media_types import (
    GIF,
    HTML,
    JPEG,
    PNG,
    MediaRange,
    NotAcceptable,
    accepted,
    frame_media_type,
    names,
)
from node.extensions.dicomweb.report import attributes_file, report_file
from node.extensions.dicomweb.resources import (
    READ,
    Multipart,
    Part,
    SelectedInstances,
    by_series,
    derived_file,
    dicomweb_router,
    instance_url,
    one_instance,
    quotable,
    requested,
    respond,
    respond_with_file,
    warning_header,
)
from node.index.rows.files import StoredInstance
from node.volume.planes import Window
from node.volume.read.transfer_syntaxes import NATIVE, TARGETS, can_decode
from node.web.access import MEMBERS, CurrentCall
from node.web.files import decoded_file, leaving_file, local_file, whole_file

router = dicomweb_router(MEMBERS)

THUMBNAIL_PIXELS = 256
MAX_SIDE = 8192
"""Longest side of a picture, in pixels."""

REPORT_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"
"""Content-Security-Policy of a report, which neither runs nor loads anything."""

FORMATS: dict[str, PictureFormat] = {JPEG: "JPEG", PNG: "PNG", GIF: "GIF"}
FUNCTIONS = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}

UNSUPPORTED = ("annotation", "iccprofile")
"""Parameters of PS3.18 8.3.5.1 that are ignored with a warning; none is required of a server."""

THUMBNAIL_TRIES = 5
"""Number of series tried for the thumbnail of a study, since the largest may be reports."""


class NotShown(NotAcceptable):
    """An instance cannot be rendered."""


_rendering = threading.BoundedSemaphore(2)
"""More threads at once would render no faster, as they wait for the lock of the interpreter, and take more memory."""

_INSTANCE = "/studies/{study}/series/{series}/instances/{instance}"


@router.api_route("/studies/{study}/rendered", methods=READ)
@router.api_route("/studies/{study}/series/{series}/rendered", methods=READ)
def retrieve_rendered_series(call: CurrentCall) -> Response:
    """Every image of a study or a series as a picture in its own part.

    206 and a warning if instances without pixels, such as reports, or of an encoding without a decoder are omitted. The
    response is broken off at an image that cannot be rendered, as at one whose file is damaged.
    """
    target = requested(call)
    media_type = _media_type(target)
    message = Multipart(media_type)
    order = _order(target, 1, media_type)
    given = [one for one in target.instances if _is_image(one)]
    if not given:
        raise NotShown("the instances themselves", "none of the instances can be rendered")
    _require_region(given[0], order)
    target.audit_access("rendered")
    etag = target.etag(f"rendered {media_type} {target.request.query_params}")
    omitted = len(target.instances) + target.unavailable - len(given)
    warnings = [f"Instances that cannot be rendered are omitted: {omitted}"] if omitted else []
    try:  # the first before the response starts, so that an error can set the status
        pictures = chain([rendered(target, given[0], order)], (rendered(target, one, order) for one in given[1:]))
    except NotDecoded as error:
        raise NotShown("the instances themselves", f"the first image cannot be rendered: {error}") from error
    parts = (
        Part(media_type, (data,), f"{instance_url(target.base, one)}/rendered")
        for one, data in zip(given, pictures, strict=True)
    )
    response = respond(target, message.write(parts), message.content_type, etag, status=206 if omitted else 200)
    return _with_warnings(target, response, warnings)


@router.api_route(f"{_INSTANCE}/rendered", methods=READ)
def retrieve_rendered_instance(call: CurrentCall) -> Response:
    """An instance as a picture of its middle frame; a video or document unchanged, a report or attributes as HTML."""
    target = requested(call)
    instance = one_instance(target)
    if (document := document_type(instance)) is not None:
        return answer_document(target, instance, document, accepted(target.request))
    return _answer(target, instance, middle_frame(instance))


def document_type(instance: StoredInstance) -> str | None:
    """Return the media type of an instance that is shown as something else than a picture."""
    match _seen(instance):
        case Seen.PICTURE:
            return None
        case Seen.VIDEO:
            return frame_media_type(instance.transfer_syntax_uid)
        case Seen.DOCUMENT:
            return DOCUMENT_TYPES[instance.sop_class_uid]
    return HTML


def answer_document(
    target: SelectedInstances,
    instance: StoredInstance,
    media_type: str,
    ranges: Sequence[MediaRange],
    seen: Seen | None = None,
) -> Response:
    """Respond with what an instance is shown as, which a child process writes; 406 if `ranges` do not include it.

    What lacks what its class shows, such as a report without content, is shown by its attributes.
    """
    if names(ranges, media_type) is None:
        raise NotAcceptable(media_type)
    seen = _seen(instance) if seen is None else seen
    write, *what = _WRITERS[seen]
    try:
        with leaving_file(target.node, instance) as path:
            file = decoded_file(target.node, write, path, *what)
    except NotDecoded as error:
        if seen in (Seen.DOCUMENT, Seen.REPORT) and names(ranges, HTML):
            return answer_document(target, instance, HTML, ranges, Seen.ATTRIBUTES)
        raise HTTPException(404, str(error)) from error
    target.audit_access("rendered")
    content_type = f"{HTML}; charset=utf-8" if media_type == HTML else media_type
    response = respond_with_file(target, file, content_type, target.etag(media_type))
    if media_type.startswith("text/"):  # not of a PDF, which browsers do not show in a sandbox
        response.headers["Content-Security-Policy"] = REPORT_POLICY
    return response


_WRITERS: Mapping[Seen, tuple[Any, ...]] = {
    Seen.VIDEO: (stored_frame, 1),
    Seen.DOCUMENT: (value_file, ENCAPSULATED_DOCUMENT),
    Seen.REPORT: (report_file,),
    Seen.ATTRIBUTES: (attributes_file,),
}
"""What writes it, in a child process, and what of the file."""


def _seen(instance: StoredInstance) -> Seen:
    return seen_as(instance.sop_class_uid, instance.transfer_syntax_uid, has_rows=bool(instance.rows))


def retrieve_rendered_frames(call: CurrentCall, frames: str) -> Response:
    """One frame as a picture."""
    target = requested(call)
    order = _order(target, _one_frame(frames), _media_type(target))
    begin_burst(call, "rendered", partial(_short_answer, order))
    return answer_picture(target, one_instance(target), order)


router.add_api_route(
    f"{_INSTANCE}/frames/{{frames}}/rendered", retrieve_rendered_frames, methods=READ, route_class_override=BurstRoute
)


def _short_answer(
    order: PictureOrder, target: SelectedInstances, instance: StoredInstance, _: Callable[[], memoryview], flags: int
) -> Response | None:
    """Return a picture, which needs no file if it is kept; see `node.extensions.dicomweb.bursts`."""
    data = kept_bytes(target, instance, _name_of(order), flags, partial(_picture_file, target, instance, order))
    return _sent_picture(target, order, bytes(data))


@router.api_route("/studies/{study}/thumbnail", methods=READ)
@router.api_route("/studies/{study}/series/{series}/thumbnail", methods=READ)
@router.api_route(f"{_INSTANCE}/thumbnail", methods=READ)
def retrieve_thumbnail(call: CurrentCall) -> Response:
    """A small picture: the middle instance of a series, or of the largest series of images of a study."""
    target = requested(call)
    series = sorted(by_series(target.instances).values(), key=len, reverse=True)
    *first, last = [instances[len(instances) // 2] for instances in series[:THUMBNAIL_TRIES]]
    for instance in first:
        try:
            return _answer(target, instance, middle_frame(instance), THUMBNAIL_PIXELS)
        except NotShown:
            continue
    return _answer(target, last, middle_frame(last), THUMBNAIL_PIXELS)


@router.api_route(f"{_INSTANCE}/frames/{{frames}}/thumbnail", methods=READ)
def retrieve_frame_thumbnail(call: CurrentCall, frames: str) -> Response:
    """A small picture of one frame."""
    target = requested(call)
    return _answer(target, one_instance(target), _one_frame(frames), THUMBNAIL_PIXELS)


def _is_image(instance: StoredInstance) -> bool:
    """Return whether an instance has pixels in an encoding with a decoder."""
    syntax = instance.transfer_syntax_uid
    return _seen(instance) is Seen.PICTURE and (syntax in NATIVE or can_decode(syntax))


def _one_frame(frames: str) -> int:
    numbers = frame_numbers(frames)
    if len(numbers) > 1:
        raise HTTPException(400, "only one frame can be rendered at a time")
    return numbers[0]


def middle_frame(instance: StoredInstance) -> int:
    """Return the number of the middle frame, from 1."""
    return (max(instance.number_of_frames or 1, 1) + 1) // 2


def _media_type(target: SelectedInstances) -> str:
    ranges = accepted(target.request)
    in_parts = (name for part in ranges for name in FORMATS if part.covers_parts(name))
    media_type = names(ranges, *FORMATS) or next(in_parts, None)
    if media_type is None:
        raise NotAcceptable(f"{JPEG}, {PNG} and {GIF}")
    return media_type


def _answer(
    target: SelectedInstances, instance: StoredInstance, frame_number: int, longest: int | None = None
) -> Response:
    return answer_picture(target, instance, _order(target, frame_number, _media_type(target), longest))


def answer_picture(target: SelectedInstances, instance: StoredInstance, order: PictureOrder) -> Response:
    """Respond with a picture of one frame; 404 and 400 if there is none, 406 if it cannot be rendered."""
    _require_region(instance, order)
    target.audit_access("rendered")
    try:
        data = rendered(target, instance, order)
    except NotDecoded as error:
        raise NotShown("the instance itself", f"this instance cannot be rendered: {error}") from error
    return _sent_picture(target, order, data)


def _require_region(instance: StoredInstance, order: PictureOrder) -> None:
    """Raise 404 for a frame that an image does not have, and 400 for a viewport outside of it."""
    left, top, *_ = order.crop or (0, 0)
    if instance.rows and order.frame_number > max(instance.number_of_frames or 1, 1):
        raise HTTPException(404, f"the instance has no frame {order.frame_number}")
    if (instance.rows and top >= instance.rows) or (instance.columns and left >= instance.columns):
        raise HTTPException(400, "the viewport is outside of the image (PS3.18 8.3.5.1.3)")


def _sent_picture(target: SelectedInstances, order: PictureOrder, data: bytes) -> Response:
    media_type = next(name for name, picture_format in FORMATS.items() if picture_format == order.format)
    return _with_warnings(target, respond(target, data, media_type, target.etag(f"{order}"), len(data)))


def rendered(target: SelectedInstances, instance: StoredInstance, order: PictureOrder) -> bytes:
    """Return a picture of one frame, which is kept for the next request. Raises NotDecoded."""
    with _picture_file(target, instance, order) as file:
        return file.read()


def _picture_file(target: SelectedInstances, instance: StoredInstance, order: PictureOrder) -> IO[bytes]:
    def write(into: IO[bytes]) -> None:
        if not _drawn(target, instance, order, into):
            into.write(decoded(target, instance, picture, whole_file(target.node, instance), order))

    return derived_file(target.node, instance, _name_of(order), write)


def _drawn(target: SelectedInstances, instance: StoredInstance, order: PictureOrder, into: IO[bytes]) -> bool:
    """Write a picture of a short file that is as it was received, if its pixels are native and plain; else False."""
    if instance.transfer_syntax_uid not in TARGETS or instance.bytes > MAX_FILE_BYTES:
        return False
    path = local_file(target.node, instance)
    data_set = intact_bytes(path, instance.data_set_offset, instance.bytes, instance.sha256)
    if isinstance(data_set, str):
        return False
    with _rendering:
        return native_picture(data_set, instance.transfer_syntax_uid, order, into)


def _name_of(order: PictureOrder) -> str:
    return hashlib.sha256(f"{order}".encode()).hexdigest()


def _with_warnings(target: SelectedInstances, response: Response, warnings: Sequence[str] = ()) -> Response:
    """Add these warnings, and those about parameters that are ignored (PS3.18 8.3.5.1)."""
    query = target.request.query_params
    for name in UNSUPPORTED:
        if query.get(name, "no") != "no":
            warning = f"The following {name} values are not supported: {quotable([query[name]])}"
            warnings = [*warnings, warning]
    if warnings:
        response.headers["Warning"] = warning_header(warnings)
    return response


def _order(target: SelectedInstances, frame_number: int, media_type: str, longest: int | None = None) -> PictureOrder:
    """Return the picture order from the query parameters (PS3.18 8.3.5)."""
    query = target.request.query_params
    crop, flip, size = viewport_of(query.get("viewport"))
    if size is None and longest is not None:
        size = longest, longest
    window, quality = window_of(query.get("window")), quality_of(query.get("quality"))
    return PictureOrder(frame_number, FORMATS[media_type], window, crop, size, quality, flip)


def quality_of(text: str | None) -> int:
    """Return the JPEG quality, 1 to 100 (PS3.18 8.3.5.1.2); anything else is answered 400."""
    if text is None:
        return 90
    if not text.isdecimal() or not 1 <= int(text[:4]) <= 100:
        raise HTTPException(400, "quality is a whole number from 1 to 100 (PS3.18 8.3.5.1.2)")
    return int(text)


def window_of(text: str | None) -> Window | None:
    """Return the window of ``window=center,width,function``, PS3.18 8.3.5.1.4."""
    if text is None:
        return None
    wrong = HTTPException(
        400,
        f"window is center,width,function; width above 0, function one of {', '.join(FUNCTIONS)} (PS3.18 8.3.5.1.4)",
    )
    parts = text.lower().split(",")
    try:
        window = Window(float(parts[0]), float(parts[1]), FUNCTIONS[",".join(parts[2:]) or "linear"])
    except (ValueError, LookupError):
        raise wrong from None
    if not (math.isfinite(window.centre) and math.isfinite(window.width) and window.width > 0):
        raise wrong
    return window


Viewport = tuple[Crop | None, tuple[bool, bool], tuple[int, int] | None]
"""Region, whether it is flipped, and width and height of the picture."""


def viewport_of(text: str | None) -> Viewport:
    """Return the viewport of ``viewport=vw,vh,sx,sy,sw,sh``, PS3.18 8.3.5.1.3.

    All but the first two numbers may be empty or left out: the region then begins at 0 and ends at the edge of the
    frame. A negative width or height of the region flips it.
    """
    if text is None:
        return None, (False, False), None
    wrong = HTTPException(
        400,
        f"viewport is vw,vh,sx,sy,sw,sh: vw and vh from 1 to {MAX_SIDE}; then numbers that may be empty, sx and sy not "
        "negative, sw and sh not 0 (PS3.18 8.3.5.1.3)",
    )
    parts = text.split(",")
    try:
        width, height = (int(part) for part in parts[:2])
        left, top, crop_width, crop_height = (
            int(float(part)) if part else None for part in (*parts[2:], *[""] * (6 - len(parts)))
        )
    except (ValueError, OverflowError):
        raise wrong from None
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE) or (left or 0) < 0 or (top or 0) < 0:
        raise wrong
    if 0 in (crop_width, crop_height):
        raise wrong
    flip = (crop_width or 1) < 0, (crop_height or 1) < 0
    crop = left or 0, top or 0, crop_width and abs(crop_width), crop_height and abs(crop_height)
    return (crop if crop != (0, 0, None, None) else None), flip, (width, height)
