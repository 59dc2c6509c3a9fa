"""Frames of an instance, as stored or decompressed (PS3.18 10.4.1.1.6)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple

from fastapi import HTTPException, Response

from node.children.decoder import Decoder, DecoderBusy, NotDecoded
from node.children.decoding import frame, frame_file, pixel_location, stored_frame, stored_frame_file
from node.dicom.encoding import DEFLATED_LITTLE_ENDIAN
from node.files.bounded import TooLong
from node.files.pixel_element import FrameNotFound, PixelElement, pixel_element
from node.index.search.selection import StoredInstance
from node.web.dicomweb.media_types import MULTIPART, OCTETS, FrameForm, NotAcceptable, accepted, frame_form
from node.web.dicomweb.multipart import Multipart, Part
from node.web.dicomweb.resources import (
    READ,
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
from node.web.files import Damaged, Unavailable, whole_file

router = dicomweb_router()

MAX_HEADER_BYTES = 1 << 20
"""Longest header read in this process; longer ones are read in a child process."""

MAX_BYTES_IN_MEMORY = 16 << 20
"""Longest frame, and longest compressed pixel data, held in memory; longer ones go through a file."""

MAX_FRAGMENTS = 1000
"""Most fragments that are visited in this process; a million take seconds."""

MAX_FRAMES = 10_000
"""Maximum frames per request; a longer list does not fit into a URL."""


@router.api_route("/studies/{study}/series/{series}/instances/{instance}/frames/{frames}", methods=READ)
def retrieve_frames(target: RequestedInstances, frames: str) -> Response:
    """Frames of an instance, in the requested order."""
    numbers = frame_numbers(frames)
    instance = one_instance(target)
    element = pixel_data(target, instance)
    if max(numbers) > element.frames:
        raise HTTPException(404, f"frame {max(numbers)} does not exist: the instance has {element.frames} frames")
    target.audit_access("frames")
    return answer_frames(target, instance, element, numbers, target.etag(f"frames {frames} {accept_of(target)}"))


def frame_numbers(text: str) -> list[int]:
    """Return the frame numbers in a URL, which start at 1 and are separated by commas."""
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text) or text.count(",") >= MAX_FRAMES:
        raise HTTPException(400, "frames must be positive numbers separated by commas (PS3.18 10.4.1.1.6)")
    numbers = [int(number) for number in text.split(",")]
    if 0 in numbers:
        raise HTTPException(400, "frame numbers start at 1 (PS3.18 10.4.1.1.6)")
    return numbers


def pixel_data(target: Target, instance: StoredInstance) -> PixelElement:
    """Return the pixel data element of an instance; 404 if it has none."""
    element = find_pixel_data(target, instance)
    if element is None:
        is_deflated = instance.transfer_syntax_uid == DEFLATED_LITTLE_ENDIAN
        why = "frames of a deflated data set cannot be located: retrieve the instance" if is_deflated else ""
        raise HTTPException(404, why or "the instance has no pixel data")
    return element


def find_pixel_data(target: Target, instance: StoredInstance) -> PixelElement | None:
    """Return the pixel data element of an instance, or None if it has none or its data set is deflated."""
    try:
        if instance.transfer_syntax_uid == DEFLATED_LITTLE_ENDIAN:  # its frames cannot be located
            return None
        return _element(whole_file(target.node, instance), target.node.decoder)
    except OSError as error:
        raise Unavailable(f"a file of the archive cannot be read: {error.strerror}") from error
    except (Damaged, Unavailable, DecoderBusy):
        raise
    except Exception as error:  # pydicom raises anything on damaged files
        raise Damaged("the data set of the instance cannot be read") from error


@lru_cache(maxsize=128)
def _element(path: Path, decoder: Decoder) -> PixelElement | None:
    """Return the pixel data element of a file, cached: viewers request frames singly, and long headers take seconds."""
    try:
        return pixel_element(path, MAX_HEADER_BYTES)
    except TooLong:
        located = decoder.run(pixel_location, path)
        return PixelElement.from_json(path, located) if located else None


@lru_cache(maxsize=128)
def _has_many_fragments(element: PixelElement) -> bool:
    return element.has_more_fragments_than(MAX_FRAGMENTS)


def accept_of(target: Target) -> str:
    """Return the accepted representations of the request, for its entity tag."""
    return f"{target.request.query_params.get('accept', '')} {target.request.headers.get('accept', '')}"


def form_of_frames(target: Target, element: PixelElement, instance: StoredInstance) -> FrameForm:
    """Return the form in which the frames of an instance are accepted; 406 if there is none."""
    form = frame_form(accepted(target.request), instance.transfer_syntax_uid, element.encapsulated)
    if form is None:
        raise NotAcceptable(
            f'{MULTIPART} or a single part of the type "{OCTETS}", as stored (transfer-syntax=*) or uncompressed'
        )
    return form


def answer_frames(
    target: Target, instance: StoredInstance, element: PixelElement, numbers: Sequence[int], etag: str
) -> Response:
    """Respond with frames in the accepted form, each in its own part unless there is one frame."""
    form = form_of_frames(target, element, instance)
    if not form.multipart and len(numbers) > 1:
        raise NotAcceptable(f"{MULTIPART} for several frames")
    try:  # before the response starts, so that an error can set the status
        first = read_frame(target, element, numbers[0], form)
    except FrameNotFound as error:
        raise HTTPException(404, str(error)) from error
    except NotDecoded as error:
        raise NotAcceptable("the frames as stored (transfer-syntax=*)", str(error)) from error
    if not form.multipart:
        return respond(target, first.pieces, form.content_type, etag, first.length)
    message = Multipart(form.media_type)
    url = instance_url(target.base, instance)
    parts = chain(
        [Part(form.content_type, first.pieces, f"{url}/frames/{numbers[0]}")],
        frame_parts(target, instance, element, form, numbers[1:]),
    )
    return respond(target, message.write(parts), message.content_type, etag)


def frame_parts(
    target: Target, instance: StoredInstance, element: PixelElement, form: FrameForm, numbers: Iterable[int]
) -> Iterator[Part]:
    """Yield each frame of an instance in its own part."""
    url = instance_url(target.base, instance)
    for number in numbers:
        yield Part(form.content_type, read_frame(target, element, number, form).pieces, f"{url}/frames/{number}")


class Frame(NamedTuple):
    """One frame in pieces, and its length in bytes."""

    length: int
    pieces: Iterator[bytes]


def read_frame(target: Target, element: PixelElement, number: int, form: FrameForm) -> Frame:
    """Return one frame; a long frame is streamed from a file. Raises FrameNotFound and NotDecoded."""
    decoder = target.node.decoder
    try:
        if not element.encapsulated:
            return Frame(element.frame_bytes, _read(element.native_frame(number)))
        if not form.as_stored:
            if element.frame_bytes > MAX_BYTES_IN_MEMORY:
                return _from_file(decoded_file(target.node, frame_file, element.path, number))
            return _in_memory(decoder.run(frame, element.path, number))
        if element.length > MAX_BYTES_IN_MEMORY:
            return _from_file(decoded_file(target.node, stored_frame_file, element.path, number))
        if _has_many_fragments(element):
            return _in_memory(decoder.run(stored_frame, element.path, number))
        return _in_memory(element.encapsulated_frame(number))
    except OSError as error:
        raise Unavailable(f"a file of the archive cannot be read: {error.strerror}") from error


def _in_memory(data: bytes) -> Frame:
    return Frame(len(data), iter((data,)))


def _from_file(file: IO[bytes]) -> Frame:
    return Frame(length_of(file), pieces_of(file))


def _read(pieces: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from pieces
    except OSError as error:
        raise Unavailable(f"a file of the archive cannot be read: {error.strerror}") from error
