"""Which extensions are installed, and which of them a configuration leaves on (`node.hookspecs`).

This is the one place that names the extensions of the node, and only as text: nothing but the module of an extension is
imported here, and no module of the core imports any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from node.errors import UsageError
from node.hookspecs import (
    AuditCopy,
    DestinationKind,
    ErrorPage,
    Extension,
    IndexServer,
    Key,
    ObjectKind,
    OpenAcceptor,
    OpenAuditCopy,
    OpenChannel,
    OpenHandlers,
    OpenReceiver,
    OpenSignIns,
    Place,
    ResultsKind,
    SignIns,
    StoreKind,
    Ways,
)

if TYPE_CHECKING:
    from node.settings.model import Settings

BUILT_IN: tuple[Place, ...] = (
    "node.extensions.pages:EXTENSION",
    "node.extensions.administration:EXTENSION",
    "node.extensions.pynetdicom_acceptor:EXTENSION",
    "node.extensions.object_store:EXTENSION",
    "node.extensions.postgresql:EXTENSION",
    "node.extensions.demo:EXTENSION",
    "node.extensions.opened_folder:EXTENSION",
    "node.extensions.conformance:EXTENSION",
    "node.extensions.ohif:EXTENSION",
    "node.extensions.retrieve:EXTENSION",
    "node.extensions.peers:EXTENSION",
    "node.extensions.media:EXTENSION",
    "node.extensions.commitment:EXTENSION",
    "node.extensions.bids:EXTENSION",
    "node.extensions.channels:EXTENSION",
    "node.extensions.deidentify:EXTENSION",
    "node.extensions.derived:EXTENSION",
    "node.extensions.documents:EXTENSION",
    "node.extensions.identity:EXTENSION",
    "node.extensions.labels:EXTENSION",
    "node.extensions.shares:EXTENSION",
    "node.extensions.projects:EXTENSION",
    "node.extensions.destinations:EXTENSION",
    "node.extensions.names:EXTENSION",
    "node.extensions.oidc:EXTENSION",
    "node.extensions.passkeys:EXTENSION",
    "node.extensions.dicomweb:EXTENSION",
    "node.extensions.structure_sets:EXTENSION",
    "node.extensions.syslog:EXTENSION",
    "node.extensions.reports:EXTENSION",
    "node.extensions.results:EXTENSION",
    "node.extensions.spectroscopy:EXTENSION",
    "node.extensions.worklist:EXTENSION",
)

GROUP = "voxelnode.extensions"
"""Entry points of other packages: each is an instance of `Extension`."""


def resolve(place: Place) -> Any:
    """Return the object at a place; its module is imported."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


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


def destination_kind(settings: Settings, key: str) -> DestinationKind:
    """Return the kind of destination that a key of [destinations.NAME] stands for.

    Raises UsageError if its extension is switched off, as the two functions below do.
    """
    kind: DestinationKind = _of_key(settings, lambda extension: extension.destinations, key)
    return kind


def open_receiver(settings: Settings, key: str) -> OpenReceiver:
    """Return what opens the destinations of a key of [destinations.NAME] that take instances one by one."""
    found: OpenReceiver = _of_key(settings, lambda extension: extension.receivers, key)
    return found


def open_channel(settings: Settings, key: str) -> OpenChannel:
    """Return what opens the channels of a key of [hooks.NAME]."""
    found: OpenChannel = _of_key(settings, lambda extension: extension.channels, key)
    return found


def open_acceptor(settings: Settings) -> OpenAcceptor | None:
    """Return what opens the acceptor that [dicom] names; None: it is the node's own."""
    if settings.dicom.acceptor == "node":
        return None
    found: OpenAcceptor = _of_key(settings, lambda extension: extension.acceptors, settings.dicom.acceptor)
    return found


def event_handlers(settings: Settings) -> OpenHandlers:
    """Return what opens handlers for the events of pynetdicom. Raises UsageError if their extension is switched off."""
    for extension in enabled(settings):
        if extension.handlers:
            found: OpenHandlers = resolve(extension.handlers)
            return found
    raise _off("node.handlers")


def _of_key(settings: Settings, keys: Callable[[Extension], Iterable[Key]], name: str) -> Any:
    for extension in enabled(settings):
        for key in keys(extension):
            if key.key == name:
                return resolve(key.place)
    raise _off(name)


def _off(key: str) -> UsageError:
    return UsageError(f"{key} is of an extension that [extensions] disabled switches off: remove one of them")


def results_kind(settings: Settings) -> ResultsKind | None:
    """Return what becomes of the results of hooks; None: nothing, since the extension is switched off."""
    for extension in enabled(settings):
        if extension.results:
            kind: ResultsKind = resolve(extension.results)
            return kind
    return None


def sign_ins_of(settings: Settings) -> SignIns | None:
    """Return the sign-ins by the identity provider of [web.oidc]; None: there is none.

    Raises UsageError if their extension is switched off, or a file that [web.oidc] names cannot be read.
    """
    if not settings.web.oidc.issuer:
        return None
    for extension in enabled(settings):
        if extension.sign_ins:
            open_sign_ins: OpenSignIns = resolve(extension.sign_ins)
            return open_sign_ins(settings.web.oidc)
    raise _off("[web.oidc] issuer")


def audit_copy_of(settings: Settings) -> AuditCopy | None:
    """Return where each line of the audit log is sent as well; None: nowhere.

    Raises UsageError if the extension for it is switched off, or [audit] syslog cannot be used.
    """
    if not settings.audit.syslog:
        return None
    for extension in enabled(settings):
        if extension.audit_copy:
            open_audit_copy: OpenAuditCopy = resolve(extension.audit_copy)
            return open_audit_copy(settings.audit)
    raise _off("[audit] syslog")


def error_page_of(settings: Settings) -> ErrorPage | None:
    """Return the page that tells people of an error; None: there are no pages."""
    for extension in enabled(settings):
        if extension.error_page:
            error_page: ErrorPage = resolve(extension.error_page)
            return error_page
    return None


def ways_of(settings: Settings) -> Ways | None:
    """Return how copies lose what identifies people; None: the extension is switched off."""
    for extension in enabled(settings):
        if extension.ways:
            ways: Ways = resolve(extension.ways)
            return ways
    return None


def store_kind(settings: Settings) -> StoreKind | None:
    """Return what `[storage] url` stands for; None: there is none."""
    if settings.storage.url is None:
        return None
    kind: StoreKind = resolve(next(extension.store for extension in enabled(settings) if extension.store))
    return kind


def index_server() -> IndexServer:
    """Return the servers that can have an index; a configuration that switches them off has no URL of one."""
    return next(extension.server for extension in installed() if extension.server is not None)


def objects_of(extensions: Iterable[Extension]) -> tuple[ObjectKind, ...]:
    """Return the kinds of instances without pixels that become files."""
    return tuple(kind for extension in extensions for kind in extension.objects)


def enabled(settings: Settings) -> tuple[Extension, ...]:
    """Return the extensions that a configuration leaves on."""
    return tuple(extension for extension in installed() if extension.name not in settings.extensions.disabled)
