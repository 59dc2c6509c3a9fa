"""What each resource of DICOMweb takes and gives; the capabilities and the conformance statement are made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from node.dicom.annotation import ANNOTATIONS
from node.web.dicomweb import (
    bulk_data,
    frames,
    metadata,
    qido,
    rendered,
    stow,
    wado,
    wado_uri,
)
from node.web.dicomweb.media_types import (
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

ACCEPT = {"accept": "media types, in place of the Accept header"}
_PARTS = tuple(f'{MULTIPART}; type="{name}"' for name in (OCTETS, *sorted({*FRAME_TYPES.values()})))
_CONDITIONAL = ("Accept", "If-None-Match")
DOCUMENT = (*_CONDITIONAL, "Accept-Encoding")


@dataclass(frozen=True, slots=True)
class Transaction:
    """One transaction of PS3.18.

    Attributes
    ----------
    section : str
        Section of PS3.18.
    produces, consumes : tuple of str
        Media types of responses, the default first, and of requests.
    parameters : mapping of str to str
        Query parameters, with their meaning.
    headers : tuple of str
        Request header fields with an effect.
    """

    name: str
    section: str
    produces: tuple[str, ...]
    parameters: Mapping[str, str]
    headers: tuple[str, ...]
    consumes: tuple[str, ...] = ()


_RENDERED = {
    **ACCEPT,
    "window": f"centre, width and function: {', '.join(rendered.FUNCTIONS)}",
    "viewport": "width and height of the image; region of the frame, flipped if its width or height is negative",
    "quality": "1 to 100, of JPEG",
    "annotation": f"{', '.join(ANNOTATIONS)}: burned into the picture; other values are ignored with a warning",
    "iccprofile": f"{', '.join(rendered.PROFILES)}; of GIF only no",
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
        "limit": f"at most {qido.MAX_RESULTS}, or {qido.MAX_RESULTS_OF_STUDY} within one study",
        "offset": "number of results to skip",
    },
    DOCUMENT,
)

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
        tuple(f'{MULTIPART}; type="{name}"' for name in (DICOM, DICOM_JSON, DICOM_XML)),
    ),
    wado.retrieve: Transaction(
        "Retrieve Instances", "10.4.1.1.1", (f'{MULTIPART}; type="{DICOM}"', DICOM, ZIP), ACCEPT, _CONDITIONAL
    ),
    metadata.retrieve_metadata: Transaction(
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
        _CONDITIONAL,
    ),
    rendered.retrieve_rendered_instance: Transaction(
        "Retrieve Rendered", "10.4.1.1.3", (*rendered.FORMATS, HTML, PDF), _RENDERED, _CONDITIONAL
    ),
    rendered.retrieve_rendered_frames: Transaction(
        "Retrieve Rendered", "10.4.1.1.3", tuple(rendered.FORMATS), _RENDERED, _CONDITIONAL
    ),
    rendered.retrieve_thumbnail: Transaction(
        "Retrieve Thumbnail", "10.4.1.1.4", tuple(rendered.FORMATS), _RENDERED, _CONDITIONAL
    ),
    rendered.retrieve_frame_thumbnail: Transaction(
        "Retrieve Thumbnail", "10.4.1.1.4", tuple(rendered.FORMATS), _RENDERED, _CONDITIONAL
    ),
    bulk_data.retrieve_all_bulk_data: Transaction("Retrieve Bulkdata", "10.4.1.1.5", _PARTS, ACCEPT, _CONDITIONAL),
    bulk_data.retrieve_bulk_data: Transaction(
        "Retrieve Bulkdata", "10.4.1.1.5", (*_PARTS, OCTETS), ACCEPT, (*_CONDITIONAL, "Range", "If-Range")
    ),
    bulk_data.retrieve_pixel_data: Transaction("Retrieve Pixel Data", "10.4.1.1.6", _PARTS, ACCEPT, _CONDITIONAL),
    frames.retrieve_frames: Transaction("Retrieve Frames", "10.4.1.1.6", (*_PARTS, OCTETS), ACCEPT, _CONDITIONAL),
    wado_uri.retrieve_by_uri: Transaction(
        "Retrieve (URI)", "9.4", (*rendered.FORMATS, DICOM), wado_uri.PARAMETERS, ("If-None-Match",)
    ),
}
"""The transactions of the core by the function that serves them; a route without one is an error of the program."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One route: its path with ``{variables}``, its methods without HEAD, and its transaction."""

    path: str
    methods: tuple[str, ...]
    purpose: str
    transaction: Transaction

    @property
    def operation(self) -> str:
        """A name that no other resource has, such as ``Retrieve-Metadata-study``."""
        words = self.path.strip("/").replace("{", "").replace("}", "").split("/")
        return "-".join((self.transaction.name.replace(" ", "-").replace("(", "").replace(")", ""), *words[1:]))


def resources(routes: list[BaseRoute], transactions: Mapping[Callable[..., Any], Transaction]) -> Iterator[Resource]:
    """Yield what routes serve, in the order of their paths.

    Raises
    ------
    KeyError
        A route has no transaction.
    """
    for route in sorted((route for route in routes if isinstance(route, APIRoute)), key=lambda route: route.path):
        methods = tuple(sorted((route.methods or set()) - {"HEAD"}))
        purpose = (route.endpoint.__doc__ or "").partition("\n")[0]
        yield Resource(route.path, methods, purpose, transactions[route.endpoint])
