"""What each route of DICOMweb takes and gives, the capabilities made of it (PS3.18 8.9, Annex H), and DELETE."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from node.extensions.dicomweb import bulk_data, qido, rendered, stow, wado
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
    WADL,
    ZIP,
    NotAcceptable,
    accepted,
    names,
)
from node.extensions.dicomweb.resources import PREFIX, base_url, dicomweb_router, respond_document
from node.index.rules.custody.deletions import NotThere
from node.registry import enabled, resolve
from node.settings.model import Settings
from node.web.access import ADMINS, MEMBERS, Call, CurrentCall
from node.web.actions import delete
from node.web.routes_by_path import methods_of, routes_of

ACCEPT = {"accept": "media types, in place of the Accept header"}
CONDITIONAL = ("Accept", "If-None-Match")
DOCUMENT = (*CONDITIONAL, "Accept-Encoding")


@dataclass(frozen=True, slots=True)
class Transaction:
    """One transaction of PS3.18, and its section there.

    It produces and consumes media types, the default first. `parameters` are those of the query with their meaning;
    `headers` are the request header fields with an effect.
    """

    name: str
    section: str
    produces: tuple[str, ...]
    parameters: Mapping[str, str]
    headers: tuple[str, ...]
    consumes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CapabilityResource:
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


def resources(
    routes: list[BaseRoute], transactions: Mapping[Callable[..., Any], Transaction]
) -> Iterator[CapabilityResource]:
    """Yield what routes serve, in the order of their paths. A route without a transaction is a KeyError."""
    for route in sorted((route for route in routes if isinstance(route, APIRoute)), key=lambda route: route.path):
        methods = tuple(sorted((route.methods or set()) - {"HEAD"}))
        purpose = (route.endpoint.__doc__ or "").partition("\n")[0]
        yield CapabilityResource(route.path, methods, purpose, transactions[route.endpoint])


def offered(settings: Settings) -> list[CapabilityResource]:
    """Return the resources, for the capabilities and the conformance statement."""
    found: list[CapabilityResource] = []
    for extension in enabled(settings):
        for router in extension.routers:
            if router.transactions:
                found += resources(resolve(router.place).routes, resolve(router.transactions))
    return found


router = dicomweb_router(MEMBERS)


class _OfOptions(APIRoute):
    """Matches requests of OPTIONS only: for other methods, an address without a resource stays 404 rather than 405."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found, child = super().matches(scope)
        return (found, child) if found is Match.FULL else (Match.NONE, {})


_Tree = dict[str, "_Tree"]


@router.options("")
@router.options("/")
def retrieve_capabilities(call: CurrentCall) -> Response:
    """The resources of DICOMweb with their methods, parameters and media types."""
    return _described(call.request, offered(call.node.settings), {"OPTIONS"})


def retrieve_capabilities_of_resource(call: CurrentCall) -> Response:
    """One resource with its methods, parameters and media types; 404 if no resource has such a URL."""
    request = call.request
    routes = [route for route in routes_of(request) if route.methods != {"OPTIONS"}]
    if not routes:
        raise HTTPException(404, "the resource does not exist")
    paths = {route.path for route in routes}
    offers = [resource for resource in offered(call.node.settings) if resource.path in paths]
    return _described(request, offers, methods_of(request))


router.add_api_route(
    "/{path:path}", retrieve_capabilities_of_resource, methods=["OPTIONS"], route_class_override=_OfOptions
)


def _described(request: Request, offers: Sequence[CapabilityResource], methods: set[str]) -> Response:
    media_type = names(accepted(request), WADL, JSON)
    if media_type is None:
        raise NotAcceptable(f"{WADL} and {JSON}")
    document = _wadl if media_type == WADL else _json
    response = respond_document(request, document(base_url(request), offers).encode(), media_type)
    response.headers["Allow"] = ", ".join(sorted(methods))
    return response


def _json(base: str, offers: Sequence[CapabilityResource]) -> str:
    described = [
        {
            "path": resource.path.removeprefix(PREFIX),
            "methods": resource.methods,
            "transaction": resource.transaction.name,
            "section": f"PS3.18 {resource.transaction.section}",
            "description": resource.purpose,
            "produces": resource.transaction.produces,
            "consumes": resource.transaction.consumes,
            "parameters": dict(resource.transaction.parameters),
            "headers": resource.transaction.headers,
        }
        for resource in offers
    ]
    return json.dumps({"base": base, "resources": described})


def _wadl(base: str, offers: Sequence[CapabilityResource]) -> str:
    """Return the description in the Web Application Description Language, with resources nested as their paths."""
    tree: _Tree = {}
    by_path: dict[str, list[CapabilityResource]] = {}
    for resource in offers:
        path = resource.path.removeprefix(PREFIX).strip("/")
        by_path.setdefault(path, []).append(resource)
        node = tree
        for segment in path.split("/"):
            node = node.setdefault(segment, {})
    body = "".join(_resources(tree, "", by_path))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<application xmlns="http://wadl.dev.java.net/2009/02" xmlns:xsd="http://www.w3.org/2001/XMLSchema">'
        f"<resources base={quoteattr(base + '/')}>{body}</resources></application>\n"
    )


def _resources(tree: _Tree, above: str, by_path: dict[str, list[CapabilityResource]]) -> Iterator[str]:
    for segment, below in tree.items():
        path = f"{above}/{segment}".strip("/")
        yield f"<resource path={quoteattr(segment)}>"
        if segment.startswith("{"):
            yield f'<param name={quoteattr(segment[1:-1])} style="template" type="xsd:string" required="true"/>'
        for resource in by_path.get(path, []):
            for method in resource.methods:
                yield from _method(resource, method)
        yield from _resources(below, path, by_path)
        yield "</resource>"


def _method(resource: CapabilityResource, method: str) -> Iterator[str]:
    transaction = resource.transaction
    identifier = f"{method}-{resource.operation}"
    yield f"<method name={quoteattr(method)} id={quoteattr(identifier)}>"
    meaning = escape(f"PS3.18 {transaction.section}: {resource.purpose}")
    yield f"<doc title={quoteattr(transaction.name)}>{meaning}</doc>"
    yield "<request>"
    for name, meaning in transaction.parameters.items():
        yield f'<param name={quoteattr(name)} style="query"><doc>{escape(meaning)}</doc></param>'
    for name in transaction.headers:
        options = transaction.produces if name == "Accept" else ()
        default = f" default={quoteattr(options[0])}" if options else ""
        yield f'<param name={quoteattr(name)} style="header"{default}>'
        yield "".join(f"<option value={quoteattr(option)}/>" for option in options)
        yield "</param>"
    yield "".join(f"<representation mediaType={quoteattr(media_type)}/>" for media_type in transaction.consumes)
    yield "</request><response>"
    yield "".join(f"<representation mediaType={quoteattr(media_type)}/>" for media_type in transaction.produces)
    yield "</response></method>"


deletions_router = dicomweb_router(ADMINS)


@deletions_router.delete("/studies/{study}", status_code=204)
@deletions_router.delete("/studies/{study}/series/{series}", status_code=204)
@deletions_router.delete("/studies/{study}/series/{series}/instances/{instance}", status_code=204)
def delete_resource(call: CurrentCall, request: Request) -> Response:
    """Delete a study, a series or an instance, into the trash; 410 if it was deleted before."""
    study, *below = request.path_params.values()
    series, instance = [*below, None, None][:2]
    try:
        if instance is not None:
            _require(call, study, series, instance)
            delete(call, "instance", instance, study)
        elif series is not None:
            delete(call, "series", series, study)
        else:
            delete(call, "study", study, None)
    except NotThere:
        uids = (uid for uid in (study, series, instance) if uid is not None)
        with call.node.index.reading() as index:
            is_deleted = index.deletions.has_deleted(*uids)
        raise HTTPException(
            *((410, "it was deleted") if is_deleted else (404, "the resource does not exist"))
        ) from None
    return Response(status_code=204)


def _require(call: Call, study: str, series: str | None, instance: str) -> None:
    """Raise NotThere unless an instance is in a series: its UID alone would delete it under any URL."""
    with call.node.index.reading() as index:
        rows = index.instances.page(None, 1, sop_instance_uid=instance)
    if not rows or (rows[0]["study_instance_uid"], rows[0]["series_instance_uid"]) != (study, series):
        raise NotThere(f"no instance {instance} in this series")


def _parts_of(*media_types: str) -> tuple[str, ...]:
    return tuple(f'{MULTIPART}; type="{name}"' for name in media_types)


_PARTS = _parts_of(OCTETS, *sorted({*FRAME_TYPES.values()}))
_DATA_SETS = (DICOM_JSON, JSON, *_parts_of(DICOM_XML))
_STORED = (*_parts_of(DICOM), DICOM)
_RENDERED = {
    **ACCEPT,
    "window": f"centre, width and function: {', '.join(rendered.FUNCTIONS)}",
    "viewport": "width and height of the image; region of the frame, flipped if its width or height is negative",
    "quality": "1 to 100, of JPEG",
}
_SEARCH = Transaction(
    "Search",
    "10.6",
    _DATA_SETS,
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
_PICTURES = partial(Transaction, "Retrieve Rendered", "10.4.1.1.3", parameters=_RENDERED, headers=CONDITIONAL)
_THUMBNAIL = Transaction("Retrieve Thumbnail", "10.4.1.1.4", tuple(rendered.FORMATS), _RENDERED, CONDITIONAL)

TRANSACTIONS: Mapping[Callable[..., Any], Transaction] = {
    qido.search_studies: _SEARCH,
    qido.search_series: _SEARCH,
    qido.search_instances: _SEARCH,
    stow.store: Transaction(
        "Store", "10.5", (*_DATA_SETS, DICOM_XML), ACCEPT, ("Accept", "Accept-Encoding", "Content-Type"), _STORED
    ),
    wado.retrieve: Transaction(
        "Retrieve Instances", "10.4.1.1.1", (*_parts_of(DICOM, OCTETS), DICOM, ZIP), ACCEPT, CONDITIONAL
    ),
    wado.retrieve_metadata: Transaction("Retrieve Metadata", "10.4.1.1.2", (*_DATA_SETS, DICOM_XML), ACCEPT, DOCUMENT),
    rendered.retrieve_rendered_series: _PICTURES(_parts_of(*rendered.FORMATS)),
    rendered.retrieve_rendered_instance: _PICTURES((*rendered.FORMATS, HTML, PDF)),
    rendered.retrieve_rendered_frames: _PICTURES(tuple(rendered.FORMATS)),
    rendered.retrieve_thumbnail: _THUMBNAIL,
    rendered.retrieve_frame_thumbnail: _THUMBNAIL,
    delete_resource: Transaction("Delete", "10.1", (), {}, ()),
    bulk_data.retrieve_all_bulk_data: Transaction("Retrieve Bulkdata", "10.4.1.1.5", _PARTS, ACCEPT, CONDITIONAL),
    bulk_data.retrieve_bulk_data: Transaction(
        "Retrieve Bulkdata", "10.4.1.1.5", (*_PARTS, OCTETS), ACCEPT, (*CONDITIONAL, "Range", "If-Range")
    ),
    bulk_data.retrieve_pixel_data: Transaction("Retrieve Pixel Data", "10.4.1.1.6", _PARTS, ACCEPT, CONDITIONAL),
    bulk_data.retrieve_frames: Transaction(
        "Retrieve Frames", "10.4.1.1.6", (*_PARTS, OCTETS), ACCEPT, (*CONDITIONAL, "Range", "If-Range")
    ),
    wado.retrieve_by_uri: Transaction(
        "Retrieve (URI)", "9.4", (*rendered.FORMATS, DICOM), wado.PARAMETERS, ("If-None-Match",)
    ),
}
"""The transactions by the function that serves them; a route without one is an error of the program."""

studies = APIRouter(
    routes=[
        route
        for part in (qido.router, stow.router, wado.router, bulk_data.router, rendered.router, deletions_router)
        for route in part.routes
    ]
)

uri = wado.uri_router
