"""WADO-RS: whole instances (PS3.18 10.4.1.1.1), as stored, transcoded or in a zip file, and metadata (10.4.1.1.2)."""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from itertools import chain
from pathlib import Path
from typing import IO

import structlog
from fastapi import HTTPException, Response
from starlette.datastructures import QueryParams

from node.archive.intact import data_set_head, data_set_offset
from node.children.decoder import NotDecoded
from node.children.decoding import transcode
from node.children.forwarding import CopyChange, forward
from node.dicom.encoding import EXPLICIT_LITTLE_ENDIAN, file_head, is_as_announced
from node.dicom.json_model import Json
from node.extensions.dicomweb.bulk_data import answer_bulk_data
from node.extensions.dicomweb.decoding import PictureOrder, metadata_of_each, split_metadata, web_transfer_syntax
from node.extensions.dicomweb.media_types import (
    ANY,
    DICOM,
    DICOM_XML,
    JPEG,
    MULTIPART,
    OCTETS,
    ZIP,
    NotAcceptable,
    accepted,
    dicom_form,
    document_form,
    media_ranges,
    names,
)
from node.extensions.dicomweb.rendered import (
    FORMATS,
    MAX_SIDE,
    answer_document,
    answer_picture,
    document_type,
    middle_frame,
    quality_of,
    window_of,
)
from node.extensions.dicomweb.resources import (
    READ,
    Multipart,
    Part,
    SelectedInstances,
    by_series,
    dicomweb_router,
    find_target,
    instance_url,
    one_instance,
    pieces_of,
    requested,
    respond,
    respond_data_sets,
)
from node.extensions.dicomweb.xml_model import encoded_model
from node.index.rows.files import StoredInstance
from node.volume.planes import Window
from node.volume.read.transfer_syntaxes import choose_target
from node.web.access import MEMBERS, CurrentCall
from node.web.files import decoded_file, file_length, local_file, stored_file, whole_file
from node.web.services import Services
from node.web.zips import instances_zip

router = dicomweb_router(MEMBERS)

OFFERED = (
    f'{MULTIPART}; type="{DICOM}", as stored (transfer-syntax=*) or uncompressed, '
    f'{MULTIPART}; type="{OCTETS}", and {ZIP}'
)

AHEAD = 2
"""Instances transcoded while another is sent: half of what the decoder does at once."""

Given = tuple[StoredInstance, str]
"""An instance, and the transfer syntax in which it is sent."""


@router.api_route("/studies/{study}", methods=READ)
@router.api_route("/studies/{study}/series/{series}", methods=READ)
@router.api_route("/studies/{study}/series/{series}/instances/{instance}", methods=READ)
def retrieve(call: CurrentCall) -> Response:
    """The instances of a study, of a series, or one instance.

    206 if some are omitted because they are not available in an accepted transfer syntax, or because their files are
    known to be missing or damaged. As octets they are their bulk data (PS3.18 table 10.4.4-1).
    """
    target = requested(call)
    ranges = accepted(target.request)
    if names(ranges, DICOM, ZIP) == ZIP:
        return _zipped(target)
    best = next((one for one in ranges if one.covers(DICOM) or one.covers_parts(OCTETS)), None)
    if best is not None and not best.covers(DICOM):
        return answer_bulk_data(target)
    form = dicom_form(ranges)
    is_one = "instance" in target.request.path_params
    if form is None or not (form.multipart or is_one):
        raise NotAcceptable(f"{DICOM}, {OFFERED}" if is_one else OFFERED)
    given = []
    for instance in target.instances:
        syntax = given_syntax(instance, form.transfer_syntaxes)
        if syntax is not None:
            given.append((instance, syntax))
    if not given:
        raise NotAcceptable(OFFERED)
    target.audit_transfer("WADO-RS")
    status = 200 if len(given) == len(target.instances) + target.unavailable else 206
    etag = target.etag(f"{form.multipart} {[syntax for _, syntax in given]}")
    files = begun_files(target.node, given)
    if not form.multipart:
        instance, syntax = given[0]
        length = file_length(instance) if is_as_stored(target.node, instance, syntax) else None
        return respond(target, only(files), f"{DICOM}; transfer-syntax={syntax}", etag, length, status)
    message = Multipart(DICOM)
    parts = (
        Part(f"{DICOM}; transfer-syntax={syntax}", file, instance_url(target.base, instance))
        for (instance, syntax), file in zip(given, files, strict=True)
    )
    return respond(target, message.write(parts), message.content_type, etag, None, status)


def given_syntax(instance: StoredInstance, accepted_syntaxes: Collection[str]) -> str | None:
    """Return the transfer syntax in which an instance is sent; None if no accepted one is possible (PS3.18 8.7.3).

    `ANY` stands for the one in which it is stored, if the standard allows that one.
    """
    stored = instance.transfer_syntax_uid
    if ANY in accepted_syntaxes:
        return web_transfer_syntax(stored)
    return choose_target(stored, {syntax for syntax in accepted_syntaxes if web_transfer_syntax(syntax) == syntax})


def begun_files(node: Services, given: Sequence[Given]) -> Iterator[Iterator[bytes]]:
    """Yield the file of each instance in pieces; open the first at once, so that an error can set the status.

    Raises NotAcceptable if the first instance cannot be transcoded; later ones raise NotDecoded. Damaged is also raised
    during iteration.
    """
    files = _files(node, given)
    first = next(files)
    try:
        begun = next(first)
    except NotDecoded as error:
        raise NotAcceptable("instances as stored (transfer-syntax=*)", str(error)) from error
    return chain([chain([begun], first)], files)


def only(files: Iterator[Iterator[bytes]]) -> Iterator[bytes]:
    """Yield the pieces of a single file; closing the iterator closes the file."""
    yield from next(files)


def _files(node: Services, given: Sequence[Given]) -> Iterator[Iterator[bytes]]:
    """Yield the files in order; the next ones are transcoded while the current one is sent."""
    threads = ThreadPoolExecutor(AHEAD, thread_name_prefix="transcode")
    waiting: deque[tuple[Given, Future[IO[bytes]] | None]] = deque()
    try:
        for (instance, syntax), _ in zip(given, node.archive.ahead([one for one, _ in given]), strict=True):
            as_stored = is_as_stored(node, instance, syntax)
            future = None if as_stored else threads.submit(copy_context().run, _transcoded, node, instance, syntax)
            waiting.append(((instance, syntax), future))
            if len(waiting) > AHEAD:
                yield _file(node, *waiting.popleft())
        while waiting:
            yield _file(node, *waiting.popleft())
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def is_as_stored(node: Services, instance: StoredInstance, syntax: str) -> bool:
    """Return whether an instance is sent byte for byte: in its transfer syntax and identity, and so encoded."""
    if syntax != instance.transfer_syntax_uid or instance.identity is not None:
        return False
    try:
        return is_as_announced(data_set_head(local_file(node, instance), instance.data_set_offset), syntax)
    except OSError:
        return True  # `stored_file` says what is wrong with the file


def _transcoded(node: Services, instance: StoredInstance, syntax: str) -> IO[bytes]:
    path = whole_file(node, instance)
    if instance.identity is None:
        return decoded_file(node, transcode, path, syntax)
    copy = decoded_file(node, forward, path, CopyChange(identity=instance.identity))
    offset = data_set_offset(Path(copy.name)) or 0
    if syntax == instance.transfer_syntax_uid and is_as_announced(data_set_head(Path(copy.name), offset), syntax):
        copy.seek(offset)
        return copy
    with copy:
        return decoded_file(node, transcode, Path(copy.name), syntax)


def _file(node: Services, given: Given, future: Future[IO[bytes]] | None) -> Iterator[bytes]:
    instance, syntax = given
    if future is None:
        yield from stored_file(node, instance)
        return
    with future.result() as file:
        yield file_head(instance.sop_class_uid, instance.sop_instance_uid, syntax)
        yield from pieces_of(file)


# ZIP files


def _zipped(target: SelectedInstances) -> Response:
    """Every instance as it leaves; file names are numbers, since nothing from a sender becomes a path."""
    entries = [
        (f"{number:03d}/{index:06d}.dcm", instance)
        for number, instances in enumerate(by_series(target.instances).values(), start=1)
        for index, instance in enumerate(instances, start=1)
    ]
    name = "series" if "series" in target.request.path_params else "study"
    headers = {"Vary": "Accept", "Content-Disposition": f'attachment; filename="{name}.zip"'}
    status = 206 if target.unavailable else 200

    def audit(part: str) -> None:
        target.audit_transfer(f"zip{part}")

    return instances_zip(target.node, target.request, entries, headers, audit, status)


log = structlog.get_logger()

AT_ONCE, AT_ONCE_BYTES = 128, 64 << 20
"""Instances whose metadata one job of the decoder reads, and their bytes: each job has a process of its own."""


@router.api_route("/studies/{study}/metadata", methods=READ)
@router.api_route("/studies/{study}/series/{series}/metadata", methods=READ)
@router.api_route("/studies/{study}/series/{series}/instances/{instance}/metadata", methods=READ)
def retrieve_metadata(call: CurrentCall) -> Response:
    """Metadata of instances, without bulk data."""
    target = requested(call)
    is_single = "instance" in target.request.path_params
    form = document_form(accepted(target.request), is_single=is_single)
    target.audit_access("metadata")
    as_xml = form.media_type == DICOM_XML
    etag = target.etag(f"metadata {form} {target.base}")
    return respond_data_sets(target.request, _metadata(target, as_xml=as_xml), form, etag)


def _metadata(target: SelectedInstances, *, as_xml: bool) -> Iterator[bytes]:
    """Yield each instance in JSON or XML, reduced to its UIDs if its file cannot be read."""
    for instances in _batches(target.node.archive.ahead(target.instances)):
        for instance, encoded in zip(instances, _read_metadata(target, instances, as_xml=as_xml), strict=True):
            yield _of_instance(instance, encoded, as_xml=as_xml)


def _batches(instances: Iterable[StoredInstance]) -> Iterator[list[StoredInstance]]:
    batch: list[StoredInstance] = []
    for instance in instances:
        if batch and (len(batch) == AT_ONCE or sum(one.bytes for one in batch) + instance.bytes > AT_ONCE_BYTES):
            yield batch
            batch = []
        batch.append(instance)
    if batch:
        yield batch


def _read_metadata(target: SelectedInstances, instances: list[StoredInstance], *, as_xml: bool) -> list[bytes]:
    """Return the metadata of instances, empty if a file cannot be read; one that ends the decoder spares the others."""
    paths = [local_file(target.node, instance) for instance in instances]
    of_each = [(one.transfer_syntax_uid, instance_url(target.base, one), one.identity) for one in instances]
    try:
        return list(split_metadata(target.node.decoder.run(metadata_of_each, of_each, as_xml, *paths)))
    except (NotDecoded, OSError):
        if len(instances) == 1:
            return [b""]
    return [_read_metadata(target, [instance], as_xml=as_xml)[0] for instance in instances]


def _of_instance(instance: StoredInstance, encoded: bytes, *, as_xml: bool) -> bytes:
    """Return metadata if they are of an instance, else its UIDs."""
    uid = instance.sop_instance_uid
    named = (
        f'keyword="SOPInstanceUID"><Value number="1">{uid}<'
        if as_xml
        else f'"00080018":{{"vr":"UI","Value":["{uid}"]}}'
    )
    if named.encode() in encoded:
        return encoded
    log.warning("metadata_not_read", sop_instance_uid=uid)
    return encoded_model(_identity(instance), as_xml=as_xml)


def _identity(instance: StoredInstance) -> Json:
    uids = {
        "00080016": instance.sop_class_uid,
        "00080018": instance.sop_instance_uid,
        "0020000D": instance.study_instance_uid,
        "0020000E": instance.series_instance_uid,
    }
    return {tag: {"vr": "UI", "Value": [uid]} for tag, uid in uids.items()}


uri_router = dicomweb_router(MEMBERS)

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


@uri_router.api_route("/wado", methods=READ)
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
    instance = one_instance(target)
    document = document_type(instance)
    ranges = media_ranges(query.get("contentType") or (document and f"{document}, text/html") or JPEG)
    given = (*FORMATS,) if document is None else (document,)
    media_type = names(ranges, *given, DICOM)
    if media_type is None:
        raise NotAcceptable(f"{', '.join(given)} and {DICOM}")
    if media_type == DICOM:
        return _whole(target)
    if document is not None:
        return answer_document(target, instance, document, ranges)
    return answer_picture(target, instance, _order(target, media_type))


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
    return None if centre is None and width is None else window_of(f"{centre},{width}")


def _number(query: QueryParams, name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not text.isdecimal() or not 1 <= int(text[:9]) <= 10**8 or (name != "frameNumber" and int(text) > MAX_SIDE):
        raise HTTPException(400, f"{name} must be a whole number from 1 (PS3.18 9.1.2.2)")
    return int(text)
