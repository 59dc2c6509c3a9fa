"""Which extensions are installed, and which of them a configuration leaves on (`node.hookspecs`).

This is the one place that names the extensions of the node, and only as text: nothing but the module of an extension is
imported here, and no module of the core imports any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_args

from node.errors import UsageError
from node.hookspecs import Extension, ObjectKind, Place

if TYPE_CHECKING:
    from node.settings.section import SettingsSection

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
READ_RESULTS = "node.extensions.results.rows:ReadResults"
RESULTS_LEFT = "node.extensions.results.intake:results_left_in"
DEIDENTIFICATION = "node.extensions.deidentify.ways:configured"
DEIDENTIFICATIONS = "node.extensions.deidentify.ways:names_of"
SIGN_INS = "node.extensions.oidc.identity_provider:opened"
AUDIT_COPY = "node.extensions.syslog.collector:opened"
LABELS = "node.extensions.labels.shown"
PATIENT_ACTIONS = "node.extensions.identity.actions:actions"
DEIDENTIFIED_ZIP = "node.extensions.deidentify.downloads:deidentified_zip"
PAGES = "node.extensions.pages"
SHARES = "node.extensions.shares.rows"
ORDERS = "node.extensions.worklist.orders:compare_with_orders"

CORE_VERBS = "echo", "store", "query", "retrieve", "commit"

KindTable = Literal["hooks", "destinations"]
KIND_TABLES: tuple[KindTable, ...] = get_args(KindTable)
"""The sections whose tables have a ``kind`` (`node.hookspecs.Kind`)."""

GROUP = "voxelnode.extensions"
"""Entry points of other packages: each is an instance of `Extension`."""


def resolve(place: Place) -> Any:
    """Return the object at a place, or the module if it names no object; the module is imported."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name) if name else import_module(module)


@cache
def installed() -> tuple[Extension, ...]:
    """Return all extensions: those of the node, then those of other packages by name.

    Raises UsageError if one cannot be loaded, or two have the same name.
    """
    from importlib.metadata import entry_points  # here: the commands of the core do not need it

    found: dict[str, Extension] = {}
    for place in BUILT_IN:
        extension: Extension = resolve(place)
        found[extension.name] = extension
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            extension = point.load()
        except Exception as error:
            raise UsageError(f"the extension {point.name} ({point.value}) cannot be loaded: {error}") from error
        if not isinstance(extension, Extension):
            raise UsageError(
                f"the extension {point.name} ({point.value}) is not an instance of node.hookspecs.Extension"
            )
        if extension.name in found:
            raise UsageError(f"two extensions are called {extension.name}: uninstall the package of {point.value}")
        found[extension.name] = extension
    return tuple(found.values())


@cache
def sections_of(table: KindTable) -> Mapping[str, type[SettingsSection]]:
    """Return the models of tables [hooks.NAME] or [destinations.NAME] by their kinds, also of extensions that are off.

    Raises UsageError if two extensions have one kind.
    """
    models: dict[str, type[SettingsSection]] = {}
    for extension in installed():
        for kind in getattr(extension, table):
            if kind.name in models:
                raise UsageError(f'the extension {extension.name}: there is a kind "{kind.name}" of [{table}] already')
            models[kind.name] = resolve(kind.section)
    return models


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
    if not settings.web.oidc.issuer:
        return None
    return required(settings, SIGN_INS, "[web.oidc] issuer")(settings.web.oidc)


def audit_copy_of(settings: Settings) -> Any:
    """Return where each line of the audit log is sent as well; None: nowhere.

    Raises UsageError if the extension for it is switched off, or [audit] syslog cannot be used.
    """
    if not settings.audit.syslog:
        return None
    return required(settings, AUDIT_COPY, "[audit] syslog")(settings.audit)


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
