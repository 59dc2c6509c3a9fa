"""Which extensions are installed, and which of them a configuration leaves on (`node.hookspecs`); missing libraries.

This is the one place that names the extensions of the node, and only as text: nothing but the module of an extension is
imported here, and no module of the core imports any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, get_args

from node.errors import UsageError, meant
from node.hookspecs import Command, Extension, Kind, MenuEntry, ObjectKind, Place, Router, Service, Statement, Table

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from node.settings.section import SettingsSection
from importlib.util import find_spec

Settings = Any  # `node.settings.model.Settings`, which imports this module

BUILT_IN: tuple[Place, ...] = (
    "node.extensions.pages:EXTENSION",
    "node.extensions.administration:EXTENSION",
    "node.extensions.pynetdicom_acceptor:EXTENSION",
    "node.extensions.backup:EXTENSION",
    "node.extensions.object_store:EXTENSION",
    "node.extensions.postgresql:EXTENSION",
    "node.extensions.demo:EXTENSION",
    "node.extensions.opened_folder:EXTENSION",
    "node.extensions.conformance:EXTENSION",
    "node.extensions.ohif:EXTENSION",
    "node.extensions.peers:EXTENSION",
    "node.extensions.media:EXTENSION",
    "node.extensions.bids:EXTENSION",
    "node.extensions.channels:EXTENSION",
    "node.extensions.deidentify:EXTENSION",
    "node.extensions.derived:EXTENSION",
    "node.extensions.identity:EXTENSION",
    "node.extensions.labels:EXTENSION",
    "node.extensions.shares:EXTENSION",
    "node.extensions.projects:EXTENSION",
    "node.extensions.destinations:EXTENSION",
    "node.extensions.names:EXTENSION",
    "node.extensions.oidc:EXTENSION",
    "node.extensions.dicomweb:EXTENSION",
    "node.extensions.structure_sets:EXTENSION",
    "node.extensions.syslog:EXTENSION",
    "node.extensions.reports:EXTENSION",
    "node.extensions.results:EXTENSION",
    "node.extensions.spectroscopy:EXTENSION",
    "node.extensions.worklist:EXTENSION",
)

CORE: Mapping[str, str] = {
    "retrieve": 'leave "retrieve" out of `may` of the peers in [peers]',
    "commitment": 'leave "commit" out of `may` of the peers in [peers]',
}
"""What was an extension once, and what to do instead of switching it off."""

# The parts of the node's own extensions that the core, or another one of them, uses; some are modules.
ACCEPTOR = "node.extensions.pynetdicom_acceptor.acceptor:PynetdicomAcceptor"
HANDLERS = "node.extensions.pynetdicom_acceptor.handlers:handlers_of"
STORE = "node.extensions.object_store.kind"
INDEX_BACKEND = "node.extensions.postgresql.engine"
COPY_INDEX = "node.extensions.postgresql.copying:copy_index"
EXPORT = "node.extensions.projects.export:export"
MEMBERSHIP = "node.extensions.postgresql.membership:membership"
RESULTS = "node.extensions.results.intake:ResultIntake"
READ_RESULTS = "node.extensions.results.listed:JobViews"
TESTED_RESULTS = "node.extensions.results.rows:tested"
DEIDENTIFICATION = "node.extensions.deidentify.ways:configured"
DEIDENTIFICATIONS = "node.extensions.deidentify.ways:names_of"
SIGN_INS = "node.extensions.oidc.identity_provider:opened"
HAS_SIGN_INS = "node.extensions.oidc:is_used"
AUDIT_COPY = "node.extensions.syslog.collector:opened"
HAS_AUDIT_COPY = "node.extensions.syslog:is_used"
LABELS = "node.extensions.labels.marks"
DEIDENTIFIED_ZIP = "node.extensions.deidentify.downloads:deidentified_zip"
PAGES = "node.extensions.pages"
SHARES = "node.extensions.shares.rows"
ORDERED_PATIENTS = "node.extensions.worklist.scheduled_rows:follow_patients"
ORDERS = "node.extensions.worklist.orders:compare_with_orders"

CORE_VERBS = "echo", "store", "query", "retrieve", "commit"

Extra = Literal["cluster", "excel", "frames", "ocr", "oidc", "results", "s3", "webhooks"]

EXTRA_MODULES: Mapping[Extra, tuple[str, ...]] = {
    "cluster": ("psycopg",),
    "excel": ("openpyxl",),
    "frames": ("polars",),
    "ocr": ("rapidocr", "onnxruntime"),
    "oidc": ("authlib", "joserfc"),
    "results": ("highdicom",),
    "s3": ("obstore",),
    "webhooks": ("standardwebhooks",),
}
"""The modules of each extra that a feature checks before it begins."""

KindTable = Literal["hooks", "destinations"]
KIND_TABLES: tuple[KindTable, ...] = get_args(KindTable)
"""The sections whose tables have a ``kind`` (`node.hookspecs.Kind`)."""

GROUP = "voxelnode.extensions"
"""Entry points of other packages: each is an instance of `Extension`."""


def resolve(place: Place) -> Any:
    """Return the object at a place, or the module if it names no object; the module is imported.

    Raises UsageError with the entry point and the reason if another package has the place, and it cannot be loaded.
    """
    module, _, name = place.partition(":")
    try:
        return getattr(import_module(module), name) if name else import_module(module)
    except UsageError:
        raise
    except Exception as error:
        package = module.partition(".")[0]
        points = [called(point) for point in _entry_points() if point.module.partition(".")[0] == package]
        if not points:
            raise
        raise UsageError(f"{' or '.join(points)}: {place} cannot be loaded: {_reason(error)}") from error


def called(point: EntryPoint) -> str:
    """Return how messages name the extension of an entry point."""
    return f"the extension {point.name} ({point.value})"


def refused(extension: Extension, reason: str) -> UsageError:
    """Return the error that an extension cannot be used."""
    own = type(extension).__module__.partition(".")[0]
    points = [called(point) for point in _entry_points() if point.module.partition(".")[0] == own]
    return UsageError(f"{points[0] if len(points) == 1 else f'the extension {extension.name}'}: {reason}")


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"


@cache
def _entry_points() -> tuple[EntryPoint, ...]:
    from importlib.metadata import entry_points  # here: it is slow to import

    return tuple(sorted(entry_points(group=GROUP), key=lambda point: point.name))


@cache
def installed() -> tuple[Extension, ...]:
    """Return all extensions: those of the node, then those of other packages by name.

    Raises UsageError if one cannot be loaded, or two have the same name.
    """
    found: dict[str, Extension] = {}
    for place in BUILT_IN:
        extension: Extension = resolve(place)
        found[extension.name] = extension
    for point in _entry_points():
        try:
            extension = point.load()
        except Exception as error:
            raise UsageError(f"{called(point)} cannot be loaded: {_reason(error)}") from error
        if not isinstance(extension, Extension):
            raise UsageError(f"{called(point)} is not an instance of node.hookspecs.Extension")
        if mistake := next(mistakes_of(extension), None):
            raise UsageError(f"{called(point)}: {mistake}")
        if extension.name in found:
            raise UsageError(f"two extensions are called {extension.name}: uninstall the package of {point.value}")
        found[extension.name] = extension
    return tuple(found.values())


_RECORDS: Mapping[str, type] = {
    "commands": Command,
    "tables": Table,
    "routers": Router,
    "menu": MenuEntry,
    "services": Service,
    "asks": str,
    "destinations": Kind,
    "hooks": Kind,
    "objects": ObjectKind,
}
"""What the sequences of an `Extension` have in them."""

_VALUES: Mapping[str, type] = {
    "name": str,
    "actions": str,
    "index_tables": str,
    "templates": str,
    "statement": Statement,
}


def mistakes_of(extension: Extension) -> Iterator[str]:
    """Yield a line for each attribute that an extension should not have, or not so."""
    known = {*_RECORDS, *_VALUES, *(name for name in vars(Extension) if not name.startswith("_"))}
    own = dict.fromkeys(name for one in type(extension).__mro__[:-2] for name in vars(one))
    for name in [*own, *vars(extension)]:
        if not name.startswith("_") and name not in known and not hasattr(Extension, name):
            yield f"an extension has no {name}{meant(name, known)}; begin the names of its own attributes with _"
    for name, kind in _VALUES.items():
        if not isinstance(getattr(extension, name, None), kind):
            yield f"{name} is not a {kind.__name__}"
    for name, record in _RECORDS.items():
        values = getattr(extension, name)
        if not isinstance(values, tuple | list) or not all(isinstance(value, record) for value in values):
            yield f"{name} is not a tuple of {record.__name__}"
    for name in known - _RECORDS.keys() - _VALUES.keys():
        wanted = list(signature(getattr(Extension, name)).parameters)[1:]
        try:
            signature(getattr(extension, name)).bind(*wanted)
        except TypeError:
            yield f"{name} is not a method with the parameters ({', '.join(['self', *wanted])})"


@cache
def sections_of(table: KindTable) -> Mapping[str, type[SettingsSection]]:
    """Return the models of tables [hooks.NAME] or [destinations.NAME] by their kinds, also of extensions that are off.

    Raises UsageError if two extensions have one kind.
    """
    models: dict[str, type[SettingsSection]] = {}
    for extension in installed():
        for kind in getattr(extension, table):
            if kind.name in models:
                raise refused(extension, f'there is a kind "{kind.name}" of [{table}] already')
            models[kind.name] = section_at(extension, kind.section)
            field = models[kind.name].model_fields.get("kind")
            if field is None or get_args(field.annotation) != (kind.name,):
                raise refused(extension, f'{kind.section} has no key kind of Literal["{kind.name}"]')
    return models


def section_at(extension: Extension, place: Place) -> type[SettingsSection]:
    """Return the model of a section that an extension brings. Raises UsageError if it is none."""
    from node.settings.section import SettingsSection

    model = resolve(place)
    if not (isinstance(model, type) and issubclass(model, SettingsSection)):
        raise refused(extension, f"{place} is not a subclass of SettingsSection")
    return model


def opened_by(settings: Settings, table: KindTable, name: str) -> Any:
    """Return the object at the `place` of a kind of tables [hooks.NAME] or [destinations.NAME] (`node.hookspecs.Kind`).

    Raises UsageError if its extension is switched off.
    """
    for extension in enabled(settings):
        for kind in getattr(extension, table):
            if kind.name == name:
                return resolve(kind.place)
    raise _off(f'kind = "{name}"')


def verbs() -> tuple[str, ...]:
    """Return what peers may be allowed (``[peers.NAME] may``): what the core serves, then what extensions do."""
    of_extensions = (service.verb for extension in installed() for service in extension.services)
    return tuple(dict.fromkeys((*CORE_VERBS, *of_extensions)))


def _off(key: str) -> UsageError:
    return UsageError(f"{key} is of an extension that [extensions] disabled switches off: remove one of them")


def is_on(settings: Settings, place: Place) -> bool:
    """Return whether a configuration leaves on the extension of the node that a place is in."""
    return place.split(".")[2] not in settings.extensions.disabled


def part_of(settings: Settings, place: Place) -> Any:
    """Return the object at a place in an extension of the node; None if the extension is switched off."""
    return resolve(place) if is_on(settings, place) else None


def required(settings: Settings, place: Place, key: str) -> Any:
    """Return the object at a place that a key of the configuration needs.

    Raises UsageError if its extension is switched off.
    """
    if not is_on(settings, place):
        raise _off(key)
    return resolve(place)


def sign_ins_of(settings: Settings) -> Any:
    """Return the sign-ins by the identity provider of [web.oidc]; None: there is none.

    Raises UsageError if their extension is switched off, or a file that [web.oidc] names cannot be read.
    """
    if not has_sign_ins(settings):
        return None
    return required(settings, SIGN_INS, "[web.oidc] issuer")(settings)


def has_sign_ins(settings: Settings) -> bool:
    """Return whether [web.oidc] names an identity provider."""
    return bool(resolve(HAS_SIGN_INS)(settings))


def audit_copy_of(settings: Settings) -> Any:
    """Return where each line of the audit log is sent as well; None: nowhere.

    Raises UsageError if the extension for it is switched off, or [audit] syslog cannot be used.
    """
    if not resolve(HAS_AUDIT_COPY)(settings):
        return None
    return required(settings, AUDIT_COPY, "[audit] syslog")(settings)


def deidentifications_of(settings: Settings) -> list[str]:
    """Return the names of the tables [deidentify.NAME]; none if their extension is switched off."""
    names = part_of(settings, DEIDENTIFICATIONS)
    return names(settings) if names is not None else []


def shares() -> Any:
    """Return the module with the rows of links, which are good, and end, also while their extension is switched off."""
    return import_module(SHARES)


def store_kind(settings: Settings) -> Any:
    """Return the module of the object store that `[storage] url` names; None: there is none."""
    return resolve(STORE) if settings.storage.url is not None else None


def objects_of(extensions: Iterable[Extension]) -> tuple[ObjectKind, ...]:
    """Return the kinds of instances without pixels that become files."""
    return tuple(kind for extension in extensions for kind in extension.objects)


def enabled(settings: Settings) -> tuple[Extension, ...]:
    """Return the extensions that a configuration leaves on."""
    return tuple(extension for extension in installed() if extension.name not in settings.extensions.disabled)


def lacking(feature: str, extra: Extra) -> Iterator[str]:
    """Yield a sentence that says what to install, if a library of an extra is missing."""
    if any(find_spec(module) is None for module in EXTRA_MODULES[extra]):
        yield f"{feature} needs a library that is not installed: pip install 'voxelnode[{extra}]'"


def require_extra(feature: str, extra: Extra) -> None:
    """Raise UsageError, with what to install, if a library of an extra is missing."""
    for sentence in lacking(feature, extra):
        raise UsageError(sentence)
