"""The answer of STOW-RS: the Store Instances Response Module (PS3.18 table 10.5.3-2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from node.dicom.status import ANOTHER_VERSION_IS_CURRENT
from node.index.database.index import Index
from node.index.search.selection import StoredInstance
from node.web.dicomweb.resources import instance_url, resource_url
from node.web.dicomweb.store_transaction import PartFailure, StoreReport


def store_response(index: Index, report: StoreReport, base: str) -> dict[str, Any]:
    """Return the answer in the DICOM JSON Model; `base` is the URL of the service."""
    stored = list(_stored(index, report))
    identified = [failure for failure in report.failures if failure.identity is not None]
    unidentified = [failure for failure in report.failures if failure.identity is None]
    response: dict[str, Any] = {}
    studies = {instance.study_instance_uid for instance in stored}
    if len(studies) == 1:
        response["00081190"] = _element("UR", resource_url(base, *studies))
    for tag, items in (
        ("00081198", [_failed(failure) for failure in identified]),
        ("00081199", [_referenced(base, instance, report) for instance in stored]),
        ("0008119A", [_reason(failure) for failure in unidentified]),
    ):
        if items:
            response[tag] = {"vr": "SQ", "Value": items}
    return response


def _stored(index: Index, report: StoreReport) -> Iterator[StoredInstance]:
    uids = report.stored
    if not uids:
        return
    with index.reading(wait=not report.is_indexed) as view:
        for at in range(0, len(uids), 500):
            yield from view.instances.stored(sop_instance_uids=uids[at : at + 500])


def _element(vr: str, value: str | int) -> dict[str, Any]:
    return {"vr": vr, "Value": [value]}


def _referenced(base: str, instance: StoredInstance, report: StoreReport) -> dict[str, Any]:
    """Return the reference to an instance, with a *Warning Reason* (0008,1196) if another version is current."""
    is_current = instance.sop_instance_uid not in report.not_current
    warning = {} if is_current else {"00081196": _element("US", ANOTHER_VERSION_IS_CURRENT)}
    return {
        "00081150": _element("UI", instance.sop_class_uid),
        "00081155": _element("UI", instance.sop_instance_uid),
        "00081190": _element("UR", instance_url(base, instance)),
        **warning,
    }


def _failed(failure: PartFailure) -> dict[str, Any]:
    identity = failure.identity
    uids = {} if identity is None else {"00081150": identity.sop_class_uid, "00081155": identity.sop_instance_uid}
    return {tag: _element("UI", uid[:64]) for tag, uid in uids.items()} | _reason(failure)


def _reason(failure: PartFailure) -> dict[str, Any]:
    """Return Failure Reason and, beyond the standard, the Error Comment (0000,0902) of C-STORE."""
    return {"00000902": _element("LO", failure.comment[:64]), "00081197": _element("US", failure.reason)}
