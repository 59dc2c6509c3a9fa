"""Encode data sets of the DICOM JSON Model for answers: as JSON, or as XML in the Native DICOM Model."""

from __future__ import annotations

import json

from node.dicom.json_model import Json
from node.extensions.dicomweb.xml_model import native_model

_JSON = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))
"""Models have no cycles, and looking for one doubles the time."""


def encoded_model(model: Json, *, as_xml: bool = False) -> bytes:
    """Return a data set of the DICOM JSON Model as JSON, or as XML in the Native DICOM Model; ordered by tag."""
    model = dict(sorted(model.items()))
    if as_xml:
        return native_model(model)
    return _JSON.encode(model).encode("utf-8", "replace")
