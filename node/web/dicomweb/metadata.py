"""Metadata of instances in the DICOM JSON Model, and bulk data (PS3.18 10.4.1.1.2, 10.4.1.1.5)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import quote

import structlog
from fastapi import HTTPException, Response

from node.conversion.decoder import DecoderBusy, NotDecoded
from node.conversion.decoding import value_file
from node.dicom.bounded import TooLong
from node.dicom.json_model import PIXEL_TAGS, Json
from node.dicom.metadata import metadata
from node.index.selection import StoredInstance
from node.web.dicomweb.decoded import decoded_file, length_of, pieces_of
from node.web.dicomweb.documents import respond_document
from node.web.dicomweb.frames import all_frames
from node.web.dicomweb.media_types import DICOM_JSON, JSON, MULTIPART, OCTETS, NotAcceptable, accepted, names
from node.web.dicomweb.multipart import Multipart, Part
from node.web.dicomweb.resources import READ, RequestedInstances, Target, instance_url, one_instance, respond
from node.web.dicomweb.routing import dicomweb_router
from node.web.kept_files import whole_file
from node.web.services import Services

log = structlog.get_logger()
router = dicomweb_router()

MAX_HEADER_BYTES = 1 << 20
"""Longest header read in this process; longer ones are read in a child process."""


@router.api_route("/studies/{study}/metadata", methods=READ)
@router.api_route("/studies/{study}/series/{series}/metadata", methods=READ)
@router.api_route("/studies/{study}/series/{series}/instances/{instance}/metadata", methods=READ)
def retrieve_metadata(target: RequestedInstances) -> Response:
    """Metadata of instances, without bulk data."""
    media_type = names(accepted(target.request), DICOM_JSON, JSON)
    if media_type is None:
        raise NotAcceptable(DICOM_JSON)
    target.audit_access("metadata")
    etag = target.etag(f"metadata {target.base}")
    return respond_document(target.request, _json_array(target), media_type, etag)


def _json_array(target: Target) -> Iterator[bytes]:
    """Yield a JSON array one instance at a time, since a whole study may not fit into memory."""
    separator = b"["
    for instance in target.instances:
        yield separator + instance_metadata(target.node, instance, instance_url(target.base, instance))
        separator = b","
    yield b"]"


def instance_metadata(node: Services, instance: StoredInstance, url: str) -> bytes:
    """Return the DICOM JSON Model of an instance, reduced to its UIDs if its file cannot be read.

    Parameters
    ----------
    url : str
        URL of the instance, the prefix of all bulk data URIs.

    Raises
    ------
    DecoderBusy
    """
    path, syntax = node.archive.path(instance.key), instance.transfer_syntax_uid
    try:
        try:
            encoded = metadata(path, syntax, url, MAX_HEADER_BYTES)
        except TooLong:
            encoded = node.decoder.run(metadata, path, syntax, url)
    except DecoderBusy:
        raise
    except Exception as error:  # pydicom raises anything on damaged files
        log.warning("metadata_not_read", sop_instance_uid=instance.sop_instance_uid, error=type(error).__name__)
        encoded = b""
    named = f'"00080018":{{"vr":"UI","Value":["{instance.sop_instance_uid}"]}}'
    return encoded if named.encode() in encoded else json.dumps(_identity(instance), separators=(",", ":")).encode()


def _identity(instance: StoredInstance) -> Json:
    uids = {
        "00080016": instance.sop_class_uid,
        "00080018": instance.sop_instance_uid,
        "0020000D": instance.study_instance_uid,
        "0020000E": instance.series_instance_uid,
    }
    return {tag: {"vr": "UI", "Value": [uid]} for tag, uid in uids.items()}


# Bulk data


@router.api_route("/studies/{study}/series/{series}/instances/{instance}/bulkdata/{path}", methods=READ)
def retrieve_bulk_data(target: RequestedInstances, path: str) -> Response:
    """One long value, by its path in the metadata; for pixel data, all frames."""
    instance = one_instance(target)
    etag = target.etag(f"bulkdata {path} {target.request.headers.get('accept')}")
    if path.upper() in {f"{tag:08X}" for tag in PIXEL_TAGS}:
        response = all_frames(target, instance, etag)
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
        return respond(target, pieces_of(file), OCTETS, etag, length_of(file))
    message = Multipart(OCTETS)
    location = f"{instance_url(target.base, instance)}/bulkdata/{quote(path)}"
    return respond(target, message.write([Part(OCTETS, pieces_of(file), location)]), message.content_type, etag)
