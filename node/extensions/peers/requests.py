"""Searches at peers and retrievals from them, shared by REST and the pages."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from node.audit.audit_log import AuditAction, AuditEvent
from node.dicom.attributes import MAX_TEXT_BYTES, is_identifier
from node.errors import VoxelnodeError
from node.web.access import Call
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.services import Services

MAX_WANTED = 500
"""Studies and series in one request to retrieve: as many as a search finds."""

_PLAIN = r"^[^\\\x00-\x1f\x7f]*$"
"""No backslash, which separates values, and no control characters (PS3.5 6.1.3, 6.2)."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_TEXT_BYTES, pattern=_PLAIN)]
Day = Annotated[dt.date | None, BeforeValidator(lambda text: text or None)]
"""A date; a field of a form that is left empty is none."""

Uid = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[!-\[\]-~]+$")]


class PeerSearch(BaseModel):
    """A search for studies at a peer; an empty field matches all. `*` and `?` are wildcards, except in dates.

    A name that has none matches those that begin with it: Family, Given.
    """

    model_config = ConfigDict(extra="forbid")

    patient_id: Text = ""
    patient_name: Text = ""
    first_date: Day = None
    last_date: Day = None
    modality: Text = ""
    accession_number: Text = ""

    def keys(self) -> dict[str, str]:
        """Return the matching keys of C-FIND (PS3.4 C.2.2.2)."""
        dates = [f"{date:%Y%m%d}" if date is not None else "" for date in (self.first_date, self.last_date)]
        keys = {
            "PatientID": self.patient_id,
            "PatientName": _name_key(self.patient_name),
            "StudyDate": "-".join(dates) if any(dates) else "",
            "ModalitiesInStudy": self.modality.upper(),
            "AccessionNumber": self.accession_number,
        }
        return {keyword: value for keyword, value in keys.items() if value}


def _name_key(text: str) -> str:
    name = "^".join(part.strip() for part in text.split(","))
    return name if not name or "*" in name or "?" in name else f"{name}*"


class WantedStudy(BaseModel):
    """A study to retrieve, or one of its series."""

    model_config = ConfigDict(extra="forbid")

    study_instance_uid: Uid
    series_instance_uid: Uid | None = None


def require_peer(node: Services, peer: str) -> None:
    """Raise ResourceNotFound for the name of a peer that the node cannot call."""
    if peer not in node.settings.called_peers:
        raise ResourceNotFound("peer with a host in [peers]")


def find_studies(call: Call, peer: str, search: PeerSearch) -> Mapping[str, Any]:
    """Search for studies at a peer, and record it; the result has ``items``, the newest first, and a ``note``."""
    found = _find(call, peer, "study", search.keys())
    with call.node.index.searching() as index:
        here = index.instances.count_by_study([item["study_instance_uid"] for item in found["items"]])
    for item in found["items"]:
        item["stored"] = here.get(item["study_instance_uid"], 0)
    found["items"].sort(key=lambda item: (item["study_date"] or "", item["study_time"] or ""), reverse=True)
    return found


def find_series(call: Call, peer: str, study_instance_uid: str) -> Mapping[str, Any]:
    """Ask a peer for the series of a study, and record it; see `find_studies`. Sorted by their numbers."""
    if not is_identifier(study_instance_uid):
        raise ResourceNotFound("study")
    found = _find(call, peer, "series", {"StudyInstanceUID": study_instance_uid})
    with call.node.index.searching() as index:
        here = index.instances.count_by_series(study_instance_uid)
    items = [
        {**item, "study_instance_uid": study_instance_uid, "stored": here.get(item["series_instance_uid"], 0)}
        for item in found["items"]
        if item["study_instance_uid"] in (None, study_instance_uid)
    ]
    items.sort(key=lambda item: (item["series_number"] is None, item["series_number"], item["series_instance_uid"]))
    return {**found, "items": items}


def _find(call: Call, peer: str, level: Literal["study", "series"], keys: Mapping[str, str]) -> dict[str, Any]:
    require_peer(call.node, peer)
    asked = f"C-FIND at {peer}: {level} {json.dumps(keys, ensure_ascii=False)}"
    try:
        found = call.node.actions["search-peer"](peer=peer, level=level, keys=dict(keys))
    except VoxelnodeError:
        call.audit.queried(f"{asked}; no answer")  # the keys may have been sent
        raise
    call.audit.queried(asked, len(found["answers"]))
    return {"items": [dict(answer) for answer in found["answers"]], "note": found["note"] or None}


def retrieve(call: Call, peer: str, wanted: Sequence[WantedStudy]) -> Sequence[str]:
    """Have studies and series retrieved from a peer in the background, and record it; return the retrievals' ids."""
    require_peer(call.node, peer)
    pairs = [(each.study_instance_uid, each.series_instance_uid) for each in wanted]
    ids: Sequence[str] = call.act("retrieve", peer=peer, wanted=pairs)["retrievals"]
    objects = [of_study(study, None) for study in dict.fromkeys(each.study_instance_uid for each in wanted)]
    detail = f"retrieval of {len(ids)} studies and series from {peer} requested"
    call.audit.changed(AuditEvent.BEGIN_TRANSFERRING, AuditAction.EXECUTE, objects, detail)
    return ids
