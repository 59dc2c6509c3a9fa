"""The Conformance Statement of one configuration: its tables are generated from the data that control the node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydicom.charset import python_encoding
from pydicom.uid import UID_dictionary  # type: ignore[attr-defined]  # what else pydicom offers does not list

from node.association.admission import PER_ADDRESS
from node.association.contexts import served
from node.association.framing import MAX_REQUEST_BYTES
from node.association.outgoing import MAXIMUM_PDU_BYTES
from node.association.transport import PDU_SECONDS, REQUEST_SECONDS
from node.audit.audit_log import AuditEvent
from node.dicom.keys import SUPPORTED, TIMEZONE, UNIQUE_KEYS, Level, key_of
from node.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.dicom.uids import (
    APPLICATION_CONTEXT,
    INSTANCE_AVAILABILITY_NOTIFICATION,
    SERVICES,
    STORAGE_COMMITMENT,
    STUDY_ROOT_GET,
    VERIFICATION,
    choose_transfer_syntax,
    is_accepted_transfer_syntax,
    is_storage_class,
    registered,
)
from node.errors import UsageError
from node.extensions.conformance.document import Table, as_json, as_markdown, table
from node.extensions.conformance.statuses import http_statuses, statuses
from node.extensions.dicomweb.capabilities import Resource, Transaction, offered
from node.extensions.peers.get import COMPRESSED
from node.receive.ingest import MAXIMUM_BYTES
from node.registry import enabled, resolve
from node.settings.model import AuditSettings, Dicom, Peer, Settings, Web
from node.tls import BCP_195_SUITES
from node.version import __version__
from node.volume.read.transfer_syntaxes import can_decode


@dataclass(frozen=True, slots=True)
class Registered:
    """A UID of PS3.6 Annex A."""

    uid: str
    name: str
    retired: bool


def _registered(kind: str) -> list[Registered]:
    return [
        Registered(uid, name, bool(retired))
        for uid, (name, type_, _, retired, _) in UID_dictionary.items()
        if type_ == kind
    ]


STORAGE_CLASSES = tuple(known for known in _registered("SOP Class") if is_storage_class(known.uid))
"""Accepted storage SOP classes of the standard; private and newer ones are accepted too."""

TRANSFER_SYNTAXES = tuple(known for known in _registered("Transfer Syntax") if is_accepted_transfer_syntax(known.uid))
"""Transfer syntaxes in which instances are accepted."""

UNCOMPRESSED = tuple(f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2", ".1.98", ".1.99"))
"""Native pixel data, or encapsulated but uncompressed pixel data (PS3.5 A.1 to A.5)."""


def accepted_contexts(services: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """Return every accepted abstract syntax, of storage and `services`, with its accepted transfer syntaxes."""
    syntaxes = [known.uid for known in _registered("Transfer Syntax")]
    abstract = [*services, *(known.uid for known in STORAGE_CLASSES)]
    return {uid: tuple(syntax for syntax in syntaxes if choose_transfer_syntax(uid, [syntax])) for uid in abstract}


def name_of(uid: str) -> str:
    """Return the name of a UID in PS3.6, without the mark of retired ones."""
    return SERVICES.get(uid) or registered(uid).name


def is_read(transfer_syntax_uid: str) -> bool:
    """Return whether pixels in this transfer syntax can be decoded; others are only stored and sent."""
    return transfer_syntax_uid in UNCOMPRESSED or can_decode(transfer_syntax_uid)


_STORAGE = "Storage SOP classes of section 1.1"
_NATIVE = "Explicit and Implicit VR Little Endian"

_MATCHING = {
    "UI": "list of UID",
    "SQ": "one item",
    "AS": "single value",
    "IS": "single value",
    "US": "single value",
    "DA": "single value, range; combined with its time",
    "TM": "single value, range",
    "PN": "single value, wild card, case-insensitive, by component group; fuzzy",
}
"""Matching by value representation (PS3.4 C.2.2.2); other representations are matched as `_MATCHING_OF_TEXT`."""

_MATCHING_OF_TEXT = "single value, wild card"


def values_of(settings: Settings) -> Mapping[str, str]:
    """Return the values of the placeholders of the template."""
    terms = sorted(term for term in python_encoding if term.startswith(("ISO_IR ", "ISO 2022 IR ", "GB")))
    return {
        "version": __version__,
        "ae_title": settings.dicom.ae_title,
        "configuration": "the default configuration" if settings == Settings() else "that of one site",
        "character_sets": ", ".join(f"`{term}`" for term in terms),
        "tls_suites": BCP_195_SUITES,
        "services": ", ".join(dict.fromkeys(("Verification", "Storage", *_services(settings).values()))),
    }


def _services(settings: Settings) -> Mapping[str, str]:
    """Return the service classes of the SOP classes that the node serves or asks for, but Verification and storage."""
    known = {*served(settings), *_asked(settings)}
    own = {
        uid: "Storage Commitment" if uid == STORAGE_COMMITMENT else "Query/Retrieve" for uid in SERVICES if uid in known
    }
    added = (service for extension in enabled(settings) for service in extension.services)
    return own | {service.sop_class_uid: service.service for service in added}


def tables_of(settings: Settings) -> Mapping[str, Table]:
    """Return the tables of the template by name."""
    return {
        "storage_classes": table(
            ("SOP Class", "SOP Class UID", "Retired"), [_row(registered) for registered in STORAGE_CLASSES]
        ),
        "transfer_syntaxes": table(
            ("Transfer Syntax", "Transfer Syntax UID", "Retired", "Read"),
            [(*_row(registered), _yes(is_read(registered.uid))) for registered in TRANSFER_SYNTAXES],
        ),
        "dimse_services": _dimse_services(settings),
        "web_services": _web_services(settings),
        "media_services": table(
            ("Service", "File-set Creator", "File-set Reader", "File-set Updater"),
            [("Any file-set, with or without a DICOMDIR", "No", "Yes", "No")],
        ),
        "mapping": _mapping(settings),
        "query_keys": table(
            ("Level", "Key", "VR", "Unique", "Matching"), [row for level in Level for row in query_keys(level)]
        ),
        "web_media_types": _web_media_types(settings),
        "web_parameters": _web_parameters(settings),
        "web_headers": _web_headers(settings),
        "dicom_keys": _keys("dicom", Dicom, settings.dicom),
        "peer_keys": _keys("peers.NAME", Peer, None),
        "web_keys": _keys("web", Web, settings.web),
        "audit_keys": _keys("audit", AuditSettings, settings.audit),
        "association": _association(settings.dicom),
        "proposed_contexts": _proposed_contexts(settings),
        "accepted_contexts": _accepted_contexts(settings),
        "statuses": statuses(),
        "http_statuses": http_statuses(),
        "ports": table(
            ("Port", "Service", "Parameter"),
            [
                (settings.dicom.port, "DIMSE, with or without TLS", "`[dicom] port`"),
                (settings.web.port, "HTTP or HTTPS", "`[web] port`"),
            ],
        ),
        "route_copies": _route_copies(settings),
        "audit_events": table(("Event ID (DCM)", "Event"), [event.value for event in AuditEvent]),
        **_of_extensions(settings),
    }


def _route_copies(settings: Settings) -> Table:
    """Return how the configuration changes copies: one row per attribute, encoding or way of de-identification."""
    rows: list[tuple[str, ...]] = []
    for name, route in settings.routes.items():
        if route.deidentify is not None:
            rows.append((name, "de-identify", "", f"[deidentify.{route.deidentify}]"))
        rows += [(name, "set", keyword, value) for keyword, value in route.set.items()]
        rows += [(name, "replace", keyword, value) for keyword, value in route.replace.items()]
        rows += [(name, "remove", keyword, "") for keyword in route.remove]
        if route.transfer_syntax != "keep":
            rows.append((name, "transfer syntax", "", route.transfer_syntax))
    return table(("Route", "Change", "Attribute", "Value"), rows or [("none", "", "", "")])


def _of_extensions(settings: Settings) -> Mapping[str, Table]:
    places = [extension.statement.tables for extension in enabled(settings) if extension.statement.tables]
    return {name: content for place in places for name, content in resolve(place)(settings).items()}


def _row(registered: Registered) -> tuple[str, str, str]:
    return registered.name, registered.uid, _yes(registered.retired)


def _yes(is_so: bool) -> str:
    return "Yes" if is_so else "No"


def _dimse_services(settings: Settings) -> Table:
    rows = [
        ("Verification", name_of(VERIFICATION), VERIFICATION, "Yes", "Yes"),
        ("Storage", _STORAGE, "", "Yes", "Yes"),
    ]
    rows += [
        (service, name_of(uid), uid, _yes(uid in _asked(settings)), _yes(uid in served(settings)))
        for uid, service in _services(settings).items()
    ]
    uid = INSTANCE_AVAILABILITY_NOTIFICATION
    rows.append(("Instance Availability Notification", name_of(uid), uid, _yes(uid in _asked(settings)), "No"))
    rows += [(service, "", "", "No", "No") for service in ("Unified Worklist and Procedure Step", "Print Management")]
    return table(("Service", "SOP Class", "SOP Class UID", "SCU", "SCP"), rows)


def _asked(settings: Settings) -> set[str]:
    """Return the SOP classes that the node uses as SCU, except storage."""
    return {STORAGE_COMMITMENT, *(uid for extension in enabled(settings) for uid in extension.asks)}


_USER_AGENT = {
    "URI Service (WADO-URI)": "No",
    "Studies Service: Retrieve (WADO-RS)": "No",
    "Studies Service: Store (STOW-RS)": "Yes, by routes",
    "Studies Service: Search (QIDO-RS)": "Yes, of what routes have sent",
}
"""Services of DICOMweb, and whether the node uses those of others; a router names what is before the colon."""


def _web_services(settings: Settings) -> Table:
    routers = [router for extension in enabled(settings) for router in extension.routers]
    served = [router.service for router in routers if router.service]
    rows = [(name, by_routes, _yes(name.partition(":")[0] in served)) for name, by_routes in _USER_AGENT.items()]
    known = {name.partition(":")[0] for name in _USER_AGENT}
    rows += [(service, "No", "Yes") for service in served if service not in known]
    others = ("Non-Patient Instance Service", "Storage Commitment Service")
    rows += [(service, "No", "No") for service in others if service not in served]
    return table(("Service", "User Agent", "Origin Server"), rows)


def resource_table(of_service: Iterable[Resource]) -> Table:
    """Return the resources of one service, by their paths."""
    return table(
        ("Methods", "Resource", "Transaction", "PS3.18", "Description"),
        [
            (
                ", ".join(_methods(resource)),
                f"`{resource.path}`",
                resource.transaction.name,
                resource.transaction.section,
                resource.purpose,
            )
            for resource in of_service
        ],
    )


def _methods(resource: Resource) -> Sequence[str]:
    """Return the methods of a resource; every one that can be read answers HEAD as well."""
    return (*resource.methods, "HEAD") if "GET" in resource.methods else resource.methods


def _transactions(settings: Settings) -> Mapping[str, list[Transaction]]:
    """Return the transactions by name, each once."""
    found: dict[str, list[Transaction]] = {}
    for resource in offered(settings):
        named = found.setdefault(resource.transaction.name, [])
        if resource.transaction not in named:
            named.append(resource.transaction)
    return found


def _web_media_types(settings: Settings) -> Table:
    rows = []
    for name, transactions in _transactions(settings).items():
        produced = dict.fromkeys(media_type for one in transactions for media_type in one.produces)
        consumed = dict.fromkeys(media_type for one in transactions for media_type in one.consumes)
        rows.append((name, ", ".join(f"`{media_type}`" for media_type in consumed) or "none", _listed(produced)))
    return table(("Transaction", "Request", "Response"), rows)


def _listed(media_types: Iterable[str]) -> str:
    """Return media types, the default one first."""
    return ", ".join(f"`{media_type}`" for media_type in media_types)


def _web_parameters(settings: Settings) -> Table:
    rows = []
    for name, transactions in _transactions(settings).items():
        parameters = {key: meaning for one in transactions for key, meaning in one.parameters.items()}
        rows += [(name, f"`{key}`", meaning) for key, meaning in parameters.items()]
    return table(("Transaction", "Query Parameter", "Meaning"), rows)


def _web_headers(settings: Settings) -> Table:
    rows = []
    for name, transactions in _transactions(settings).items():
        rows.append((name, ", ".join(dict.fromkeys(header for one in transactions for header in one.headers))))
    return table(("Transaction", "Request Header Fields"), rows)


def _mapping(settings: Settings) -> Table:
    services = ["Verification", "Storage", *map(name_of, _services(settings))]
    rows = [(service, f'"{settings.dicom.ae_title}"') for service in services]
    return table(("Service", "Application Entity"), [*rows, ("DICOM web services", "HTTP server")])


def query_keys(level: Level) -> Sequence[tuple[str, ...]]:
    """Return level, keyword, VR, whether it is unique, and matching of each key; those within sequences with `>`."""
    rows = []
    for keyword in SUPPORTED[level]:
        key = key_of(keyword, level)
        if key is None:
            continue
        matching = _MATCHING.get(key.vr, _MATCHING_OF_TEXT) if key.matched else "none; returned only"
        if keyword == TIMEZONE:
            matching += "; in C-FIND returned only"
        rows.append((level.name, keyword, key.vr, "unique" if keyword == UNIQUE_KEYS[level] else "", matching))
        rows += [
            (level.name, f"> {inner.keyword}", inner.vr, "", _MATCHING.get(inner.vr, _MATCHING_OF_TEXT))
            for inner in key.items
        ]
    return rows


def _keys(section: str, model: type[BaseModel], values: BaseModel | None) -> Table:
    return table(("Parameter", "Value", "Meaning"), list(_key_rows(section, model, values)))


def _key_rows(section: str, model: type[BaseModel], values: BaseModel | None) -> Iterator[tuple[str, ...]]:
    for key, field in model.model_fields.items():
        value = getattr(values, key) if values else _default(field)
        if isinstance(value, BaseModel):
            yield from _key_rows(f"{section}.{key}", type(value), value)
        else:
            yield f"`[{section}] {key}`", _value(value), field.description or ""


def _default(field: FieldInfo) -> object:
    return "required" if field.default is PydanticUndefined else field.default


def _value(value: object) -> str:
    if value in (None, (), ""):
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _association(dicom: Dicom) -> Table:
    of_address = max(PER_ADDRESS, dicom.maximum_associations // 4)
    rows = [
        ("Application Context Name", APPLICATION_CONTEXT),
        ("Implementation Class UID", IMPLEMENTATION_CLASS_UID),
        ("Implementation Version Name", IMPLEMENTATION_VERSION_NAME),
        ("Maximum Length Received, bytes", MAXIMUM_PDU_BYTES),
        ("Maximum number of associations as acceptor", dicom.maximum_associations),
        ("Maximum number of associations as acceptor, from one address", of_address),
        ("Asynchronous Operations Window", "1 invoked, 1 performed"),
        ("Maximum size of an A-ASSOCIATE-RQ, bytes", MAX_REQUEST_BYTES),
        ("Maximum size of the data set of a C-STORE request, bytes", MAXIMUM_BYTES),
        ("Timeout for a complete A-ASSOCIATE-RQ, s", f"{REQUEST_SECONDS:g}"),
        (
            "Timeout for a complete PDU, s",
            f"{PDU_SECONDS:g}, plus the time of its bytes at 1024 bytes per second",
        ),
        ("Timeout without a PDU until an association is aborted, s", f"{dicom.idle_seconds:g}"),
        ("Network", "TCP over IPv4 or IPv6"),
    ]
    return table(("Parameter", "Value"), rows)


def _proposed_contexts(settings: Settings) -> Table:
    asked = _asked(settings)
    notified = asked & {INSTANCE_AVAILABILITY_NOTIFICATION}
    compressed = ", ".join(map(name_of, COMPRESSED))
    retrieved = [(f"{_STORAGE}, for C-GET", "", f"{_NATIVE}; {compressed}", "SCP, by role selection")]
    rows = [
        (name_of(VERIFICATION), VERIFICATION, _NATIVE, "SCU"),
        (f"{_STORAGE}, of the instances to send", "", f"as stored; {_NATIVE}", "SCU"),
        *(retrieved if STUDY_ROOT_GET in asked else ()),
        *((name, uid, _NATIVE, "SCU") for uid, name in SERVICES.items() if uid in asked),
        *((name_of(uid), uid, _NATIVE, "SCU") for uid in notified),
        *((name, uid, _NATIVE, "SCP, for reports") for uid, name in SERVICES.items() if "Commitment" in name),
    ]
    return table(("Abstract Syntax", "UID", "Transfer Syntaxes", "Role"), rows)


def _accepted_contexts(settings: Settings) -> Table:
    verbs = served(settings)
    contexts = accepted_contexts(verbs)
    every = f"all {len(TRANSFER_SYNTAXES)} of section 1.1"
    rows: list[tuple[str, ...]] = [
        (name_of(uid), uid, "any" if uid == VERIFICATION else ", ".join(map(name_of, contexts[uid])), "SCP", verb)
        for uid, verb in verbs.items()
    ]
    rows += [
        (classes, "", every, "SCP; SCU for C-GET", "store; retrieve")
        for classes in (_STORAGE, "SOP classes that PS3.6 does not define")
    ]
    return table(("Abstract Syntax", "UID", "Transfer Syntaxes", "Role", "`may`"), rows)


def statement(settings: Settings) -> str:
    """Return the statement as Markdown."""
    return as_markdown(template_of(settings), values_of(settings), tables_of(settings))


def statement_for_programs(settings: Settings) -> dict[str, Any]:
    """Return the statement as JSON values; see `node.extensions.conformance.document.as_json`."""
    return as_json(template_of(settings), values_of(settings), tables_of(settings))


NOT_SUPPORTED = "Not supported.\n"
"""The text of a section that no extension has filled."""


def template_of(settings: Settings) -> str:
    """Return the template, with the sections of the extensions that are on."""
    text = (files("node.extensions.conformance") / "template.md").read_text(encoding="utf-8")
    for extension in enabled(settings):
        for title, place in extension.statement.sections.items():
            before, found, after = text.partition(f"# {title}\n\n{NOT_SUPPORTED}")
            if not found:
                raise UsageError(f"the extension {extension.name}: no section {title!r} of the statement is left to it")
            text = f"{before}# {title}\n\n{resolve(place)}{after}"
    return text
