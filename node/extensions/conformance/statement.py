"""The Conformance Statement of one configuration: its tables are generated from the data that control the node."""

from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from pydicom.charset import python_encoding
from pydicom.uid import UID_dictionary  # type: ignore[attr-defined]  # what else pydicom offers does not list

from node.association.admission import PER_ADDRESS
from node.association.contexts import served
from node.association.framing import MAX_REQUEST_BYTES, MAXIMUM_PDU_BYTES
from node.association.transport import PDU_SECONDS, REQUEST_SECONDS
from node.audit.audit_log import AuditEvent
from node.dicom import status
from node.dicom.documents import DOCUMENT_VRS
from node.dicom.encoding import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, IMPLICIT_LITTLE_ENDIAN
from node.dicom.key_values import matching_of
from node.dicom.keys import DEFAULTS, SUPPORTED, TIMEZONE, UNIQUE_KEYS, Level, key_of
from node.dicom.matching import MAX_MATCHES
from node.dicom.seen import seen_as
from node.dicom.status import StatementTable, merged, parameters, status_table, table
from node.dicom.uids import (
    APPLICATION_CONTEXT,
    STORAGE_COMMITMENT,
    STUDY_ROOT_GET,
    USUAL_COMPRESSED,
    VERIFICATION,
    choose_transfer_syntax,
    is_accepted_transfer_syntax,
    is_storage_class,
    registered,
)
from node.errors import UsageError
from node.extensions.conformance.document import as_json, as_markdown, tables_in, with_section
from node.hookspecs import Extension
from node.receive.ingest import MAXIMUM_BYTES
from node.registry import enabled, refused, resolve
from node.runtime.tls import BCP_195_SUITES
from node.settings.core import Web
from node.settings.model import Settings
from node.settings.peers import Dicom, Peer
from node.version import PUBLIC
from node.volume.read.transfer_syntaxes import can_decode


def _registered(kind: str) -> list[str]:
    return [uid for uid, (_, type_, *_) in UID_dictionary.items() if type_ == kind]


STORAGE_CLASSES = tuple(filter(is_storage_class, _registered("SOP Class")))
"""Accepted storage SOP classes of the standard; private and newer ones are accepted too."""

TRANSFER_SYNTAXES = tuple(filter(is_accepted_transfer_syntax, _registered("Transfer Syntax")))
"""Transfer syntaxes in which instances are accepted."""

UNCOMPRESSED = tuple(f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2", ".1.98", ".1.99"))
"""Native pixel data, or encapsulated but uncompressed pixel data (PS3.5 A.1 to A.5)."""


def name_of(uid: str) -> str:
    """Return the name of a UID in PS3.6, without the mark of retired ones."""
    return "Storage Commitment Push Model" if uid == STORAGE_COMMITMENT else registered(uid).name


def is_read(transfer_syntax_uid: str) -> bool:
    """Return whether pixels in this transfer syntax can be decoded; others are only stored and sent."""
    return transfer_syntax_uid in UNCOMPRESSED or can_decode(transfer_syntax_uid)


_STORAGE = "Storage SOP classes of section 1.1"
_NATIVE = "Explicit and Implicit VR Little Endian"

_MATCHING_OF_ITEMS = "one item"
"""Matching of sequences (PS3.4 C.2.2.2.6)."""


WORDS: Mapping[str, str] = {
    **dict.fromkeys(("created_instances", "created_reports", "read_reports", "written_media", "queries"), ""),
    **dict.fromkeys(("single_sign_on", "audit_copies", "audit_collector"), ""),
    "creates_media": "No",
}
"""What stands in sentences of the template, if no extension has another value for it (`Statement.words`)."""


def values_of(settings: Settings) -> Mapping[str, str]:
    """Return the values of the placeholders of the template."""
    words = dict(WORDS)
    for extension in enabled(settings):
        if unknown := extension.statement.words.keys() - WORDS:
            raise _cannot(extension, f"the statement has no word {', '.join(sorted(unknown))}")
        words |= extension.statement.words
    return {
        **words,
        "version": PUBLIC,
        "ae_title": settings.dicom.ae_title,
        "configuration": "the default configuration" if settings == Settings() else "that of one site",
        "character_sets": "; ".join(_terms(prefix) for prefix in ("ISO_IR", "ISO 2022 IR")),
        "values_of_a_query": str(MAX_MATCHES),
        "tls_suites": BCP_195_SUITES,
    }


def _terms(prefix: str) -> str:
    """Return the Defined Terms of character sets that have a prefix and a number."""
    numbers = sorted(int(term.removeprefix(prefix)) for term in python_encoding if term.startswith(f"{prefix} "))
    return f"{prefix} {', '.join(map(str, numbers))}"


def tables_of(settings: Settings) -> Mapping[str, StatementTable]:
    """Return the tables of the statement by name, with the rows of the extensions that are on."""
    tables = _of_core(settings)
    for extension in enabled(settings):
        for name, added in _of_extension(extension, settings).items():
            known = tables.get(name, StatementTable(added.columns, ()))
            if known.columns != added.columns:
                raise _cannot(extension, f"its rows for the table {name} have other columns")
            tables[name] = StatementTable(known.columns, known.rows + added.rows)
    tables["statuses"] = in_order(tables["statuses"])
    return tables


def _of_core(settings: Settings) -> dict[str, StatementTable]:
    return {
        "storage_classes": table(
            ("SOP Class UID", "SOP Class", "Seen as"),
            [(uid, name, seen_as(uid)) for uid, name in _names(STORAGE_CLASSES)],
        ),
        "read_syntaxes": _named("Transfer Syntax", filter(is_read, TRANSFER_SYNTAXES)),
        "other_syntaxes": _named("Transfer Syntax", (uid for uid in TRANSFER_SYNTAXES if not is_read(uid))),
        "dimse_services": _dimse_services(settings),
        "web_services": _web_services(settings),
        "query_keys": table(
            ("Keys", "Level", "Matching"), merged(row for level in Level for row in _query_keys(level))
        ),
        "matching": table(
            ("Value Representations", "Matching"), merged((vr, _matching_of(vr)) for vr in sorted(DOCUMENT_VRS))
        ),
        "dicom_keys": _keys(Dicom, settings.dicom),
        "peer_keys": _keys(Peer, None),
        "web_keys": _keys(Web, settings.web),
        "association": _association(settings.dicom),
        "proposed_contexts": _proposed_contexts(settings),
        "accepted_contexts": _accepted_contexts(settings),
        "statuses": STATUSES,
        "ports": table(
            ("Port", "Service", "Parameter"),
            [
                (settings.dicom.port, "DIMSE, with or without TLS", "`[dicom] port`"),
                (settings.dicom.tls_port or "unset", "DIMSE with TLS alone", "`[dicom] tls_port`"),
                (settings.web.port, "HTTP or HTTPS", "`[web] port`"),
            ],
        ),
        "route_copies": _route_copies(settings),
        "audit_events": table(("Event ID (DCM)", "Event"), [event.value for event in AuditEvent]),
    }


def _of_extension(extension: Extension, settings: Settings) -> Mapping[str, StatementTable]:
    place = extension.statement.tables
    tables: Mapping[str, StatementTable] = resolve(place)(settings) if place else {}
    return tables


def _route_copies(settings: Settings) -> StatementTable:
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


def _named(kind: str, uids: Iterable[str]) -> StatementTable:
    return table((f"{kind} UID", kind), list(_names(uids)))


def _names(uids: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield UIDs with their names, which leave out what they all are, and say what is retired."""
    for uid in uids:
        yield uid, f"{name_of(uid).removesuffix(' Storage')}{' (Retired)' if registered(uid).is_retired else ''}"


def _dimse_services(settings: Settings) -> StatementTable:
    asked = _asked(settings)
    verbs: Mapping[str, str] = served(settings)
    rows = [(name_of(VERIFICATION), VERIFICATION, "SCU, SCP", verbs[VERIFICATION]), (_STORAGE, "", "SCU, SCP", "store")]
    for uid in dict.fromkeys((*list(verbs)[1:], *sorted(asked))):
        roles = [role for role, uids in (("SCU", asked), ("SCP", verbs)) if uid in uids]
        rows.append((name_of(uid), uid, ", ".join(roles), verbs.get(uid, "")))
    return table(("SOP Class", "SOP Class UID", "Role", "`may`"), rows)


def _asked(settings: Settings) -> set[str]:
    """Return the SOP classes that the node uses as SCU, except storage."""
    return {STORAGE_COMMITMENT, *(uid for extension in enabled(settings) for uid in extension.asks)}


_USER_AGENT = {
    "URI Service (WADO-URI)": "",
    "Studies Service: Retrieve (WADO-RS)": "",
    "Studies Service: Store (STOW-RS)": "Yes, by routes",
    "Studies Service: Search (QIDO-RS)": "Yes, of what routes have sent",
}
"""Services of DICOMweb, and how routes to DICOMweb servers use them; a router names what is before the colon."""


def _web_services(settings: Settings) -> StatementTable:
    routers = [router for extension in enabled(settings) for router in extension.routers]
    served = [router.service for router in routers if router.service]
    has_routes = any(kind.name == "dicomweb" for extension in enabled(settings) for kind in extension.destinations)
    rows = [
        (name, (has_routes and by_routes) or "No", "Yes" if name.partition(":")[0] in served else "No")
        for name, by_routes in _USER_AGENT.items()
    ]
    known = {name.partition(":")[0] for name in _USER_AGENT}
    rows += [(service, "No", "Yes") for service in served if service not in known]
    others = ("Non-Patient Instance Service", "Storage Commitment Service")
    rows += [(service, "No", "No") for service in others if service not in served]
    return table(("Service", "User Agent", "Origin Server"), rows)


def _query_keys(level: Level) -> Iterator[tuple[str, ...]]:
    """Yield key, level and matching; QIDO-RS returns keys with a mark by default."""
    for keyword in SUPPORTED[level]:
        key = key_of(keyword, level)
        if key is None:
            continue
        matching = _matching_of(key.vr) if key.matched else "returned only"
        if keyword == UNIQUE_KEYS[level]:
            matching += "; unique key"
        if keyword == TIMEZONE:
            matching += "; by C-FIND returned only"
        mark = "†" if keyword == UNIQUE_KEYS[level] or keyword in DEFAULTS[max(level, Level.STUDY)] else ""
        yield f"{keyword}{mark}", level.name, matching
        for inner in key.items:
            yield f"{keyword}.{inner.keyword}{mark}", level.name, _matching_of(inner.vr)


def _matching_of(vr: str) -> str:
    return _MATCHING_OF_ITEMS if vr == "SQ" else matching_of(vr)


def _keys(model: type[BaseModel], values: BaseModel | None) -> StatementTable:
    """Return keys and values of a section, but not those of the sections in it."""
    found = {
        key: getattr(values, key, "required" if field.default is PydanticUndefined else field.default)
        for key, field in model.model_fields.items()
    }
    return parameters((key, value) for key, value in found.items() if not isinstance(value, BaseModel))


def _association(dicom: Dicom) -> StatementTable:
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
        ("Timeout for a complete PDU, s", f"{PDU_SECONDS:g}, plus the time of its bytes at 1024 bytes per second"),
        ("Timeout without a PDU until an association is released, s", f"{dicom.idle_seconds:g}"),
        ("Network", "TCP over IPv4 or IPv6"),
    ]
    return table(("Parameter", "Value"), rows)


def _proposed_contexts(settings: Settings) -> StatementTable:
    retrieved = (f"{_STORAGE}, for C-GET", f"{_NATIVE}; {', '.join(USUAL_COMPRESSED)}", "SCP, by role selection")
    rows = [
        (name_of(VERIFICATION), name_of(IMPLICIT_LITTLE_ENDIAN), "SCU"),
        ("Others of section 1.2 with this role", _NATIVE, "SCU"),
        (f"{_STORAGE}, of the instances to send", f"as stored; {_NATIVE}", "SCU"),
        *([retrieved] if STUDY_ROOT_GET in _asked(settings) else ()),
        (name_of(STORAGE_COMMITMENT), _NATIVE, "SCP, for reports"),
    ]
    return table(("Abstract Syntaxes", "Transfer Syntaxes", "Role"), rows)


def _accepted_contexts(settings: Settings) -> StatementTable:
    known = _registered("Transfer Syntax")
    [others] = {
        tuple(one for one in known if choose_transfer_syntax(uid, [one]))
        for uid in served(settings)
        if uid != VERIFICATION
    }
    every = f"all {len(TRANSFER_SYNTAXES)} of section 1.1"
    rows = [
        (name_of(VERIFICATION), "any", "SCP"),
        ("Others of section 1.2 with this role", ", ".join(map(name_of, others)), "SCP"),
        (_STORAGE, every, "SCP; SCU for C-GET"),
        ("SOP classes that PS3.6 does not define", every, "SCP; SCU for C-GET"),
    ]
    return table(("Abstract Syntaxes", "Transfer Syntaxes", "Role"), rows)


def statement(settings: Settings) -> str:
    """Return the statement as Markdown."""
    return as_markdown(template_of(settings), values_of(settings), tables_of(settings))


def statement_for_programs(settings: Settings) -> dict[str, Any]:
    """Return the statement as JSON values; see `node.extensions.conformance.document.as_json`."""
    return as_json(template_of(settings), values_of(settings), tables_of(settings))


def template_of(settings: Settings) -> str:
    """Return the template, with the texts of the extensions that are on.

    Raises UsageError if an extension names a section, a word or a table that is not there.
    """
    text = (files("node.extensions.conformance") / "template.md").read_text(encoding="utf-8")
    tables = tables_of(settings)
    for extension in enabled(settings):
        for title, place in extension.statement.sections.items():
            added: str = resolve(place)
            if unknown := [name for name in tables_in(added) if name not in tables]:
                raise _cannot(extension, f"{place}: there is no table {', '.join(unknown)}")
            try:
                text = with_section(text, title, added.replace("$", "$$"))
            except KeyError as error:
                raise _cannot(
                    extension, f"the statement has {error.args[0]} sections {title!r}, and not one"
                ) from error
    return text


def _cannot(extension: Extension, reason: str) -> UsageError:
    return refused(extension, f"it cannot be in the conformance statement: {reason}")


_RETRIEVE = "C-MOVE, C-GET"
_FAILURE_REASON = "Failure Reason"

STATUSES = status_table(
    ("all but C-ECHO", status.SOP_CLASS_NOT_SUPPORTED, "the presentation context is that of another service"),
    ("C-ECHO", status.SUCCESS, "always"),
    (
        "C-STORE",
        status.SUCCESS,
        "the instance is durable where [journal] acknowledge says, or already stored with the same bytes",
    ),
    (
        "C-STORE",
        status.ANOTHER_VERSION_IS_CURRENT,
        'durable, but another version is current; only with [storage] conflict_answer = "warning"',
    ),
    ("C-STORE", status.DATA_SET_IS_CUT, "durable, but the data set has not all pixels that its header states"),
    (
        "C-STORE",
        status.OUT_OF_RESOURCES,
        "retry later: disk full, commit failed, data set too large, node stopping, or not durable in time",
    ),
    ("C-STORE", status.CLASS_MISMATCH, "request, presentation context and data set name different objects"),
    ("C-STORE", status.CANNOT_UNDERSTAND, "the data set is unreadable, lacks an identifying UID, or cannot be indexed"),
    ("C-STORE", status.NOT_AUTHORIZED, "the peer may not store"),
    ("C-FIND", status.PENDING, "one match"),
    ("C-FIND", status.PENDING_WITHOUT_KEYS, "one match; optional keys of the query were not matched"),
    ("C-FIND", status.SUCCESS, "all matches were returned"),
    ("C-FIND", status.CANCELLED, "the query was cancelled by C-CANCEL"),
    (
        "C-FIND",
        status.OUT_OF_RESOURCES,
        "too many matches or queries, search too long, index behind what was received, or node stopping",
    ),
    (
        "C-FIND",
        status.IDENTIFIER_MISMATCH,
        "the level, or a unique key above it, does not conform to the information model",
    ),
    ("C-FIND", status.UNABLE_TO_PROCESS, "a key cannot be interpreted; Offending Element (0000,0901) identifies it"),
    (_RETRIEVE, status.PENDING, "after each sub-operation, with the numbers of sub-operations"),
    (_RETRIEVE, status.SUCCESS, "all instances were sent, or none was selected"),
    (
        _RETRIEVE,
        status.SUB_OPERATIONS_WARNING,
        "some instances were not sent, or had a warning; failed ones are listed",
    ),
    (_RETRIEVE, status.SUB_OPERATIONS_FAILED, "no instance was sent; all are listed"),
    (_RETRIEVE, status.CANCELLED, "the retrieve was cancelled by C-CANCEL; unsent instances are listed"),
    (_RETRIEVE, status.CANNOT_CALCULATE_MATCHES, "more than 65535 instances, or the index is behind what was received"),
    (_RETRIEVE, status.OUT_OF_RESOURCES, "internal error of the node; see its log"),
    (_RETRIEVE, status.IDENTIFIER_MISMATCH, "the level, or a unique key, does not conform to the information model"),
    (_RETRIEVE, status.UNABLE_TO_PROCESS, "the identifier cannot be decoded"),
    ("C-MOVE", status.DESTINATION_UNKNOWN, "the destination is not a configured peer with a host"),
    ("N-ACTION", status.SUCCESS, "the request is recorded; its result will be reported"),
    ("N-ACTION", status.NO_SUCH_INSTANCE, "the Requested SOP Instance UID is not the well-known one"),
    ("N-ACTION", status.NO_SUCH_ACTION, "the Action Type ID is not 1"),
    ("N-ACTION", status.INVALID_ARGUMENT, "the Transaction UID or the references are missing"),
    ("N-ACTION", status.OUT_OF_RESOURCES, "internal error of the node; see its log"),
    (_FAILURE_REASON, status.NO_SUCH_INSTANCE, "the instance is not stored"),
    (_FAILURE_REASON, status.CLASS_INSTANCE_CONFLICT, "the instance is stored under another SOP class"),
    (
        _FAILURE_REASON,
        status.PROCESSING_FAILURE,
        "the file is damaged or missing, or the requestor sent another version than the current",
    ),
)
"""Service, status and meaning, as an SCP; extensions have those of their services."""


def in_order(statuses: StatementTable) -> StatementTable:
    """Return statuses with the reasons of failures last."""
    rows = sorted(statuses.rows, key=lambda row: row[0] == _FAILURE_REASON)
    return StatementTable(statuses.columns, tuple(rows))
