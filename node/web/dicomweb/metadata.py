"""Metadata of instances in JSON and XML (PS3.18 10.4.1.1.2)."""

from __future__ import annotations

import structlog
from fastapi import Response

from node.children.decoder import DecoderBusy
from node.dicom.json_model import Json
from node.dicom.metadata import encoded_model
from node.files.bounded import TooLong
from node.files.metadata import metadata
from node.index.search.selection import StoredInstance
from node.web.dicomweb.documents import respond_data_sets
from node.web.dicomweb.media_types import DICOM_XML, accepted, document_form
from node.web.dicomweb.resources import READ, RequestedInstances, instance_url
from node.web.dicomweb.routing import dicomweb_router
from node.web.services import Services
from node.web.stored_files import local_file

log = structlog.get_logger()
router = dicomweb_router()

MAX_HEADER_BYTES = 1 << 20
"""Longest header read in this process; longer ones are read in a child process."""


@router.api_route("/studies/{study}/metadata", methods=READ)
@router.api_route("/studies/{study}/series/{series}/metadata", methods=READ)
@router.api_route("/studies/{study}/series/{series}/instances/{instance}/metadata", methods=READ)
def retrieve_metadata(target: RequestedInstances) -> Response:
    """Metadata of instances, without bulk data."""
    is_single = "instance" in target.request.path_params
    form = document_form(accepted(target.request), is_single=is_single)
    target.audit_access("metadata")
    as_xml = form.media_type == DICOM_XML
    etag = target.etag(f"metadata {form} {target.base}")
    data_sets = (
        instance_metadata(target.node, instance, instance_url(target.base, instance), as_xml=as_xml)
        for instance in target.node.archive.ahead(target.instances)
    )
    return respond_data_sets(target.request, data_sets, form, etag)


def instance_metadata(node: Services, instance: StoredInstance, url: str, *, as_xml: bool) -> bytes:
    """Return an instance in JSON or XML, reduced to its UIDs if its file cannot be read.

    Parameters
    ----------
    url : str
        URL of the instance, the prefix of all bulk data URIs.

    Raises
    ------
    DecoderBusy
    """
    path, syntax = local_file(node, instance), instance.transfer_syntax_uid
    try:
        try:
            encoded = metadata(path, syntax, url, MAX_HEADER_BYTES, as_xml=as_xml)
        except TooLong:
            encoded = node.decoder.run(metadata, path, syntax, url, as_xml=as_xml)
    except DecoderBusy:
        raise
    except Exception as error:  # pydicom raises anything on damaged files
        log.warning("metadata_not_read", sop_instance_uid=instance.sop_instance_uid, error=type(error).__name__)
        encoded = b""
    uid = instance.sop_instance_uid
    named = (
        f'keyword="SOPInstanceUID"><Value number="1">{uid}<'
        if as_xml
        else f'"00080018":{{"vr":"UI","Value":["{uid}"]}}'
    )
    return encoded if named.encode() in encoded else encoded_model(_identity(instance), as_xml=as_xml)


def _identity(instance: StoredInstance) -> Json:
    uids = {
        "00080016": instance.sop_class_uid,
        "00080018": instance.sop_instance_uid,
        "0020000D": instance.study_instance_uid,
        "0020000E": instance.series_instance_uid,
    }
    return {tag: {"vr": "UI", "Value": [uid]} for tag, uid in uids.items()}
