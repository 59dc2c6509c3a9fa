"""The routes of the Studies Service and the URI Service, and what each takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter

from node.extensions.dicomweb import bulk_data, deleting, qido, rendered, stow, wado, wado_uri
from node.extensions.dicomweb.capabilities import ACCEPT, CONDITIONAL, DOCUMENT, Transaction
from node.extensions.dicomweb.media_types import (
    DICOM,
    DICOM_JSON,
    DICOM_XML,
    FRAME_TYPES,
    HTML,
    JSON,
    MULTIPART,
    OCTETS,
    PDF,
    ZIP,
)

_PARTS = tuple(f'{MULTIPART}; type="{name}"' for name in (OCTETS, *sorted({*FRAME_TYPES.values()})))
_RENDERED = {
    **ACCEPT,
    "window": f"centre, width and function: {', '.join(rendered.FUNCTIONS)}",
    "viewport": "width and height of the image; region of the frame, flipped if its width or height is negative",
    "quality": "1 to 100, of JPEG",
}
_SEARCH = Transaction(
    "Search",
    "10.6",
    (DICOM_JSON, JSON, f'{MULTIPART}; type="{DICOM_XML}"'),
    {
        **ACCEPT,
        "{attribute}": "keyword or tag, after those of its sequences, with the value to match",
        "includefield": "keywords or tags of further attributes, or all",
        "fuzzymatching": "true or false",
        "emptyvaluematching": "not supported: true is answered with a warning",
        "multiplevaluematching": "not supported: true is answered with a warning; values separated by a backslash are "
        "alternatives",
        "limit": f"at most {qido.MAX_RESULTS}, or {qido.MAX_RESULTS_OF_STUDY} within one study",
        "offset": "number of results to skip",
    },
    DOCUMENT,
)
_THUMBNAIL = Transaction("Retrieve Thumbnail", "10.4.1.1.4", tuple(rendered.FORMATS), _RENDERED, CONDITIONAL)

TRANSACTIONS: Mapping[Callable[..., Any], Transaction] = {
    qido.search_studies: _SEARCH,
    qido.search_series: _SEARCH,
    qido.search_instances: _SEARCH,
    stow.store: Transaction(
        "Store",
        "10.5",
        (DICOM_JSON, JSON, f'{MULTIPART}; type="{DICOM_XML}"', DICOM_XML),
        ACCEPT,
        ("Accept", "Accept-Encoding", "Content-Type"),
        (*(f'{MULTIPART}; type="{name}"' for name in (DICOM, DICOM_JSON, DICOM_XML)), DICOM),
    ),
    wado.retrieve: Transaction(
        "Retrieve Instances",
        "10.4.1.1.1",
        (f'{MULTIPART}; type="{DICOM}"', f'{MULTIPART}; type="{OCTETS}"', DICOM, ZIP),
        ACCEPT,
        CONDITIONAL,
    ),
    wado.retrieve_metadata: Transaction(
        "Retrieve Metadata",
        "10.4.1.1.2",
        (DICOM_JSON, JSON, f'{MULTIPART}; type="{DICOM_XML}"', DICOM_XML),
        ACCEPT,
        DOCUMENT,
    ),
    rendered.retrieve_rendered_series: Transaction(
        "Retrieve Rendered",
        "10.4.1.1.3",
        tuple(f'{MULTIPART}; type="{name}"' for name in rendered.FORMATS),
        _RENDERED,
        CONDITIONAL,
    ),
    rendered.retrieve_rendered_instance: Transaction(
        "Retrieve Rendered", "10.4.1.1.3", (*rendered.FORMATS, HTML, PDF), _RENDERED, CONDITIONAL
    ),
    rendered.retrieve_rendered_frames: Transaction(
        "Retrieve Rendered", "10.4.1.1.3", tuple(rendered.FORMATS), _RENDERED, CONDITIONAL
    ),
    rendered.retrieve_thumbnail: _THUMBNAIL,
    rendered.retrieve_frame_thumbnail: _THUMBNAIL,
    deleting.delete_resource: Transaction("Delete", "10.1", (), {}, ()),
    bulk_data.retrieve_all_bulk_data: Transaction("Retrieve Bulkdata", "10.4.1.1.5", _PARTS, ACCEPT, CONDITIONAL),
    bulk_data.retrieve_bulk_data: Transaction(
        "Retrieve Bulkdata", "10.4.1.1.5", (*_PARTS, OCTETS), ACCEPT, (*CONDITIONAL, "Range", "If-Range")
    ),
    bulk_data.retrieve_pixel_data: Transaction("Retrieve Pixel Data", "10.4.1.1.6", _PARTS, ACCEPT, CONDITIONAL),
    bulk_data.retrieve_frames: Transaction(
        "Retrieve Frames", "10.4.1.1.6", (*_PARTS, OCTETS), ACCEPT, (*CONDITIONAL, "Range", "If-Range")
    ),
    wado_uri.retrieve_by_uri: Transaction(
        "Retrieve (URI)", "9.4", (*rendered.FORMATS, DICOM), wado_uri.PARAMETERS, ("If-None-Match",)
    ),
}
"""The transactions by the function that serves them; a route without one is an error of the program."""

studies = APIRouter(
    routes=[route for part in (qido, stow, wado, bulk_data, rendered, deleting) for route in part.router.routes]
)

uri = wado_uri.router
