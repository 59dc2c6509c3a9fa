"""Everything that an extension can add to the node: the one page of hook specifications (docs/extensions.md).

An extension is an instance of a subclass of `Extension`. Its attributes say what it adds, by name: a `Place` such as
``"voxelnode_hello.commands:hello"`` is imported when it is needed, so nothing loads what it does not use. The module of
the instance itself is imported at every start, and should import nothing but this page.

The node finds its own extensions by `node.registry.BUILT_IN`, and those of other packages by entry points in the group
``voxelnode.extensions``. ``[extensions] disabled`` switches an extension off: its table of the configuration stays
known, but nothing of it runs, is served, or stands in the conformance statement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom.dataset import Dataset

    from node.archive.filesystem import Archive
    from node.association.operation import Operation
    from node.audit.audit_log import Audit
    from node.background import BackgroundService, SupervisedThread
    from node.children.decoder import Decoder
    from node.completeness import Evidence
    from node.conversion.datasets import SeriesFiles
    from node.conversion.job import ReferencedSeries
    from node.index.database.index import Index
    from node.index.nouns.converted import ConvertedFile, SeriesKey
    from node.index.nouns.records import Refused
    from node.index.work.messages import LedgerEvent
    from node.metrics import Metrics
    from node.notify.channel import Channel
    from node.receive.ingest import Ingest
    from node.routing.destination import Destination as Receiver
    from node.routing.held import HeldWorker
    from node.selector import Selector
    from node.settings.model import Destination, Route, Settings, Verb
    from node.volume.model import Volume
    from node.volume.reasons import Exclusion, Refusal
    from node.writers.options import WriteOptions

Place = str
"""Where an object is, as ``package.module:name``."""

Panel = Literal["Run", "Convert", "Exchange", "Look", "Maintain"]
"""A title of ``voxelnode --help``."""


@dataclass(frozen=True, slots=True)
class Command:
    """``voxelnode NAME``: a function with the parameters of a Typer command, or a ``typer.Typer`` with subcommands.

    Attributes
    ----------
    name : str
        ``GROUP NAME`` is a command of one that has commands.
    examples : tuple of str
        Whole command lines, which end the help of the command.
    before : str
        Command before which it is listed; empty: last.
    """

    name: str
    panel: Panel
    place: Place
    examples: tuple[str, ...] = ()
    before: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """``[NAME]`` of the configuration, or ``[NAME.ANY]`` if `is_named`: a subclass of `SettingsSection`.

    The extension reads it by `Settings.table` (or `Settings.tables`).
    """

    name: str
    place: Place
    is_named: bool = False


@dataclass(frozen=True, slots=True)
class Router:
    """Routes of an ``APIRouter``: of REST (in the OpenAPI document), of DICOMweb, or of pages.

    Two extensions may have one, which is served once.

    Attributes
    ----------
    service : str
        Of DICOMweb: the name of the service, for the conformance statement.
    transactions : Place
        Of DICOMweb: a mapping of its functions to their `Transaction`, for the capabilities; empty: it is not in them.
    """

    kind: Literal["rest", "dicomweb", "pages"]
    place: Place
    service: str = ""
    transactions: Place = ""


@dataclass(frozen=True, slots=True)
class MenuEntry:
    """A page in the menu.

    Attributes
    ----------
    before : str
        Path of the page before which it stands; empty: last.
    key : str
        Letter that opens the page behind ``g``; empty: none.
    badge : str
        Name of a number beside the label: `badge_counts` in `node/extensions/pages/rendering.py`.
    is_used : str
        Place of a function that is called with the services of the node and the index, and returns whether the page has
        something to show; empty: always.
    for_members : bool
        Whether accounts see it that see their projects only.
    """

    path: str
    label: str
    before: str = ""
    key: str = ""
    badge: str = ""
    is_used: Place = ""
    for_members: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """A SOP class of PS3.6 for which the node is an SCP, beside its own.

    Attributes
    ----------
    verb : Verb
        What a peer needs in its `may`.
    """

    sop_class_uid: str
    verb: Verb


class Found(NamedTuple):
    """Whether all keys of a C-FIND are supported, and the data sets that answer it."""

    is_supported: bool
    answers: Iterator[Dataset]


Find = Callable[["Dataset", int, Callable[[], bool]], Found]
"""Answers a C-FIND: takes the identifier, the largest number of answers, and a function that says whether to stop. It
may raise what `node.index.search.finder` raises."""

Operate = Callable[["Operation"], None]
"""Serves another request, on the thread of the association: it sends the response."""

Respond = Callable[["Operation"], Iterator[Any]]
"""Yields what a handler of pynetdicom for a C-MOVE or C-GET yields."""


class Listening(Protocol):
    """Something that peers send to, beside DICOM and HTTP."""

    thread: SupervisedThread

    def start(self) -> None:
        """Bind, accept, and log the port."""

    def stop(self) -> None:
        """Accept nothing more, and end what is under way."""


@dataclass(frozen=True, slots=True)
class Running:
    """What an extension runs in a node that receives.

    Attributes
    ----------
    services : sequence of BackgroundService
        Started before the node is ready, and stopped after it accepts no associations any more.
    listeners : mapping of str to Listening
        By the names under which the node logs and watches them.
    finds : mapping of SOP Class UID to Find
        What C-FIND answers on the presentation contexts of a `Service`.
    operations : mapping of (command field, SOP Class UID) to Operate
        What serves other requests there.
    responses : mapping of (command field, SOP Class UID) to Respond
        The same for retrieves behind an acceptor of pynetdicom: what its handlers yield.
    """

    services: Sequence[BackgroundService] = ()
    listeners: Mapping[str, Listening] = field(default_factory=dict)
    finds: Mapping[str, Find] = field(default_factory=dict)
    operations: Mapping[tuple[int, str], Operate] = field(default_factory=dict)
    responses: Mapping[tuple[int, str], Respond] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a node that an extension may use.

    `ingest` has the archive, the index and the clock. `on_refusal` lets people hear of what was refused, and must not
    block.
    """

    settings: Settings
    ingest: Ingest
    metrics: Metrics
    decoder: Decoder
    on_refusal: Callable[[Refused], None]
    audit: Audit | None = None


Action = Callable[..., Mapping[str, Any]]
"""Changes what people decide about, or asks for it; its arguments and what it returns are JSON values."""


@dataclass(frozen=True, slots=True)
class OpenedRoot:
    """The parts of an opened root, which a node has, and a command where none runs."""

    settings: Settings
    ingest: Ingest
    audit: Audit


@dataclass(frozen=True, slots=True)
class Key:
    """A key of [destinations.NAME] or [hooks.NAME] that says what there is, and the place of what it stands for."""

    key: str
    place: Place


OpenReceiver = Callable[["Destination", bool], "Receiver"]
"""Opens a destination that takes instances one by one, such as a folder or a server. It takes a table
[destinations.NAME], and whether its route wants proof of what was taken; it returns what sends there, or raises
`UsageError` if a file that the table names cannot be used."""


@dataclass(frozen=True, slots=True)
class RouteParts:
    """What the worker of one destination of a route is given.

    Attributes
    ----------
    route_name : str
        Empty for what people send by hand.
    destination : str
        Name in [peers] or [destinations].
    selector : Selector or None
        What the route sends; None: all.
    """

    settings: Settings
    route_name: str
    route: Route
    destination: str
    selector: Selector | None
    archive: Archive
    index: Index
    metrics: Metrics
    audit: Audit


OpenChannel = Callable[["Settings", str], "Channel"]
"""Opens what delivers the messages of a hook. It takes the name of the hook; it raises `UsageError` if the hook
cannot be used."""


class DestinationKind(Protocol):
    """Destinations of routes that do not take instances one by one, such as folders that follow the node.

    `[destinations.NAME]` has a key for each kind; the keys are those of the core (`Destination`).
    """

    def check(self, destination: Destination) -> None:
        """Raise `UsageError` if a destination cannot be used."""

    def events(self, route: Route) -> Collection[LedgerEvent]:
        """Return the events that such a destination of a route has messages about."""

    def worker(self, parts: RouteParts) -> HeldWorker:
        """Return the service that does what the messages to a destination of a route ask for."""


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """Instances that become files of their own, such as spectra.

    Attributes
    ----------
    sop_classes : frozenset of str
        SOP Class UIDs of all instances that may be of this kind; one that ends with a dot stands for all below it.
    place : Place
        A function without parameters that returns the `Objects` of one series, in the child process of a conversion.
    """

    sop_classes: frozenset[str]
    place: Place

    def may_be(self, sop_class_uid: str) -> bool:
        """Return whether instances of a SOP class may be of this kind."""
        return sop_class_uid in self.sop_classes or any(
            root.endswith(".") and sop_class_uid.startswith(root) for root in self.sop_classes
        )


@dataclass(frozen=True, slots=True)
class Output:
    """Where and how the files of a series are written.

    Attributes
    ----------
    stack : int
        Number of the first of these files; each further output has the next number.
    name : str
        What the names of all files begin with; empty: as in a node, without a name.
    fields : mapping
        What every sidecar of the series has.
    """

    folder: Path
    stack: int
    name: str
    fields: Mapping[str, Any]
    options: WriteOptions


class FileSource(NamedTuple):
    """An instance of which a file has frames: the number of its stack, its SOP Instance UID, how many frames."""

    stack: int
    sop_instance_uid: str
    frames: int


class WrittenObjects(NamedTuple):
    """Files that were written, and all their sources."""

    files: Sequence[ConvertedFile]
    sources: Sequence[FileSource]


class Objects:
    """The instances of one kind in a series. Each that was taken is in a file, in an exclusion or in a refusal.

    Define only what the kind has: files that it writes itself, or volumes that are written as those of images are.
    """

    def __init__(self) -> None:
        self.exclusions: list[Exclusion] = []
        self.refusals: list[Refusal] = []

    def take(self, ds: Dataset) -> bool:
        """Return whether an instance is of this kind, and keep what its file needs; nothing else reads it then.

        Raises
        ------
        ConversionRefused
            It is of this kind, but cannot be used: it is excluded for this reason.
        """
        raise NotImplementedError

    @property
    def references(self) -> Collection[SeriesKey]:
        """The other series that are needed, after all instances were read."""
        return ()

    def read_referenced(self, series: ReferencedSeries, files: SeriesFiles) -> None:
        """Keep what is needed of one of them; `files` are its data sets, none if it is not here."""

    def evidence(self) -> Sequence[Evidence]:
        """Return what speaks against completeness, after all instances were read."""
        return ()

    def volumes(self, stack: int) -> Iterator[Volume]:
        """Yield volumes one by one; `stack` is the number of the first stack, each further one has the next."""
        return iter(())

    def write(self, output: Output) -> WrittenObjects:
        """Write the other files."""
        return WrittenObjects((), ())


@dataclass(frozen=True, slots=True)
class Statement:
    """Lines of the conformance statement.

    Attributes
    ----------
    sections : mapping of str to Place
        By the title of a section of `node/extensions/conformance/template.md` that says "Not supported.": the text that
        takes its place.
    tables : Place
        A function of the settings that returns the tables of these texts by name; empty: there are none.
    """

    sections: Mapping[str, Place]
    tables: Place = ""


class Port(NamedTuple):
    """The key of a port in the configuration, and the host and number that it has."""

    key: str
    host: str
    number: int


class Extension:
    """An extension. Everything has a default: define only what it adds."""

    name: str
    """In ``[extensions] disabled``, and in messages."""

    commands: Sequence[Command] = ()
    tables: Sequence[Table] = ()
    routers: Sequence[Router] = ()
    actions: Place = ""
    """A function that takes an `OpenedRoot`, and returns what commands and pages do on it, by names that are free
    (`node.control.actions`)."""
    menu: Sequence[MenuEntry] = ()
    services: Sequence[Service] = ()
    asks: Sequence[str] = ()
    """UIDs of the SOP classes that the node uses as SCU, for the conformance statement."""
    destinations: Sequence[Key] = ()
    """Keys of [destinations.NAME] that stand for a `DestinationKind`."""
    receivers: Sequence[Key] = ()
    """Keys of [destinations.NAME] that stand for an `OpenReceiver`."""
    channels: Sequence[Key] = ()
    """Keys of [hooks.NAME], each of which stands for an `OpenChannel`."""
    objects: Sequence[ObjectKind] = ()
    statement: Statement = Statement({})
    index_tables: Place = ""
    """An `IndexTables` of `node.index.engine.extension_tables`: its own tables in the index."""
    templates: str = ""
    """The package whose folder ``templates`` has the Jinja2 templates of its pages."""

    def mistakes(self, settings: Settings) -> Iterator[str]:
        """Yield a line for each rule between tables that a configuration breaks."""
        return iter(())

    def checks(self, settings: Settings) -> Iterator[Callable[[], Any]]:
        """Yield what `config check` does with the tables beyond their rules; each raises `UsageError`, or returns."""
        return iter(())

    def warnings(self, settings: Settings) -> Iterator[str]:
        """Yield what a start accepts of the tables, and is probably not meant: `config check` lists it."""
        return iter(())

    def ports(self, settings: Settings) -> Iterator[Port]:
        """Yield the port of each listener, which no other listener may have."""
        return iter(())

    def run(self, node: Parts) -> Running:
        """Return what runs in a node that receives; nothing of it has been started."""
        return Running()
