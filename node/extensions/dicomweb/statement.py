"""The sections of the conformance statement, and their tables."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, groupby

from node.dicom.status import StatementTable, merged, table
from node.extensions.dicomweb import qido, rendered
from node.extensions.dicomweb.media_types import MULTIPART
from node.extensions.dicomweb.transactions import (
    TRANSACTIONS,
    CapabilityResource,
    Transaction,
    offered,
    resources,
    studies,
    uri,
)
from node.extensions.dicomweb.wado import REFUSED
from node.settings.model import Settings

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
