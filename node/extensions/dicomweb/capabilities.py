"""What each route of DICOMweb takes and gives, and the capabilities made of it (PS3.18 8.9, Annex H)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from node.extensions.dicomweb.documents import respond_document
from node.extensions.dicomweb.media_types import JSON, WADL, NotAcceptable, accepted, names
from node.extensions.dicomweb.resources import PREFIX, base_url, dicomweb_router
from node.registry import enabled, resolve
from node.settings.model import Settings
from node.web.access import MEMBERS, CurrentCall
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
