"""Frames, pixel data and bulk data of instances, as stored or decompressed (PS3.18 10.4.1.1.5 and 10.4.1.1.6)."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import quote

from fastapi import HTTPException, Response

from node.children.decoder import Decoder, DecoderBusy, NotDecoded
from node.dicom.encoding import DEFLATED_LITTLE_ENDIAN
from node.dicom.json_model import PIXEL_TAGS
from node.dicom.seen import DOCUMENT_TYPES
from node.errors import counted
from node.extensions.dicomweb.bursts import BurstRoute, begin_burst, decoded, kept_bytes
from node.extensions.dicomweb.decoding import (
    ENCODERS,
    compressed_frame,
    encoder_of,
    frame,
    pixel_location,
    stored_frame,
    value_file,
    value_paths,
)
from node.extensions.dicomweb.media_types import (
    FRAME_TYPES,
    MULTIPART,
    OCTETS,
    UNCOMPRESSED,
    FrameForm,
    NotAcceptable,
    accepted,
    frame_forms,
)
from node.extensions.dicomweb.pixel_element import FrameNotFound, PixelElement, nearby_pixels
from node.extensions.dicomweb.resources import (
    READ,
    Multipart,
    Part,
    Pieces,
    SelectedInstances,
    derived_file,
    dicomweb_router,
    instance_url,
    length_of,
    one_instance,
    pieces_of,
    requested,
    respond,
    respond_with_file,
    respond_with_range,
    skipped,
)
from node.index.rows.files import StoredInstance
from node.web.access import MEMBERS, CurrentCall
from node.web.files import Damaged, Unavailable, decoded_file, leaving_file, whole_file

router = dicomweb_router(MEMBERS)

MAX_BYTES_IN_MEMORY = 16 << 20
"""Longest frame, and longest compressed pixel data, held in memory; longer ones go through a file."""

AT_ONCE_BYTES = 1 << 20
"""Longest frame sent from memory in one piece."""

MAX_FRAGMENTS = 1000
"""Most fragments that are visited in this process; a million take seconds."""

FEW_FRAMES = 1000

MAX_FRAMES = 10_000
"""Maximum frames per request; a longer list does not fit into a URL."""


ENCAPSULATED_DOCUMENT = "00420011"
"""Path of Encapsulated Document in the metadata."""

COMPRESSED = " and ".join(FRAME_TYPES[syntax] for syntax in ENCODERS) or "none"
"""Media types in which frames are compressed here, for messages."""


def retrieve_frames(call: CurrentCall, frames: str) -> Response:
    """Frames of an instance, in the requested order."""
    target = requested(call)
    numbers = frame_numbers(frames)
    instance = one_instance(target)
    element = pixel_data(target, instance)
    if max(numbers) > element.frames:
        raise HTTPException(
            404, f"frame {max(numbers)} does not exist: the instance has {counted(element.frames, 'frame')}"
        )
    target.audit_access("frames")
    if len(numbers) == 1:
        begin_burst(call, "frames", partial(_short_answer, numbers[0]))
    return answer_frames(target, instance, element, numbers, f"frames {frames}")


router.add_api_route(
    "/studies/{study}/series/{series}/instances/{instance}/frames/{frames}",
    retrieve_frames,
    methods=READ,
    route_class_override=BurstRoute,
)


class FramePieces(NamedTuple):
    """One frame in pieces, and its length in bytes."""

    length: int
    pieces: Iterator[bytes]


def _short_answer(
    number: int, target: SelectedInstances, instance: StoredInstance, file: Callable[[], memoryview], flags: int
) -> Response | None:
    """Return a frame that is in the file, or is compressed; see `node.extensions.dicomweb.bursts`."""
    content = file()  # before anything is read of it that is remembered
    try:
        element = _nearby(target.node.archive.path(instance.key))
    except OSError:
        raise
    except Exception as error:  # as in `find_pixel_data`
        raise Damaged("the data set of the instance cannot be read") from error
    if element is None or number > element.frames or element.frames > FEW_FRAMES:
        return None
    form = forms_of_frames(target, element, instance)[0]
    data: memoryview | bytes | None
    if form.is_compressed_now:
        syntax = form.transfer_syntax
        make = partial(_compressed, target, instance, element, number, syntax)
        data = kept_bytes(target, instance, _compressed_name(number, syntax), flags, make)
    elif element.encapsulated and _has_many_fragments(element):
        data = None
    else:
        data = element.frame_within(content, number, as_stored=form.as_stored)
    if data is None:
        return None
    begun = number, FramePieces(len(data), iter((bytes(data),)))
    return _answer_begun(target, instance, form, begun, None, f"frames {number}")


def frame_numbers(text: str) -> list[int]:
    """Return the frame numbers in a URL, which start at 1 and are separated by commas."""
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text) or text.count(",") >= MAX_FRAMES:
        raise HTTPException(400, "frames must be positive numbers separated by commas (PS3.18 10.4.1.1.6)")
    numbers = [int(number) for number in text.split(",")]
    if 0 in numbers:
        raise HTTPException(400, "frame numbers start at 1 (PS3.18 10.4.1.1.6)")
    return numbers


def pixel_data(target: SelectedInstances, instance: StoredInstance) -> PixelElement:
    """Return the pixel data element of an instance; 404 if it has none."""
    element = find_pixel_data(target, instance)
    if element is None:
        raise HTTPException(404, "the instance has no pixel data")
    return element


def find_pixel_data(target: SelectedInstances, instance: StoredInstance) -> PixelElement | None:
    """Return the pixel data element of an instance, or None if it has none."""
    try:
        located = _of_many_frames if (instance.number_of_frames or 1) > FEW_FRAMES else _of_few_frames
        return located(whole_file(target.node, instance), target.node.decoder)
    except OSError as error:
        raise Unavailable(f"a file of the archive cannot be read: {error.strerror}") from error
    except (Damaged, Unavailable, DecoderBusy):
        raise
    except Exception as error:  # pydicom raises anything on damaged files
        raise Damaged("the data set of the instance cannot be read") from error


def _located(path: Path, decoder: Decoder) -> PixelElement | None:
    """Return the pixel data element of a file; a child process looks for it if it is not easy to find."""
    element = nearby_pixels(path)
    if element is not None:
        return element
    located = decoder.run(pixel_location, path)
    return PixelElement.from_json(path, located) if located else None


# Viewers request frames singly, and long headers take seconds. The location of many frames may be a long table.
_of_few_frames = lru_cache(maxsize=4096)(_located)
_of_many_frames = lru_cache(maxsize=128)(_located)
_nearby = lru_cache(maxsize=4096)(nearby_pixels)


@lru_cache(maxsize=128)
def _has_many_fragments(element: PixelElement) -> bool:
    return element.has_more_fragments_than(MAX_FRAGMENTS)


def accept_of(target: SelectedInstances) -> str:
    """Return the accepted representations of the request, for its entity tag."""
    return f"{target.request.query_params.get('accept', '')} {target.request.headers.get('accept', '')}"


def forms_of_frames(target: SelectedInstances, element: PixelElement, instance: StoredInstance) -> list[FrameForm]:
    """Return the forms in which the frames of an instance are accepted, the best first; 406 if there is none."""
    forms = frame_forms(accepted(target.request), instance.transfer_syntax_uid, element.encapsulated)
    if not forms:
        raise NotAcceptable(
            f'{MULTIPART} or a single part of the type "{OCTETS}", as stored (transfer-syntax=*) or uncompressed; '
            f"compressed without loss: {COMPRESSED}"
        )
    return forms


def answer_frames(
    target: SelectedInstances, instance: StoredInstance, element: PixelElement, numbers: Sequence[int], what: str
) -> Response:
    """Respond with frames in the accepted form, each in its own part unless there is one frame."""
    forms = [one for one in forms_of_frames(target, element, instance) if one.multipart or len(numbers) == 1]
    if not forms:
        raise NotAcceptable(f"{MULTIPART} for several frames")
    try:  # before the response starts, so that an error can set the status
        form, first = begun_frame(target, instance, element, numbers[0], forms)
    except FrameNotFound as error:
        raise HTTPException(404, str(error)) from error
    except NotDecoded as error:
        raise NotAcceptable("the frames as stored (transfer-syntax=*)", str(error)) from error
    rest = frame_parts(target, instance, element, form, numbers[1:]) if len(numbers) > 1 else None
    return _answer_begun(target, instance, form, (numbers[0], first), rest, what)


def _answer_begun(
    target: SelectedInstances,
    instance: StoredInstance,
    form: FrameForm,
    begun: tuple[int, FramePieces],
    rest: Iterator[Part] | None,
    what: str,
) -> Response:
    """Respond with a frame that was read, by its number, and with the parts that follow; None: there are none."""
    number, first = begun
    etag = target.etag(f"{what} {accept_of(target)} {form} {encoder_of(form.transfer_syntax)}")
    if form.multipart:
        message = Multipart(form.media_type)
        content = message.write(chain([_part(target, instance, number, form, first)], rest or ()))
        is_short = rest is None and first.length <= AT_ONCE_BYTES
        return respond(target, b"".join(content) if is_short else content, message.content_type, etag)
    pieces = b"".join(first.pieces) if first.length <= AT_ONCE_BYTES else first.pieces
    if form.as_stored or form.is_compressed_now:
        return respond_with_range(target, partial(skipped, pieces), first.length, form.content_type, etag)
    return respond(target, pieces, form.content_type, etag, first.length)


def begun_frame(
    target: SelectedInstances, instance: StoredInstance, element: PixelElement, number: int, forms: Sequence[FrameForm]
) -> tuple[FrameForm, FramePieces]:
    """Return a frame in the first of these forms that it can have: not every frame can be compressed.

    Raises as `read_frame` does for the last one.
    """
    *others, last = forms
    for form in others:
        try:
            return form, read_frame(target, instance, element, number, form)
        except NotDecoded:
            continue
    return last, read_frame(target, instance, element, number, last)


def frame_parts(
    target: SelectedInstances, instance: StoredInstance, element: PixelElement, form: FrameForm, numbers: Iterable[int]
) -> Iterator[Part]:
    """Yield each frame of an instance in its own part."""
    for number in numbers:
        yield _part(target, instance, number, form, read_frame(target, instance, element, number, form))


def _part(target: SelectedInstances, instance: StoredInstance, number: int, form: FrameForm, read: FramePieces) -> Part:
    return Part(form.content_type, read.pieces, f"{instance_url(target.base, instance)}/frames/{number}")


def read_frame(
    target: SelectedInstances, instance: StoredInstance, element: PixelElement, number: int, form: FrameForm
) -> FramePieces:
    """Return one frame; a long frame is streamed from a file. Raises FrameNotFound and NotDecoded."""
    decoder = target.node.decoder
    try:
        if form.is_compressed_now:
            return _from_file(_compressed(target, instance, element, number, form.transfer_syntax))
        if not element.encapsulated:
            return FramePieces(element.frame_bytes, _read(element.native_frame(number)))
        if not form.as_stored:
            if element.frame_bytes > MAX_BYTES_IN_MEMORY:
                return _from_file(decoded_file(target.node, frame, element.path, number))
            return _in_memory(decoded(target, instance, frame, element.path, number))
        if element.length > MAX_BYTES_IN_MEMORY:
            return _from_file(decoded_file(target.node, stored_frame, element.path, number))
        if _has_many_fragments(element):
            return _in_memory(decoder.run(stored_frame, element.path, number))
        return _in_memory(element.encapsulated_frame(number))
    except OSError as error:
        raise Unavailable(f"a file of the archive cannot be read: {error.strerror}") from error


def _compressed(
    target: SelectedInstances, instance: StoredInstance, element: PixelElement, number: int, syntax: str
) -> IO[bytes]:
    def write(into: IO[bytes]) -> None:
        if element.frame_bytes > MAX_BYTES_IN_MEMORY:
            target.node.decoder.run(compressed_frame, element.path, number, syntax, into=Path(into.name))
        else:
            into.write(decoded(target, instance, compressed_frame, element.path, number, syntax))

    return derived_file(target.node, instance, _compressed_name(number, syntax), write)


def _compressed_name(number: int, syntax: str) -> str:
    return f"{number}-{syntax}"


def _in_memory(data: bytes) -> FramePieces:
    return FramePieces(len(data), iter((data,)))


def _from_file(file: IO[bytes]) -> FramePieces:
    if length_of(file) > MAX_BYTES_IN_MEMORY:
        return FramePieces(length_of(file), pieces_of(file))
    with file:
        return _in_memory(file.read())


def _read(pieces: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from pieces
    except OSError as error:
        raise Unavailable(f"a file of the archive cannot be read: {error.strerror}") from error


_PIXEL_PATHS = frozenset(f"{tag:08X}" for tag in PIXEL_TAGS)


@router.api_route("/studies/{study}/pixeldata", methods=READ)
@router.api_route("/studies/{study}/series/{series}/pixeldata", methods=READ)
@router.api_route("/studies/{study}/series/{series}/instances/{instance}/pixeldata", methods=READ)
def retrieve_pixel_data(call: CurrentCall) -> Response:
    """The frames of all instances, each in its own part.

    206 if the frames of some instances are omitted because they are not available in an accepted form.
    """
    target = requested(call)
    given = _with_frames_in_accepted_form(target)
    parts = chain.from_iterable(_pixel_parts(target, instance) for instance in given)
    return _answer(target, parts, "pixel data", is_whole=len(given) == len(target.instances))


@router.api_route("/studies/{study}/bulkdata", methods=READ)
@router.api_route("/studies/{study}/series/{series}/bulkdata", methods=READ)
@router.api_route("/studies/{study}/series/{series}/instances/{instance}/bulkdata", methods=READ)
def retrieve_all_bulk_data(call: CurrentCall) -> Response:
    """Every long value of the instances that the metadata omit, and their frames, each in its own part.

    206 if the frames of some instances are omitted because they are not available in an accepted form.
    """
    return answer_bulk_data(requested(call))


def answer_bulk_data(target: SelectedInstances) -> Response:
    """Respond with the long values of instances that the metadata omit, and their frames, each in its own part."""
    if not any(media_range.covers(OCTETS) for media_range in accepted(target.request)):
        raise NotAcceptable(f'{MULTIPART}; type="{OCTETS}"')
    given = set(_with_frames_in_accepted_form(target))
    parts = chain.from_iterable(_bulk_parts(target, one, with_pixels=one in given) for one in target.instances)
    return _answer(target, parts, "bulk data", is_whole=len(given) == len(target.instances))


@router.api_route("/studies/{study}/series/{series}/instances/{instance}/bulkdata/{path}", methods=READ)
def retrieve_bulk_data(call: CurrentCall, path: str) -> Response:
    """One long value, by its path in the metadata; for pixel data, all frames. A single part may be a byte range."""
    target = requested(call)
    instance = one_instance(target)
    what = f"bulkdata {path}"
    etag = target.etag(f"{what} {accept_of(target)}")
    if path.upper() in _PIXEL_PATHS:
        response = _answer_pixel_data(target, instance, what)
        target.audit_access("bulk data")
        return response
    media_types = [OCTETS]
    if path == ENCAPSULATED_DOCUMENT and instance.sop_class_uid in DOCUMENT_TYPES:
        media_types.append(DOCUMENT_TYPES[instance.sop_class_uid])
    wanted = ((one, name) for one in accepted(target.request) for name in media_types if one.covers(name))
    media_range, media_type = next(wanted, (None, ""))
    if media_range is None:
        raise NotAcceptable(f"{' and '.join(media_types)}, by itself or in {MULTIPART}")
    try:
        with leaving_file(target.node, instance) as leaving:
            file = decoded_file(target.node, value_file, leaving, path)
    except NotDecoded as error:
        raise HTTPException(404, str(error)) from error
    target.audit_access("bulk data")
    if not media_range.covers_parts(media_type):
        return respond_with_file(target, file, media_type, etag)
    message = Multipart(media_type)
    location = f"{instance_url(target.base, instance)}/bulkdata/{quote(path)}"
    return respond(target, message.write([Part(media_type, pieces_of(file), location)]), message.content_type, etag)


def _answer_pixel_data(target: SelectedInstances, instance: StoredInstance, what: str) -> Response:
    """Answer pixel data as bulk data: uncompressed by themselves, otherwise each frame in its own part."""
    element = pixel_data(target, instance)
    is_one = element.frames == 1
    forms = forms_of_frames(target, element, instance)
    form = next((one for one in forms if one.multipart or is_one or not one.is_compressed_now), None)
    if form is None:
        raise NotAcceptable(f"{MULTIPART} for several frames")
    numbers = range(1, element.frames + 1)
    if form.multipart or (is_one and (element.encapsulated or form.is_compressed_now)):
        return answer_frames(target, instance, element, numbers, what)
    etag = target.etag(f"{what} {accept_of(target)}")
    if element.encapsulated:
        frames = (read_frame(target, instance, element, number, form).pieces for number in numbers)
        return respond(target, chain.from_iterable(frames), form.content_type, etag)
    try:
        read_frame(target, instance, element, element.frames, form)  # the pixel data are long enough
    except FrameNotFound as error:
        raise HTTPException(404, str(error)) from error

    def content(start: int) -> Pieces:
        first, skip = divmod(start, element.frame_bytes)
        numbers = range(first + 1, element.frames + 1)
        frames = (read_frame(target, instance, element, number, form).pieces for number in numbers)
        return skipped(chain.from_iterable(frames), skip)

    return respond_with_range(target, content, element.frames * element.frame_bytes, form.content_type, etag)


def _with_frames_in_accepted_form(target: SelectedInstances) -> list[StoredInstance]:
    """Return the instances whose frames can be sent; 406 if there are none. Instances without frames count as such."""
    ranges = accepted(target.request)
    given = []
    for instance in target.instances:
        syntax = instance.transfer_syntax_uid
        forms = frame_forms(ranges, syntax, encapsulated=syntax not in (*UNCOMPRESSED, DEFLATED_LITTLE_ENDIAN))
        if any(form.multipart for form in forms):
            given.append(instance)
    if not given:
        raise NotAcceptable(f"{MULTIPART}, as stored (transfer-syntax=*) or uncompressed")
    return given


def _pixel_parts(target: SelectedInstances, instance: StoredInstance) -> Iterator[Part]:
    element = find_pixel_data(target, instance)
    if element is not None:
        forms = [one for one in forms_of_frames(target, element, instance) if one.multipart]
        form, first = begun_frame(target, instance, element, 1, forms)
        yield _part(target, instance, 1, form, first)
        yield from frame_parts(target, instance, element, form, range(2, element.frames + 1))


def _bulk_parts(target: SelectedInstances, instance: StoredInstance, *, with_pixels: bool) -> Iterator[Part]:
    """Yield the bulk data of an instance; each value has the URI that is in the metadata, each frame its own."""
    with leaving_file(target.node, instance) as path:
        for place in _places(target, instance, path):
            if place not in _PIXEL_PATHS:
                location = f"{instance_url(target.base, instance)}/bulkdata/{quote(place)}"
                yield Part(OCTETS, pieces_of(decoded_file(target.node, value_file, path, place)), location)
            elif with_pixels:
                yield from _pixel_parts(target, instance)


def _places(target: SelectedInstances, instance: StoredInstance, path: Path) -> list[str]:
    try:
        found = target.node.decoder.run(value_paths, path, instance.transfer_syntax_uid)
    except (NotDecoded, OSError) as error:
        raise Damaged("the data set of the instance cannot be read") from error
    return found.decode("ascii", "replace").splitlines()


def _answer(target: SelectedInstances, parts: Iterator[Part], detail: str, *, is_whole: bool) -> Response:
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
