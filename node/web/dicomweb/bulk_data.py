"""Bulk data and pixel data of instances (PS3.18 10.4.1.1.5 and 10.4.1.1.6)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from urllib.parse import quote

from fastapi import HTTPException, Response

from node.children.decoder import NotDecoded
from node.children.decoding import value_file, value_paths
from node.dicom.encoding import DEFLATED_LITTLE_ENDIAN
from node.dicom.json_model import PIXEL_TAGS
from node.files.bounded import TooLong
from node.files.metadata import bulk_data_paths
from node.files.pixel_element import FrameNotFound, PixelElement
from node.index.search.selection import StoredInstance
from node.web.dicomweb.frames import (
    accept_of,
    answer_frames,
    find_pixel_data,
    form_of_frames,
    frame_parts,
    pixel_data,
    read_frame,
)
from node.web.dicomweb.media_types import (
    MULTIPART,
    OCTETS,
    UNCOMPRESSED,
    FrameForm,
    NotAcceptable,
    accepted,
    frame_form,
)
from node.web.dicomweb.multipart import Multipart, Part
from node.web.dicomweb.resources import (
    READ,
    Instances,
    RequestedInstances,
    Target,
    decoded_file,
    dicomweb_router,
    instance_url,
    length_of,
    one_instance,
    pieces_of,
    respond,
)
from node.web.dicomweb.wado import MAX_HEADER_BYTES
from node.web.files import Damaged, whole_file
from node.web.headers import has_etag

router = dicomweb_router()

_PIXEL_PATHS = frozenset(f"{tag:08X}" for tag in PIXEL_TAGS)


@router.api_route("/studies/{study}/pixeldata", methods=READ)
@router.api_route("/studies/{study}/series/{series}/pixeldata", methods=READ)
@router.api_route("/studies/{study}/series/{series}/instances/{instance}/pixeldata", methods=READ)
def retrieve_pixel_data(target: RequestedInstances) -> Response:
    """The frames of all instances, each in its own part.

    206 if the frames of some instances are omitted because they are not available in an accepted form.
    """
    given = _with_frames_in_accepted_form(target)
    parts = chain.from_iterable(_pixel_parts(target, instance) for instance in given)
    return _answer(target, parts, "pixel data", is_whole=len(given) == len(target.instances))


@router.api_route("/studies/{study}/bulkdata", methods=READ)
@router.api_route("/studies/{study}/series/{series}/bulkdata", methods=READ)
@router.api_route("/studies/{study}/series/{series}/instances/{instance}/bulkdata", methods=READ)
def retrieve_all_bulk_data(target: RequestedInstances) -> Response:
    """Every long value of the instances that the metadata omit, and their frames, each in its own part.

    206 if the frames of some instances are omitted because they are not available in an accepted form.
    """
    if not any(media_range.covers(OCTETS) for media_range in accepted(target.request)):
        raise NotAcceptable(f'{MULTIPART}; type="{OCTETS}"')
    given = set(_with_frames_in_accepted_form(target))
    parts = chain.from_iterable(_bulk_parts(target, one, with_pixels=one in given) for one in target.instances)
    return _answer(target, parts, "bulk data", is_whole=len(given) == len(target.instances))


@router.api_route("/studies/{study}/series/{series}/instances/{instance}/bulkdata/{path}", methods=READ)
def retrieve_bulk_data(target: RequestedInstances, path: str) -> Response:
    """One long value, by its path in the metadata; for pixel data, all frames. A single part may be a byte range."""
    instance = one_instance(target)
    etag = target.etag(f"bulkdata {path} {accept_of(target)}")
    if path.upper() in _PIXEL_PATHS:
        response = _answer_pixel_data(target, instance, etag)
        target.audit_access("bulk data")
        return response
    ranges = [media_range for media_range in accepted(target.request) if media_range.covers(OCTETS)]
    if not ranges:
        raise NotAcceptable(f"{OCTETS}, by itself or in {MULTIPART}")
    try:
        file = decoded_file(target.node, value_file, whole_file(target.node, instance), path)
    except NotDecoded as error:
        raise HTTPException(404, str(error)) from error
    target.audit_access("bulk data")
    if not (ranges[0].multipart or ranges[0].type == "*/*"):

        def content(start: int) -> Iterator[bytes]:
            file.seek(start)
            return pieces_of(file)

        return respond_with_range(target, content, length_of(file), OCTETS, etag)
    message = Multipart(OCTETS)
    location = f"{instance_url(target.base, instance)}/bulkdata/{quote(path)}"
    return respond(target, message.write([Part(OCTETS, pieces_of(file), location)]), message.content_type, etag)


def _answer_pixel_data(target: Target, instance: StoredInstance, etag: str) -> Response:
    """Answer pixel data as bulk data: uncompressed by themselves, otherwise each frame in its own part."""
    element = pixel_data(target, instance)
    form = form_of_frames(target, element, instance)
    numbers = range(1, element.frames + 1)
    if element.encapsulated or form.multipart:
        if form.multipart or element.frames == 1:
            return answer_frames(target, instance, element, numbers, etag)
        frames = (read_frame(target, element, number, form).pieces for number in numbers)
        return respond(target, chain.from_iterable(frames), form.content_type, etag)
    try:
        read_frame(target, element, element.frames, form)  # the pixel data are long enough
    except FrameNotFound as error:
        raise HTTPException(404, str(error)) from error

    def content(start: int) -> Iterator[bytes]:
        first, skip = divmod(start, element.frame_bytes)
        frames = (read_frame(target, element, number, form).pieces for number in range(first + 1, element.frames + 1))
        return skipped(chain.from_iterable(frames), skip)

    return respond_with_range(target, content, element.frames * element.frame_bytes, form.content_type, etag)


def _with_frames_in_accepted_form(target: Target) -> list[StoredInstance]:
    """Return the instances whose frames can be sent; 406 if there are none. Instances without frames count as such."""
    ranges = accepted(target.request)
    given = []
    for instance in target.instances:
        syntax = instance.transfer_syntax_uid
        form = frame_form(ranges, syntax, encapsulated=syntax not in UNCOMPRESSED)
        if syntax != DEFLATED_LITTLE_ENDIAN and form is not None and form.multipart:
            given.append(instance)
    if not given:
        raise NotAcceptable(f"{MULTIPART}, as stored (transfer-syntax=*) or uncompressed")
    return given


def _pixel_parts(target: Target, instance: StoredInstance) -> Iterator[Part]:
    element = find_pixel_data(target, instance)
    if element is not None:
        yield from _frames(target, instance, element, form_of_frames(target, element, instance))


def _frames(target: Target, instance: StoredInstance, element: PixelElement, form: FrameForm) -> Iterator[Part]:
    return frame_parts(target, instance, element, form, range(1, element.frames + 1))


def _bulk_parts(target: Target, instance: StoredInstance, *, with_pixels: bool) -> Iterator[Part]:
    """Yield the bulk data of an instance; each value has the URI that is in the metadata, each frame its own."""
    path, node = whole_file(target.node, instance), target.node
    for place in _places(target, instance, path):
        if place not in _PIXEL_PATHS:
            location = f"{instance_url(target.base, instance)}/bulkdata/{quote(place)}"
            yield Part(OCTETS, pieces_of(decoded_file(node, value_file, path, place)), location)
        elif with_pixels:
            yield from _pixel_parts(target, instance)


def _places(target: Target, instance: StoredInstance, path: Path) -> list[str]:
    try:
        return bulk_data_paths(path, instance.transfer_syntax_uid, MAX_HEADER_BYTES)
    except TooLong:
        found = target.node.decoder.run(value_paths, path, instance.transfer_syntax_uid)
        return found.decode("ascii", "replace").splitlines()
    except Exception as error:  # pydicom raises anything on damaged files
        raise Damaged("the data set of the instance cannot be read") from error


def _answer(target: Target, parts: Iterator[Part], detail: str, *, is_whole: bool) -> Response:
    """Respond with parts of any media types; begin the first at once, so that an error can set the status."""
    try:
        first = next(parts, None)
    except FrameNotFound as error:
        raise HTTPException(404, str(error)) from error
    except NotDecoded as error:
        raise NotAcceptable("the frames as stored (transfer-syntax=*)", str(error)) from error
    if first is None:
        raise HTTPException(404, f"the instances have no {detail}")
    target.audit_access(detail)
    message = Multipart(first.content_type.partition(";")[0])
    etag = target.etag(f"{detail} {accept_of(target)} {target.base}")
    status = 200 if is_whole and not target.unavailable else 206
    return respond(target, message.write(chain((first,), parts)), message.content_type, etag, None, status)


def respond_with_range(
    target: Target, content: Callable[[int], Iterator[bytes]], length: int, content_type: str, etag: str
) -> Response:
    """Respond with the whole representation, or with the one byte range that the request asks for.

    Several ranges are answered with the whole, as RFC 9110 14.2 allows; so is ``If-Range`` with another entity tag.
    `content` returns the representation from a byte to its end. `etag` is that of `Target.etag`; it is sent as a strong
    one, since the bytes are the same each time.
    """
    etag = etag.removeprefix("W/")
    request = target.request
    wanted = None
    if (
        request.method == "GET"
        and request.headers.get("if-range", etag) == etag
        and not has_etag(request.headers, etag)
    ):
        wanted = byte_range(request.headers.get("range", ""), length)
    if wanted is None:
        response = respond(target, content(0), content_type, etag, length)
        response.headers["Accept-Ranges"] = "bytes"
        return response
    start, end = wanted
    headers = {
        "ETag": etag,
        "Vary": "Accept",
        "Content-Type": content_type,
        "Content-Range": f"bytes {start}-{end - 1}/{length}",
        "Content-Length": str(end - start),
        "Accept-Ranges": "bytes",
    }
    return Instances(_cut(content(start), end - start), 206, headers)


def byte_range(header: str, length: int) -> tuple[int, int] | None:
    """Return start and end of the requested bytes; None for the whole, 416 if there is no such byte."""
    found = re.fullmatch(r"bytes=\s*(\d{0,19})-(\d{0,19})\s*", header)
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        start, end = max(length - int(found[2]), 0), length
    else:
        start, end = int(found[1]), min(int(found[2]) + 1, length) if found[2] else length
        if found[2] and int(found[2]) < start:
            return None
    if start >= end:
        raise HTTPException(416, f"the representation has {length} bytes", {"Content-Range": f"bytes */{length}"})
    return start, end


def skipped(pieces: Iterator[bytes], count: int) -> Iterator[bytes]:
    """Yield pieces without their first `count` bytes."""
    for piece in pieces:
        if count < len(piece):
            yield piece[count:]
        count = max(count - len(piece), 0)


def _cut(pieces: Iterator[bytes], left: int) -> Iterator[bytes]:
    """Yield the first `left` bytes of pieces."""
    for piece in pieces:
        yield piece[:left]
        left -= min(len(piece), left)
        if not left:
            break
    close = getattr(pieces, "close", None)
    if close is not None:
        close()
