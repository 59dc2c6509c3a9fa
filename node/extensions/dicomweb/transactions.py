"""What each route of DICOMweb takes and gives, what is made of it, and DELETE.

The capabilities are those of PS3.18 8.9 and Annex H; the sections of the conformance statement are at the end.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from node.dicom.status import StatementTable, merged, table
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
from node.extensions.dicomweb.wado import REFUSED
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


URI_SERVICE = f"""\
[table uri_resources]

`rows` and `columns` are at most {rendered.MAX_SIDE}. These parameters are refused, as they ask for other content:
{", ".join(f"`{name}`" for name in REFUSED)}.
"""

STUDIES_SERVICE = """\
Media types are negotiated by the Accept header or the `accept` query parameter (PS3.18 8.7). Without a transfer syntax
parameter, instances are returned uncompressed; with `*`, as stored. [dicomweb.md](dicomweb.md) has the details.

[table studies_resources]

OPTIONS on `/dicom-web` and on each resource returns what it offers as WADL or JSON (Retrieve Capabilities, PS3.18 8.9).
DELETE, which PS3.18 does not define, requires the role admin: what is deleted goes to the trash, if there is one, and
later requests for it are answered 410.
"""

ATTRIBUTES = f"""\
The keys of C-FIND (section 5.2.7.2), by the same rules: always relational, with combined date-time matching, and with
fuzzy matching for `fuzzymatching=true`. `emptyvaluematching=true` and `multiplevaluematching=true` are answered with a
warning. `limit` is at most {qido.MAX_RESULTS}, within one study {qido.MAX_RESULTS_OF_STUDY}. Timezone offsets are not
adjusted. The answers also have Retrieve URL (0008,1190), and of instances Bits Allocated (0028,0100).
"""

MEDIA_TYPES = """\
The first media type of a response is the default, of a single picture `image/jpeg`. Compressed frames are sent as
stored, in the media type of their transfer syntax. Uncompressed frames, never instances, are compressed without loss \
for
clients that name image/jls (JPEG-LS) or, if an encoder is installed, image/jphc (HTJ2K). Implicit VR Little Endian and
Explicit VR Big Endian are sent in ZIP files alone, which have the instances as received.

[table web_media_types]
"""

REQUESTS = """\
Unknown parameters are ignored, with a warning in searches, for annotation and iccprofile. Found and retrieved content
(200, 206, 304) has `Vary` and `ETag`. Warnings have code 299. Requests need `Authorization` if accounts are required.

[table web_requests]
"""

STATUSES = """\
[list http_statuses]
"""

_HTTP = (
    (200, "the complete result, or an empty list; all instances were stored"),
    (202, "some instances failed, or another version of them is current; the response lists them"),
    (204, "deleted; or no result in XML"),
    (206, "instances that have no accepted representation were omitted; or the requested range"),
    (304, "not modified since the given entity tag"),
    (400, "the request is invalid; the response has the reason"),
    (401, "credentials are missing or wrong"),
    (403, "the role of the account does not permit it; or the request is cross-site or for an unknown host name"),
    (404, "the study, series, instance, frame or bulk data does not exist"),
    (406, "none of the accepted media types is available; the response lists the available ones"),
    (408, "the body arrives too slowly"),
    (409, "no instance was stored; the response has the reasons"),
    (410, "the requested object was deleted"),
    (412, "If-Match names another representation"),
    (413, "the body is too large, or has too many parts"),
    (415, "the media type of the body, or the transfer syntax of all its instances, is not supported"),
    (416, "the requested range is beyond the end"),
    (429, "too many login attempts"),
    (500, "internal error of the node; see its log"),
    (503, "connections, disk space or time exhausted: retry later"),
)


def tables_of(settings: Settings) -> Mapping[str, StatementTable]:
    """Return the tables of the sections by name."""
    return {
        "uri_resources": resource_table(resources(uri.routes, TRANSACTIONS)),
        "studies_resources": resource_table(resources(studies.routes, TRANSACTIONS)),
        "web_media_types": _web_media_types(settings),
        "web_requests": _web_requests(settings),
        "http_statuses": table(("Status", "Meaning"), _HTTP),
    }


def resource_table(of_service: Iterable[CapabilityResource]) -> StatementTable:
    """Return the resources of one service, by their transactions."""
    rows = (
        (f"`{resource.path}`", resource.transaction.name, resource.transaction.section, ", ".join(_methods(resource)))
        for resource in of_service
    )
    return table(("Resources", "Transaction", "PS3.18", "Methods"), merged(rows))


def _methods(resource: CapabilityResource) -> Sequence[str]:
    """Return the methods of a resource; every one that can be read answers HEAD as well."""
    return (*resource.methods, "HEAD") if "GET" in resource.methods else resource.methods


def _by_name(settings: Settings) -> Mapping[str, list[Transaction]]:
    found: dict[str, list[Transaction]] = {}
    for resource in offered(settings):
        found.setdefault(resource.transaction.name, []).append(resource.transaction)
    return found


def _web_media_types(settings: Settings) -> StatementTable:
    rows = [
        (name, _media_types(one.consumes for one in several), _media_types(one.produces for one in several))
        for name, several in _by_name(settings).items()
    ]
    return table(("Transactions", "Request", "Response"), merged(rows))


def _media_types(of_transactions: Iterable[Iterable[str]]) -> str:
    """Return media types in their order; what is in a multipart message behind its type."""
    texts = []
    for multipart, several in groupby(dict.fromkeys(chain(*of_transactions)), lambda one: one.startswith(MULTIPART)):
        names = ", ".join(f"`{one.partition('type=')[2].strip(chr(34)) if multipart else one}`" for one in several)
        texts.append(f"{MULTIPART} of {names}" if multipart else names)
    return "; ".join(texts) or "none"


def _web_requests(settings: Settings) -> StatementTable:
    rows = [
        (name, _each_once(one.parameters for one in several), _each_once(one.headers for one in several))
        for name, several in _by_name(settings).items()
    ]
    return table(("Transactions", "Query Parameters", "Request Header Fields"), merged(rows))


def _each_once(texts: Iterable[Iterable[str]]) -> str:
    return ", ".join(dict.fromkeys(chain(*texts))) or "none"
